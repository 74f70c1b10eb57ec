from dataclasses import replace
from pathlib import Path

import pytest

from cache.errors import UsageError
from pipeline.cli.app import app, options_from
from pipeline.cli.reference import reference
from pipeline.options.toml_file import check_configuration, read_configuration, write_configuration
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig

ROOT = Path(__file__).parents[3]


def test_the_resolved_configuration_can_be_given_back(tmp_path):
    write_configuration(
        tmp_path / "config.toml", DataConfig("photos", seeds=(0, 1)), FeatureConfig(image_size=300, cache=Path("here"))
    )
    check_configuration(tmp_path / "config.toml")
    values = read_configuration(tmp_path / "config.toml")
    assert values["data"] == "photos"
    assert values["seeds"] == [0, 1]
    assert values["image_size"] == 300
    assert values["cache"] == "here"
    assert "data_root" not in values  # unset


def test_every_option_comes_back_from_the_file_as_it_was(tmp_path):
    """None is passed over, such as those that have the name of a command."""
    given = {
        "data": DataConfig("my photos", test_size=0.1, seeds=(3, 4), allow_leakage=True, data_root=Path("a b")),
        "features": FeatureConfig(
            "resnet18", weights="w.pth", weights_rename=("a=b", "c="), cut="layer3", pool="max", image_size=96,
            cache=Path("some where"), views=3, augment="crop(0.5)+flip", extract_batch_size=7, strict=True,
        ),
        "head": HeadConfig(("mlp", "logistic"), c_values=(0.5, 2.0), cv=3, fit_lr=(1e-3, 1e-2), max_memory_gb=0.5),
        "finetune": FinetuneConfig(
            unfreeze="layer3,layer4", invert_unfreeze=True, reinit="layer4", from_cache=True, init_head="new",
            baselines=("scratch",), opt="sgd", lr=3e-5, model_ema_decay=0.99, clip_grad=1.0, auxiliary=False, compile=True,
            warmup=0.25, cycle_epochs=1.5, cycle_mul=3, name="mine", tta="flip",
        ),
    }  # fmt: skip
    write_configuration(tmp_path / "config.toml", *given.values())
    app.config = (options_from(tmp_path / "config.toml"),)
    try:
        _, bound, _ = app.parse_args(["run", "--out", "here", "--epochs", "9"])
    finally:
        app.config = ()
    for name, options in given.items():
        expected = replace(options, epochs=9) if name == "finetune" else options
        assert bound.arguments[name] == expected


def test_another_command_adds_its_options_and_replaces_those_it_shares(tmp_path):
    write_configuration(tmp_path / "config.toml", DataConfig("photos"), FeatureConfig(image_size=300))
    write_configuration(tmp_path / "config.toml", DataConfig("photos"), FeatureConfig(), HeadConfig(("mlp",)))
    values = read_configuration(tmp_path / "config.toml")
    assert "image_size" not in values
    assert values["head"] == ["mlp"]


def test_a_folder_whose_name_is_no_text_comes_back(tmp_path):
    write_configuration(tmp_path / "config.toml", DataConfig("ph\udcfcotos"))
    assert read_configuration(tmp_path / "config.toml")["data"] == "ph\udcfcotos"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bakbone = 'resnet18'", "'bakbone'.*Did you mean 'backbone'"),
        ("[features]\nbackbone = 'x'", "unknown option 'features'"),
        ("[data]\npath = 'x'", "data is a section"),
        ("backbone = ", "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(tmp_path, content, message):
    path = tmp_path / "run.toml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        check_configuration(path)


def test_names_of_a_file_of_before_become_those_of_today(tmp_path):
    (tmp_path / "run.toml").write_text("version = 2\nbatch_size = 8\ndropout = 0.1\npatience = 3\n")
    check_configuration(tmp_path / "run.toml")
    values = read_configuration(tmp_path / "run.toml")
    assert values == {"version": 2, "extract_batch_size": 8, "fit_dropout": 0.1, "fit_patience": 3}


def test_a_damaged_file_of_a_run_is_called_by_its_name(tmp_path):
    (tmp_path / "config.toml").write_text("backbone = ")
    with pytest.raises(UsageError) as refused:
        write_configuration(tmp_path / "config.toml", HeadConfig())
    assert str(refused.value).startswith(f"{tmp_path / 'config.toml'} is not TOML")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        check_configuration(tmp_path / "none.toml")


def test_the_reference_of_options_is_up_to_date():
    """Made anew by: python -m pipeline.cli.reference > docs/options.md."""
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == reference()
