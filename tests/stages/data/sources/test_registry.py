import pytest

from cache.errors import DataError, UsageError
from stages.config.data import DataConfig
from stages.config.registry import SOURCES
from stages.data.sources.digits import digits_image
from stages.data.sources.registry import list_samples, opener_of, register_source
from stages.data.sources.torchvision_datasets import torchvision_image
from tests.plug_ins import forget_afterwards
from tests.stages.data.pictures import write_images


def test_folders_and_tables_are_told_apart(tmp_path, monkeypatch):
    write_images(tmp_path, {"images/cat": 1, "images/dog": 2})
    (tmp_path / "table.csv").write_text("path,label\nimages/cat/000.png,cat\n")
    monkeypatch.chdir(tmp_path)
    assert len(list_samples(DataConfig("images")).targets) == 3
    assert len(list_samples(DataConfig("table.csv")).targets) == 1


def test_locations_are_absolute_so_that_a_run_can_be_gone_on_with_from_anywhere(tmp_path, monkeypatch):
    write_images(tmp_path, {"images/cat": 1})
    monkeypatch.chdir(tmp_path)
    assert list_samples(DataConfig("images")).locations == [str(tmp_path / "images" / "cat" / "000.png")]


@pytest.mark.parametrize(("name", "meant"), [("elvp", "elpv"), ("digit", "digits")])
def test_a_misspelt_set_is_suggested(name, meant):
    with pytest.raises(UsageError, match=f"Did you mean '{meant}'"):
        list_samples(DataConfig(name))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UsageError, match="no such folder") as caught:
        list_samples(DataConfig(str(tmp_path / "gone")))
    assert str(tmp_path / "gone") in str(caught.value)


def test_a_file_that_is_not_a_table_is_refused(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UsageError, match="not a CSV or TSV file"):
        list_samples(DataConfig(str(tmp_path / "photo.jpg")))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected ROOT/CLASS"):
        list_samples(DataConfig(str(tmp_path)))


def test_a_path_of_two_sources_is_an_error_that_names_both(tmp_path, monkeypatch):
    forget_afterwards(monkeypatch, SOURCES)

    @register_source("indexed folder", takes_path=lambda path: (path / "index").exists(), help_text="an indexed folder")
    def list_indexed(options, progress=None):
        raise AssertionError

    (tmp_path / "index").touch()
    with pytest.raises(
        UsageError, match=r"is taken by .*list_folder and .*list_indexed: let the `takes_path` of one take"
    ):
        list_samples(DataConfig(str(tmp_path)))


def test_a_location_is_opened_by_the_source_it_begins_with(tmp_path):
    assert opener_of("digits:17") is digits_image
    assert opener_of("torchvision:MNIST/test/3") is torchvision_image
    assert opener_of("elpv:3") is None  # its images are files
    assert opener_of(str(tmp_path / "digits:17")) is None
