"""What lies among images and is none: links, what systems and programs made, and what this program wrote."""

import os

import pytest

from pipeline.run_layout import CONFIGURATION, ENVIRONMENT, REPORT, RESULTS
from stages.config.data import DataConfig
from stages.data.sources.folder import list_folder
from stages.data.sources.folder_tree import FolderNotes, images_below
from tests.stages.data.pictures import write_images


def listed(path):
    return list_folder(DataConfig(str(path)))


def names(listing, root):
    return [os.path.relpath(location, root) for location in listing.locations]


def test_linked_folders_are_followed_once_and_counted(tmp_path):
    root = tmp_path / "root"
    write_images(tmp_path, {"root/cat": 1, "root/cat/old": 1, "root/dog": 1, "disk/new": 1, "disk/new/more": 1})
    (root / "cat" / "a").symlink_to(tmp_path / "disk" / "new")
    (root / "cat" / "b").symlink_to(tmp_path / "disk" / "new" / "more")  # there by way of a
    (root / "cat" / "c").symlink_to(root / "cat" / "old")  # there without a link
    listing = listed(root)
    assert names(listing, root) == [
        *("cat/000.png", "cat/a/000.png", "cat/a/more/000.png", "cat/old/000.png", "dog/000.png"),
    ]
    assert listing.notes == [
        "links to folders that were followed: 1 (cat/a)",
        "links to folders that are counted already, or that the link lies in: 2 left out (cat/b, cat/c)",
    ]


def test_links_that_lead_back_end(tmp_path):
    write_images(tmp_path, {"root/cat": 1, "root/dog": 1, "disk": 1})
    (tmp_path / "root" / "all").symlink_to(tmp_path / "root")
    for place, target in (("cat/up", "root"), ("cat/self", "root/cat"), ("cat/far", "disk"), ("dog/top", ".")):
        (tmp_path / "root" / place).symlink_to(tmp_path / target)
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "disk")
    listing = listed(tmp_path / "root")
    assert names(listing, tmp_path / "root") == ["cat/000.png", "cat/far/000.png", "dog/000.png"]
    assert listing.class_names == ("cat", "dog")
    assert ": 5 left out (" in listing.notes[1]


def test_a_link_to_itself_and_one_to_nothing_are_images_that_cannot_be_read(tmp_path):
    write_images(tmp_path, {"cat": 1, "dog": 1})
    for name, target in (("cat/self.png", "self.png"), ("cat/gone.png", "/nowhere.png"), ("turning", "turning")):
        (tmp_path / name).symlink_to(target)
    listing = listed(tmp_path)
    assert names(listing, tmp_path) == ["cat/000.png", "cat/gone.png", "cat/self.png", "dog/000.png"]
    assert listing.class_names == ("cat", "dog")


def test_a_folder_linked_into_two_classes_counts_in_both(tmp_path):
    write_images(tmp_path, {"root/cat": 1, "root/dog": 1, "shared": 1})
    for label in ("cat", "dog"):
        (tmp_path / "root" / label / "more").symlink_to(tmp_path / "shared")
    assert len(listed(tmp_path / "root").locations) == 4  # a conflict of labels, which is told later


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", ".ipynb_checkpoints", "#recycle"],
)
def test_folders_of_systems_and_programs_are_no_classes_and_hold_no_images(tmp_path, name):
    write_images(tmp_path, {"cat": 1, "dog": 1, name: 1, f"cat/{name}/a.jpg": 1})
    (tmp_path / "cat" / "._000.png").write_bytes(b"resource fork")
    listing = listed(tmp_path)
    assert names(listing, tmp_path) == ["cat/000.png", "dog/000.png"]
    hidden = name.startswith(".")
    assert listing.notes == ([] if hidden else [f"left out folders that a system or a program made: {name} 2"])


@pytest.mark.parametrize("files", [(CONFIGURATION, ENVIRONMENT), (RESULTS, REPORT), ("keys.sqlite",)])
def test_a_run_and_a_cache_among_the_images_are_no_class_and_hold_no_images(tmp_path, files):
    write_images(tmp_path, {"cat": 1, "dog": 1, "out/figures": 2, "cat/out/figures": 1})
    for folder in ("out", "cat/out"):
        for name in files:
            (tmp_path / folder / name).touch()
    listing = listed(tmp_path)
    assert names(listing, tmp_path) == ["cat/000.png", "dog/000.png"]
    assert listing.notes == [
        "left out out, cat/out: what this program wrote (`out`, `cache`) is no class and has no images of the data"
    ]


def test_a_run_in_the_very_folder_of_the_classes_adds_none(tmp_path):
    write_images(tmp_path, {"cat": 1, "dog": 1, "figures": 1, "seed-0": 1, "seed-0/linear-logistic": 1})
    assert listed(tmp_path).class_names == ("cat", "dog", "figures", "seed-0")
    for name in (CONFIGURATION, ENVIRONMENT, "keys.sqlite"):
        (tmp_path / name).touch()
    assert listed(tmp_path).class_names == ("cat", "dog")


def test_a_folder_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    write_images(tmp_path, {"cat": 1, "cat/secret": 1, "dog": 1})
    scandir = os.scandir

    def refuse(path):
        if path.endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    assert listed(tmp_path).notes == ["folders that cannot be opened, left out: cat/secret (Permission denied)"]


def test_a_folder_asked_for_itself_is_searched_whatever_else_it_holds(tmp_path):
    (image,) = write_images(tmp_path, {"run": 1})
    for name in (CONFIGURATION, ENVIRONMENT):
        (tmp_path / "run" / name).touch()
    assert images_below(tmp_path / "run", FolderNotes(tmp_path / "run")) == [str(image)]
