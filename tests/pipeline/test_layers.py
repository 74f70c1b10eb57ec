"""``layers``: what it says of a backbone is what training and loading would do."""

import re

from pipeline.__main__ import main

SMALL = ["--image-size", "64"]


def call(capsys, *arguments):
    code = main(["layers", *map(str, arguments)])
    captured = capsys.readouterr()
    return code or 0, captured.out, captured.err


def training(out):
    """The cells of each row, by the cut's name, of a table with the column `training`."""
    lines = out.splitlines()
    begin = next(line for line in lines if line.startswith("cut ")).index("training")
    rows = [line for line in lines if re.match(r"\w\S* .* \d+(x\d+)* ", line)]
    return {line.split()[0]: line[begin : begin + 8].strip() for line in rows}


def test_layers_says_what_trains_and_what_is_frozen(capsys):
    code, out, _ = call(capsys, "resnet18", *SMALL, "--unfreeze", "layer2,layer4.0.conv1")
    assert code == 0
    state = training(out)
    assert (state["layer1.1.add"], state["layer2.0.add"], state["layer2.1.add"]) == ("frozen", "trains", "trains")
    assert (state["layer3.0.add"], state["layer4.0.add"], state["layer4.1.add"]) == ("frozen", "partly", "frozen")
    assert (state["maxpool"], state["fc"]) == ("", "frozen")
    trained = 525_568 + 1_179_648  # layer2, and 512 kernels of 3 x 3 over 256 channels
    assert f"{trained / 1e6:.3g} M of 11.7 M parameters ({trained / 11_689_512:.1%}) train" in out
    assert "layer2, layer4.0.conv1; the frozen part ends at layer1.1.relu_1" in out


def test_layers_inverts(capsys):
    _, out, _ = call(capsys, "resnet18", *SMALL, "--unfreeze", "2", "--invert-unfreeze")
    state = training(out)
    assert (state["conv1"], state["layer2.1.add"], state["layer3.0.add"], state["fc"]) == (
        "trains",
        "trains",
        "frozen",
        "frozen",
    )
    assert "conv1, bn1, layer1, layer2; training begins at the image" in out


def test_layers_refuses_what_cannot_train(capsys):
    for arguments, said in (
        (["--unfreeze", "layr2,layer4"], "'layer2'"),
        (["--unfreeze", "all", "--invert-unfreeze"], "leaves nothing to train"),
        (["--invert-unfreeze"], "give --unfreeze too"),
    ):
        code, _, err = call(capsys, "resnet18", *SMALL, *arguments)
        assert code == 2
        assert said in " ".join(err.split())
