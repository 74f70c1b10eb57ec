import json
import shlex

import pytest

from pipeline.cli import COMMANDS
from pipeline.cli.app import app
from pipeline.cli.arguments import with_lists
from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.one_line import chosen_method
from pipeline.report.what_next import next_commands
from pipeline.run_layout import MEMBERS
from tests.pipeline.report.pages import three_methods


def parsed(command):
    """What the command line makes of a command, which is not run: its function's name and its arguments."""
    program, *tokens = shlex.split(command)
    assert program == "cutonce"
    if "--config" in tokens:  # is read before the command is
        place = tokens.index("--config")
        del tokens[place : place + 2]
    function, bound, _ = app.parse_args(with_lists(tokens), exit_on_error=False, print_error=False)
    return function.__name__, bound.arguments


@pytest.fixture
def commands(tmp_path):
    run = three_methods(tmp_path / "a run of 'mine'")
    (run / "config.toml").touch()
    comparison = compare_runs([run])
    return comparison, [command for _, command in next_commands(comparison, run, {"data": "my photos; ls"})]


def test_every_command_is_one_that_the_command_line_takes(commands):
    names = [parsed(command)[0] for command in commands[1]]
    assert names == ["predict", "evaluate", "export", "inspect", "learning_curve"]
    assert {name.replace("_", "-") for name in names} <= set(COMMANDS)


def test_they_are_about_the_run_and_the_method_to_take_whatever_these_are_called(commands):
    comparison, (predict, evaluate, export, inspect, curve) = commands
    folder = chosen_method(comparison).results[0].directory
    for command in (predict, evaluate, export):
        name, arguments = parsed(command)
        assert arguments["run"] == folder.parent.parent, name
        assert folder.name in str(arguments["method"])
    assert str(parsed(export)[1]["out"]) == f"{folder.name}.onnx"
    for command in (inspect, curve):
        assert parsed(command)[1]["data"].data == "my photos; ls"


def test_a_search_can_be_made_again(commands):
    comparison, before = commands
    run = comparison.runs[0]
    (run / "best.json").write_text(json.dumps({"words": [], "upcoming": []}))
    (replay,) = {command for _, command in next_commands(comparison, run, {})} - {*before}
    name, arguments = parsed(f"{replay} --data photos")
    assert (name, arguments["replay"], arguments["out"]) == ("best", run, run.with_name(f"{run.name}-again"))


def test_several_runs_have_no_one_configuration_to_go_on_with(tmp_path):
    runs = [three_methods(tmp_path / name) for name in ("one", "two")]
    comparison = compare_runs(runs)
    commands = [command for _, command in next_commands(comparison, tmp_path, {"one": {"data": "elpv"}})]
    assert [parsed(command)[0] for command in commands] == ["predict", "evaluate", "export"]


def test_what_looks_at_tiles_is_not_offered_as_one_file_and_a_mean_over_networks_is(commands, tmp_path):
    comparison = commands[0]
    (chosen_method(comparison).results[0].directory / MEMBERS).write_text("[]")
    offered = [command for _, command in next_commands(comparison, tmp_path, {})]
    assert [parsed(command)[0] for command in offered] == ["predict", "evaluate", "export"]
