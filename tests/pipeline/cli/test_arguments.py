"""Lists in any form on the command line and in the file, and what is said where it cannot be read."""

from typing import get_args

import pytest

from pipeline.cli import COMMANDS
from pipeline.cli.app import app, main, options_from
from pipeline.cli.arguments import OTHER_COMMANDS, with_lists
from stages.config.version_1 import COMMAND_NAMES


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("train --seeds 0,1,2 --head a, b", "train --seeds 0 1 2 --head a b"),
        ("train --seeds=0,1 --data x,y", "train --seeds=0 1 --data x,y"),
        ("train --intensity-range=-1024,3071 --cut=a", "train --intensity-range=-1024,3071 --cut=a"),
        ("run --cut layer3 layer4 --unfreeze layer2,", "run --cut layer3,layer4 --unfreeze layer2,"),
        ("run --c-values 1e-3,-1 2 --out r", "run --c-values 1e-3 -1 2 --out r"),
        ("list-cuts resnet18 --unfreeze layer2 layer4", "list-cuts resnet18 --unfreeze layer2,layer4"),
        ("list-cuts --unfreeze layer4 resnet18", "list-cuts --unfreeze layer4 resnet18"),
        ("list-cuts --unfreeze layer3 layer4 resnet18", "list-cuts --unfreeze layer3,layer4 resnet18"),
        ("list-cuts --invert-unfreeze resnet18 --taps a b", "list-cuts --invert-unfreeze resnet18 --taps a,b"),
        ("list-cuts --image-size 64 resnet18 --taps a b", "list-cuts --image-size 64 resnet18 --taps a,b"),
        ("list-cuts --image-size 64 --taps a b resnet18", "list-cuts --image-size 64 --taps a,b resnet18"),
        ("predict runs/a a,b.jpg --out p.csv", "predict runs/a a,b.jpg --out p.csv"),
        ("run --cut", "run --cut"),
    ],
)
def test_lists_are_read_with_commas_and_with_spaces(typed, read):
    assert with_lists(typed.split()) == read.split()


def test_a_name_with_a_space_in_it_stays_one():
    assert with_lists(["train", "--folders", "hold out=test,dev=val", "--seeds", "0 1"]) == [
        *("train", "--folders", "hold out=test", "dev=val", "--seeds", "0", "1"),
    ]


def test_the_file_takes_lists_in_every_form_too(tmp_path):
    (tmp_path / "run.toml").write_text('seeds = "0,1"\nhead = "ridge"\ncut = ["layer3", "layer4"]\nversion = 3\n')
    app.config = (options_from(tmp_path / "run.toml"),)
    try:
        _, bound, _ = app.parse_args(["train", "--data", "photos", "--out", "here"])
    finally:
        app.config = ()
    assert bound.arguments["data"].seeds == (0, 1)
    assert bound.arguments["head"].head == ("ridge",)
    assert bound.arguments["features"].cut == "layer3,layer4"


def _whole_options():
    """Yield (command, option, what else it needs) for all options whose value is a whole number, or may be one."""
    for command in COMMANDS:
        arguments = app[command].assemble_argument_collection()
        needed = [argument.name for argument in arguments if argument.required and argument.name != "*"]
        others = [word for name in needed for word in ([name, "x"] if name.startswith("--") else ["x"])]
        for argument in arguments:
            if int in (argument.hint, *get_args(argument.hint)):
                yield command, argument.name, others


def test_every_option_that_is_a_whole_number_refuses_a_fraction(capsys):
    """cyclopts rounds it: 1.5 trials were 2, and half a seed was seed 0."""
    options = list(_whole_options())
    known = {(command, option) for command, option, _ in options}
    assert {("best", "--trials"), ("train", "--seeds"), ("run", "--image-size"), ("zoo", "--rows")} <= known
    for command, option, others in options:
        assert main([command, *others, option, "1.5"]) == 2
        assert f"error: {option} 1.5 must be a whole number" in capsys.readouterr().err, command


def test_the_file_refuses_a_fraction_too_and_takes_a_whole_number_however_it_is_written(tmp_path, capsys):
    (tmp_path / "run.toml").write_text("epochs = 2.5\nversion = 3\n")
    assert main(["run", "--config", str(tmp_path / "run.toml"), "--data", "photos", "--out", "here"]) == 2
    assert "--epochs 2.5 must be a whole number" in capsys.readouterr().err
    _, bound, _ = app.parse_args(["train", "--data", "photos", "--out", "here", "--seeds", "2.0", "0x10"])
    assert bound.arguments["data"].seeds == (2, 16)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("fit", "Unknown command: fit. Did you mean train? There are run, best, zoo, list-cuts, "),
        ("compair", "Did you mean compare?"),
        ("qqq", "Unknown command: qqq. There are run, best, zoo, list-cuts"),
    ],
)
def test_a_command_that_there_is_not_leads_to_one_that_is_meant(typed, said, capsys):
    with pytest.raises(SystemExit):
        main([typed])
    printed = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert (said in printed, printed.count("Unknown option") <= 1) == (True, True)
    assert set(OTHER_COMMANDS.values()) <= set(COMMANDS)
    assert not set(OTHER_COMMANDS) & {*COMMANDS, *COMMAND_NAMES}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--lr", "0.1"], "Unknown option: --lr. Did you mean --fit-lr?"),
        (["finetune", "--learning-rate=1"], "Did you mean --lr or --head-lr or --fit-lr or --baseline-lr?"),
        (["extract", "--model", "resnet18"], "Did you mean --backbone?"),
        (["extract", "--frobnicate"], "--help-all lists those that there are."),
        (
            ["finetune", "--batch-size", "8"],
            "called --extract-batch-size, --fit-batch-size or --finetune-batch-size now",
        ),
        (["finetune", "--dropout", "0.1"], "--dropout is called --fit-dropout or --finetune-dropout now"),
        (["extract", "--workers", "8"], "--workers is called --decode-threads now"),
    ],
)
def test_an_option_that_there_is_not_leads_to_one_that_is_meant(arguments, said, capsys):
    try:
        code = main([*arguments, "--data", "photos", "--out", "run"])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("run --data photos", "run needs --out: see `cutonce run --help`."),
        ("train --lr 0.1", "train needs --data: see `cutonce train --help`."),
        ("cache show", "cache show needs FINGERPRINT: see `cutonce cache show --help`."),
        ("run --data photos --out", "--out needs a value: `cutonce run --help` says which."),
        ("run --data --out runs/a", "--data needs a value"),
        ("run --dat photos --out runs/a", "Did you mean --data instead of --dat?"),
        (
            "run --data my photos --out runs/a",
            "Not understood: photos. Names with blanks need quotes, and options begin with --.",
        ),
    ],
)
def test_what_is_missing_or_too_much_is_said_as_such(typed, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(typed.split())
    assert stopped.value.code == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
