import os

import pytest

from cache.errors import DataError
from stages.config.data import DataConfig
from stages.data.sources.folder import list_folder
from tests.stages.data.pictures import write_images


def listed(path):
    return list_folder(DataConfig(str(path)))


def test_class_folders(tmp_path):
    paths = write_images(tmp_path, {"cat": 2, "dog": 3})
    listing = listed(tmp_path)
    assert listing.locations == sorted(map(str, paths))
    assert listing.targets == ["cat"] * 2 + ["dog"] * 3
    assert listing.class_names == ("cat", "dog")
    assert set(listing.splits) == {""}
    assert listing.keys is None
    assert listing.notes == []


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "val", "test"), {"train", "val", "test"}),
        (("training", "validation", "testing"), {"train", "val", "test"}),
        (("Train", "Valid"), {"train", "val"}),
        (("train",), {"train"}),
    ],
)
def test_split_folders(tmp_path, names, splits):
    write_images(tmp_path, {f"{split}/{label}": 2 for split in names for label in ("cat", "dog")})
    listing = listed(tmp_path)
    assert set(listing.splits) == splits
    assert listing.class_names == ("cat", "dog")
    assert len(listing.locations) == 4 * len(names)


def test_images_deeper_inside_a_class_count(tmp_path):
    write_images(tmp_path, {"cat": 1, "cat/persian": 2, "cat/persian/white": 1, "dog/poodle": 1})
    assert listed(tmp_path).targets == ["cat"] * 4 + ["dog"]


def test_hidden_files_and_folders_do_not_count(tmp_path):
    write_images(tmp_path, {"cat": 1, "dog": 1, ".trash": 1, "cat/.thumbnails": 1})
    (tmp_path / "dog" / "._001.png").write_bytes(b"resource fork")
    listing = listed(tmp_path)
    assert len(listing.locations) == 2
    assert listing.notes == []


def test_other_files_are_ignored_and_counted(tmp_path):
    write_images(tmp_path, {"cat": 1, "dog": 1})
    for name in ("a.txt", "b.txt", "Thumbs.db", "README"):
        (tmp_path / "cat" / name).touch()
    (note,) = listed(tmp_path).notes
    assert note.startswith("ignored 4 files that are not images by their name (.txt 2, ")
    assert {".db 1", "no ending 1"} <= set(note.rstrip(")").split(", "))


def test_endings_count_in_any_case(tmp_path):
    for name in ("a/IMG.JPG", "a/scan.TIFF", "b/x.jpeg", "b/y.WebP", "b/z.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert len(listed(tmp_path).locations) == 5


def test_a_class_folder_may_be_a_link(tmp_path):
    write_images(tmp_path, {"elsewhere/cat": 2, "root/dog": 1})
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    assert listed(tmp_path / "root").targets == ["cat", "cat", "dog"]


def test_numbers_as_class_names_are_in_order_of_value(tmp_path):
    write_images(tmp_path, dict.fromkeys(("10", "9", "2", "other"), 1))
    assert listed(tmp_path).class_names == ("2", "9", "10", "other")


def test_class_names_may_be_anything(tmp_path):
    names = ["a,b", "new\nline", "\N{TULIP}", os.fsdecode(b"\xff"), "train"]
    write_images(tmp_path, dict.fromkeys(names, 1))
    assert sorted(listed(tmp_path).targets) == sorted(names)


def test_an_empty_class_folder_is_noted_and_is_no_class(tmp_path):
    write_images(tmp_path, {"cat": 1, "dog": 1, "bird": 0})
    listing = listed(tmp_path)
    assert listing.class_names == ("cat", "dog")
    assert listing.notes == ["no images in bird: not counted as a class"]


def test_a_folder_without_folders_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no folders of images in it; expected ROOT/CLASS"):
        listed(tmp_path)


def test_folders_without_images_are_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.txt").touch()
    with pytest.raises(DataError, match=r"no images in its folders \(.txt 1\)"):
        listed(tmp_path)
