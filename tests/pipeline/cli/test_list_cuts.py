"""``list-cuts``: what it says of a backbone is what training and loading would do."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from pipeline.cli.app import main
from stages.network.backbones.registry import load_backbone

SMALL = ["--image-size", "64"]


def call(capsys, *arguments):
    code = main(["list-cuts", *map(str, arguments)])
    captured = capsys.readouterr()
    return code or 0, captured.out, captured.err


def training(out):
    """The cells of each row, by the cut's name, of a table with the column `training`."""
    lines = out.splitlines()
    begin = next(line for line in lines if line.startswith("cut ")).index("training")
    rows = [line for line in lines if re.match(r"\w\S* .* \d+(x\d+)* ", line) and " train" not in line[begin + 8 :]]
    return {line.split()[0]: line[begin : begin + 8].strip() for line in rows}


def test_layers_says_what_trains_and_what_is_frozen(capsys):
    code, out, _ = call(capsys, "resnet18", *SMALL, "--unfreeze", "layer2,layer4.0.conv1")
    assert code == 0
    state = training(out)
    assert (state["layer1.1.add"], state["layer2.0.add"], state["layer2.1.add"]) == ("frozen", "trains", "trains")
    assert (state["layer3.0.add"], state["layer4.0.add"], state["layer4.1.add"]) == ("frozen", "partly", "frozen")
    assert (state["maxpool"], state["fc"]) == ("", "new head")
    trained = 525_568 + 1_179_648  # layer2, and 512 kernels of 3 x 3 over 256 channels
    assert f"below the head {trained / 1e6:.3g} M of 11.2 M parameters ({trained / 11_176_512:.1%}) train" in out
    assert "layer2, layer4.0.conv1; the frozen part ends at layer1.1.relu_1; the head is new, and trains always" in out


def test_the_head_alone_and_what_lies_above_it(capsys):
    code, out, _ = call(capsys, "resnet18", *SMALL, "--unfreeze", "head")
    assert code == 0
    assert {*training(out).values()} == {"frozen", "", "new head"}
    assert "0 of 11.2 M parameters (0.0%) train; the frozen part ends at flatten; the head is new" in out
    _, out, _ = call(capsys, "resnet18", *SMALL, "--unfreeze", "layer4")
    assert (training(out)["layer4.1.add"], training(out)["fc"]) == ("trains", "new head")
    assert "train: layer4; the frozen part ends at layer3" in out


def test_layers_inverts(capsys):
    _, out, _ = call(capsys, "resnet18", *SMALL, "--unfreeze", "2", "--invert-unfreeze")
    state = training(out)
    assert (state["conv1"], state["layer2.1.add"], state["layer3.0.add"], state["fc"]) == (
        "trains",
        "trains",
        "frozen",
        "new head",
    )
    assert "conv1, bn1, layer1, layer2; training begins at the image" in out


def test_layers_refuses_what_cannot_train(capsys):
    for arguments, message in (
        (["--unfreeze", "layr2,layer4"], "'layer2'"),
        (["--unfreeze", "all", "--invert-unfreeze"], "leaves nothing to train"),
        (["--invert-unfreeze"], "give --unfreeze too"),
    ):
        code, _, err = call(capsys, "resnet18", *SMALL, *arguments)
        assert code == 2
        assert message in " ".join(err.split())


@pytest.fixture
def foreign(tmp_path):
    """Weights of an EfficientNet-Lite0 whose last blocks are another network's, under a prefix, with a queue."""
    state = load_backbone("efficientnet_lite0", "none").module.state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.startswith(("blocks.6", "classifier"))}
    save_file(
        {f"encoder.{name}": tensor for name, tensor in state.items()} | {"queue": torch.ones(4)},
        tmp_path / "w.safetensors",
    )
    return tmp_path / "w.safetensors"


def test_layers_says_what_was_loaded_skipped_and_missing(foreign, capsys):
    command = ["efficientnet_lite0", *SMALL, "--weights", foreign, "--weights-match", "partial"]
    code, _, err = call(capsys, *command)
    assert (code, "Try --weights-rename encoder=" in " ".join(err.split())) == (1, True)
    code, out, _ = call(capsys, *command, "--weights-rename", "encoder=", "--weights-ignore", "classifier")
    assert code == 0
    assert f"file {foreign}, 270 of 296 tensors up to blocks.5.3.bn3, without classifier" in out
    assert "the first that differs: blocks.6.0.conv_pw: the file has no blocks.6.0.conv_pw.weight" in out
    rows = {line.split()[0]: re.split(r"\s{2,}", line) for line in out.splitlines() if line}
    assert rows["loaded"][-1] == "270"
    assert rows["missing"][1:] == ["blocks.6, conv_head, bn2", "stays as it was", "20"]
    assert rows["ignored"][1:] == ["classifier", "as asked", "2"]
    skipped = [line for line in out.splitlines() if line.startswith("skipped")]
    assert [re.split(r"\s{2,}", line)[1] for line in skipped] == ["bn2, conv_head", "queue"]


def test_a_model_on_partly_loaded_weights_classifies_and_its_configuration_repeats_it(
    foreign, photographs, capsys, tmp_path
):
    options = ["--weights-match", "partial", "--weights-rename", "encoder=", "--weights-ignore", "queue", "classifier"]
    common = ["--data", photographs, *SMALL, "--cache", tmp_path / "cache", "--weights", foreign, *options]
    run = tmp_path / "run"
    assert main([str(word) for word in ("extract", *common)]) == 0
    assert main([str(word) for word in ("train", *common, "--head", "ncm", "--out", run)]) == 0
    recipe = json.loads((run / "seed-0" / "linear-ncm" / "model.json").read_text())
    assert recipe["features"]["weights_rename"] == ["encoder="]
    assert "270 of 296 tensors" in (run / "seed-0" / "linear-ncm" / "result.json").read_text()
    capsys.readouterr()
    assert main(["predict", str(run), str(next(photographs.rglob("*.jpg")))]) == 0
    command = ("train", "--config", run / "config.toml", "--cache", tmp_path / "cache", "--out", run)
    assert main([str(word) for word in command]) == 0
    assert "already trained" in capsys.readouterr().out


def test_taps_are_listed_with_what_is_taken_of_them(capsys):
    code, out, _ = call(capsys, "resnet18", *SMALL, "--taps", "blocks", "--pool", "avg,max")
    assert code == 0
    assert "10 tensors give 3,968 numbers an image, 7.75 KiB in fp16" in out
    assert "(last 1,024, stages 2,048, blocks 3,968)" in out
    assert re.search(r"^layer1\.0\.relu_1 +block +64x16x16 +avg,max +128$", out, re.MULTILINE)
    assert re.search(r"^flatten +last +512 +none +512$", out, re.MULTILINE)
    code, _, err = call(capsys, "resnet18", *SMALL, "--taps", "layer9.*")
    assert code == 2
    assert "--taps: nothing in this network matches 'layer9.*'" in err
