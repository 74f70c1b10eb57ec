import shlex
from pathlib import Path

from pipeline.cli.app import app
from pipeline.options.command_line import invocation
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig


def test_only_what_differs_from_the_defaults_is_written():
    assert invocation("extract", DataConfig("photos/"), FeatureConfig()) == "cutonce extract --data photos/"
    assert invocation(
        "train", DataConfig("digits"), FeatureConfig(image_size=96), HeadConfig(), out=Path("runs/a")
    ) == ("cutonce train --data digits --image-size 96 --out runs/a")


def test_the_shell_and_the_command_line_read_back_the_same_options():
    data = DataConfig("my photos; all", test_size=0.1, seeds=(3, 4), allow_leakage=True, data_root=Path("a b"))
    features = FeatureConfig("resnet18", pool="max", cache=Path("some where"), strict=True)
    line = invocation("extract", data, features, cut="layer3,layer4", out=Path("runs/x"))
    _, bound, _ = app.parse_args(shlex.split(line)[1:])
    assert bound.arguments["data"] == data
    assert bound.arguments["features"] == FeatureConfig(
        "resnet18", cut="layer3,layer4", pool="max", cache=Path("some where"), strict=True
    )
    assert bound.arguments["out"] == Path("runs/x")
