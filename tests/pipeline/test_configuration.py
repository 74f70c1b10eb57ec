from pathlib import Path

import pytest

from cache.errors import UsageError
from pipeline.configuration import check_configuration, read_configuration, write_configuration
from pipeline.reference import reference
from stages.options import Data, Features, Head

ROOT = Path(__file__).parent.parent.parent


def test_the_resolved_configuration_can_be_given_back(tmp_path):
    write_configuration(tmp_path, Data("photos", seeds=(0, 1)), Features(image_size=300, cache=Path("here")))
    check_configuration(tmp_path / "config.toml")
    values = read_configuration(tmp_path / "config.toml")
    assert values["data"] == "photos"
    assert values["seeds"] == [0, 1]
    assert values["image_size"] == 300
    assert values["cache"] == "here"
    assert "data_root" not in values  # unset


def test_another_command_adds_its_options_and_replaces_those_it_shares(tmp_path):
    write_configuration(tmp_path, Data("photos"), Features(image_size=300))
    write_configuration(tmp_path, Data("photos"), Features(), Head(("mlp",)))
    values = read_configuration(tmp_path / "config.toml")
    assert "image_size" not in values
    assert values["head"] == ["mlp"]


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


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        check_configuration(tmp_path / "none.toml")


def test_the_reference_of_options_is_up_to_date():
    """Made anew by: python -m pipeline.reference > docs/options.md."""
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == reference()
