from pathlib import Path

import pytest

from cache.errors import DataError
from stages.config.data import DataConfig
from stages.data.sources.registry import list_samples
from tests.stages.data.masks.pictures import save_folder, save_pair


def pairs(root, **options):
    """The names of image and mask below the root, with the split of both, and all notes."""
    records = list_samples(DataConfig(str(root), **options))
    [masks] = records.target_columns.values()
    names = [
        (Path(image).relative_to(root).as_posix(), Path(mask).relative_to(root).as_posix() if mask else "", split)
        for image, mask, split in zip(records.locations, masks, records.splits, strict=True)
    ]
    return names, " ".join(records.notes)


def saved(root, *names):
    """Images and masks, each "image mask"."""
    for seed, pair in enumerate(names):
        image, _, mask = pair.partition(" ")
        save_pair(root / image, root / mask if mask else None, seed)
    return root


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["images/a.jpg masks/a.png", "images/b.png masks/b.png"], ["", ""]),
        (["images/train/a.jpg masks/train/a.png", "images/val/b.jpg masks/val/b.png"], ["train", "val"]),
        (["train/images/a.jpg train/masks/a.png", "test/images/a.jpg test/masks/a.png"], ["test", "train"]),
        (["train/a.png trainannot/a.png", "val/b.png valannot/b.png"], ["train", "val"]),
        (["train/a.png train_labels/a.png", "valid/b.png valid_labels/b.png"], ["train", "val"]),
        (
            [
                "images/training/a.jpg annotations/training/a.png",
                "images/validation/b.jpg annotations/validation/b.png",
            ],
            ["train", "val"],
        ),
        (["train_images/a.jpg train-masks/a_mask.png", "test_images/b.jpg test-masks/b_mask.png"], ["test", "train"]),
        (["JPEGImages/a.jpg SegmentationClass/a.png", "JPEGImages/b.jpg SegmentationClass/b.png"], ["", ""]),
        (
            [
                "leftImg8bit/train/x/a_leftImg8bit.png gtFine/train/x/a_gtFine_labelIds.png",
                "leftImg8bit/val/y/b_leftImg8bit.png gtFine/val/y/b_gtFine_labelIds.png",
            ],
            ["train", "val"],
        ),
    ],
    ids=lambda value: value[0].replace("/", ":") if isinstance(value, list) and " " in value[0] else "",
)
def test_masks_beside_images_are_found_with_their_splits(tmp_path, names, splits):
    found, _ = pairs(saved(tmp_path, *names))
    assert sorted(found) == sorted(
        (*name.split(" "), split)
        for name, split in zip(sorted(names, key=lambda name: name.split("/")[:2]), splits, strict=True)
    )


def test_colored_and_numbered_copies_of_masks_beside_those_of_cityscapes_are_left_out(tmp_path):
    saved(tmp_path, "leftImg8bit/a_leftImg8bit.png gtFine/a_gtFine_labelIds.png")
    for kind in ("color", "instanceIds"):
        (tmp_path / f"gtFine/a_gtFine_{kind}.png").write_bytes((tmp_path / "gtFine/a_gtFine_labelIds.png").read_bytes())
    found, notes = pairs(tmp_path)
    assert found == [("leftImg8bit/a_leftImg8bit.png", "gtFine/a_gtFine_labelIds.png", "")]
    assert "masks without an image: 2, left out" in notes


def test_lists_of_names_say_the_splits_as_those_of_pascal_voc(tmp_path):
    saved(tmp_path, *(f"JPEGImages/{name}.jpg SegmentationClass/{name}.png" for name in "abc"), "JPEGImages/d.jpg")
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, text in (("train", "a\n"), ("val", "b\nc\n"), ("trainval", "a\nb\nc\n")):
        (lists / f"{split}.txt").write_text(text)
    found, notes = pairs(tmp_path)
    assert [(image[-5], split) for image, _, split in found] == [("a", "train"), ("b", "val"), ("c", "val")]
    assert "1 images are in no list and are left out" in notes


def test_images_without_a_mask_and_masks_without_an_image_are_named(tmp_path):
    found, notes = pairs(saved(tmp_path, "images/a.jpg masks/a.png", "images/b.jpg", "other/c.jpg masks/c.png"))
    assert found == [("images/a.jpg", "masks/a.png", ""), ("images/b.jpg", "", "")]
    assert "masks without an image: 1, left out (masks/c.png)" in notes
    assert "left out the folders other" in notes


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["images/a.jpg", "masks/b.png"], r"no mask is called as an image \(a\.jpg; b\.png\).*say `task` single_label"),
        (["images/a.jpg masks/a.png", "masks/a.tif"], r"a\.jpg may have the masks a\.png, a\.tif: leave one"),
        (["images/a.jpg masks/a.png", "labels/a.png"], r"labels and masks may both be the masks of images"),
    ],
)
def test_what_is_not_plainly_the_mask_of_an_image_is_asked(tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        pairs(saved(tmp_path, *names))


def test_classes_that_are_called_like_masks_stay_classes(tmp_path):
    saved(tmp_path, "face/1.jpg", "face_mask/1.jpg", "no_mask/1.jpg", "mask/2.jpg")
    assert list_samples(DataConfig(str(tmp_path))).class_names == ("face", "face_mask", "mask", "no_mask")
    (root := tmp_path / "plain").mkdir()
    save_folder(root, 2)
    assert list_samples(DataConfig(str(root), task="single_label")).class_names == ("images", "masks")


def test_without_masks_the_task_says_which_layout_it_looks_for(tmp_path):
    with pytest.raises(DataError, match=r"no masks beside images; expected ROOT/images/a\.jpg with"):
        pairs(saved(tmp_path, "cat/a.jpg", "dog/b.jpg"), task="dense")
