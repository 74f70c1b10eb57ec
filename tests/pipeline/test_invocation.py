import shlex
from pathlib import Path

from pipeline.__main__ import app
from pipeline.invocation import invocation
from stages.options import Data, Features, Head


def test_only_what_differs_from_the_defaults_is_written():
    assert invocation("extract", Data("photos/"), Features()) == "cutpoint extract --data photos/"
    assert invocation("train", Data("digits"), Features(image_size=96), Head(), out=Path("runs/a")) == (
        "cutpoint train --data digits --image-size 96 --out runs/a"
    )


def test_the_shell_and_the_command_line_read_back_the_same_options():
    data = Data("my photos; all", test=0.1, seeds=(3, 4), allow_leakage=True, data_root=Path("a b"))
    features = Features("resnet18", pool="max", cache=Path("some where"), strict=True)
    line = invocation("extract", data, features, cut="layer3,layer4", out=Path("runs/x"))
    _, bound, _ = app.parse_args(shlex.split(line)[1:])
    assert bound.arguments["data"] == data
    assert bound.arguments["features"] == Features(
        "resnet18", cut="layer3,layer4", pool="max", cache=Path("some where"), strict=True
    )
    assert bound.arguments["out"] == Path("runs/x")
