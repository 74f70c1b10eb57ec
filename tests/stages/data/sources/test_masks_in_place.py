"""Masks in the folder of their images."""

import pytest

from cache.errors import DataError
from stages.config.data import DataConfig
from stages.data.sources.registry import list_samples
from tests.stages.data.sources.test_folder_masks import pairs, saved


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["a.jpg a_mask.png", "b.jpg b_mask.png"], ["", ""]),
        (["a.png a_seg.png", "b.png b_seg.png"], ["", ""]),
        (["a.jpg a.png", "b.jpeg b.png"], ["", ""]),
        (["train/a.jpg train/a_mask.png", "val/b.jpg val/b_mask.png"], ["train", "val"]),
        (["train/a.jpg train/a.png", "test/b.jpg test/b.png"], ["train", "test"]),
    ],
    ids=["mask", "seg", "endings", "splits", "splits by ending"],
)
def test_images_and_masks_in_one_folder_are_told_apart_by_their_names(tmp_path, names, splits):
    found, notes = pairs(saved(tmp_path, *names))
    expected = [(*name.split(" "), split) for name, split in zip(names, splits, strict=True)]
    assert sorted(found) == sorted(expected)
    assert "neither images nor masks" not in notes


def test_each_split_may_lie_in_a_way_of_its_own(tmp_path):
    found, notes = pairs(saved(tmp_path, "train/images/a.jpg train/masks/a.png", "val/b.png val/b_mask.png"))
    expected = [("train/images/a.jpg", "train/masks/a.png", "train"), ("val/b.png", "val/b_mask.png", "val")]
    assert sorted(found) == expected
    assert "neither images nor masks" not in notes


def test_classes_in_splits_stay_classes_whatever_lies_beside_them(tmp_path):
    names = [f"{split}/{name}/{number}.jpg" for split in ("train", "val") for name in ("cat", "dog") for number in "12"]
    records = list_samples(DataConfig(str(saved(tmp_path, *names, "train/cover.jpg train/cover.png"))))
    assert not records.target_columns
    assert set(records.splits) == {"train", "val"}


def test_photographs_called_alike_are_masks_only_if_the_task_says_so(tmp_path):
    saved(tmp_path, "shoe.jpg shoe_l.jpg", "hat.jpg hat_l.jpg")
    records = list_samples(DataConfig(str(tmp_path)))
    assert not records.target_columns
    assert len(records.locations) == 4


def test_an_image_without_a_mask_stays_an_image_without_one(tmp_path):
    found, _ = pairs(saved(tmp_path, "a.jpg a_mask.png", "b.jpg b_mask.png", "c.jpg"))
    assert found[-1] == ("c.jpg", "", "")


def test_a_link_to_itself_among_them_changes_nothing(tmp_path):
    saved(tmp_path, "a.jpg a_mask.png", "b.jpg b_mask.png")
    (tmp_path / "c.jpg").symlink_to("c.jpg")
    found, _ = pairs(tmp_path)
    assert ("a.jpg", "a_mask.png", "") in found
    assert ("b.jpg", "b_mask.png", "") in found


def test_below_folders_that_may_be_classes_the_task_says_so(tmp_path):
    names = ["benign/a.png benign/a_mask.png", "normal/a.png normal/a_mask.png"]
    records = list_samples(DataConfig(str(saved(tmp_path, *names))))
    assert not records.target_columns
    assert len(records.locations) == 4
    found, _ = pairs(tmp_path, task="dense")
    assert sorted(found) == sorted((*name.split(" "), "") for name in names)


def test_photographs_alone_and_copies_in_other_formats_of_a_few_are_no_masks(tmp_path):
    saved(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.jpg").read_bytes())
    assert not list_samples(DataConfig(str(tmp_path))).target_columns
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"a\.jpg with a_mask\.png or a\.png in one folder"):
        list_samples(DataConfig(str(tmp_path / "none"), task="dense"))
