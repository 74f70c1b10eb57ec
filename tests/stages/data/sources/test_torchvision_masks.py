"""torchvision's segmentation sets, laid out as torchvision keeps them, with tiny images; nothing is downloaded."""

import numpy as np
import pytest
from scipy.io import savemat

from cache.errors import DataError, UsageError
from stages.config.data import DataConfig
from stages.data.manifest import load_manifest
from stages.data.masks.mask_classes import read_mask
from tests.stages.data.masks.pictures import save_pair


def loaded(root, name, **options):
    return load_manifest(DataConfig(f"torchvision:{name}", data_root=root, **options))


def classes_of(manifest):
    masks = (read_mask(text, manifest.mask_classes) for text in manifest.target_texts)
    return sorted({int(value) for mask in masks for value in np.unique(mask)})


def test_pascal_voc_has_its_names_and_255_for_void(tmp_path):
    base = tmp_path / "VOCdevkit/VOC2012"
    (base / "ImageSets/Segmentation").mkdir(parents=True)
    for part, names in (("train", "abcd"), ("val", "ef")):
        (base / f"ImageSets/Segmentation/{part}.txt").write_text("\n".join(names))
        for name in names:
            save_pair(base / f"JPEGImages/{name}.jpg", base / f"SegmentationClass/{name}.png", ord(name), (0, 15, 255))
    manifest = loaded(tmp_path, "VOCSegmentation")
    assert manifest.class_names[0] == "background"
    assert manifest.class_names[15] == "person"
    assert len(manifest.class_names) == 21
    assert classes_of(manifest) == [0, 15, 255]
    assert manifest.splits.count("test") == 2  # the second given split; val is taken out of train


def test_masks_of_sbd_are_files_of_matlabs(tmp_path):
    for part, names in (("train", "abcd"), ("val", "ef")):
        (tmp_path / f"{part}.txt").write_text("\n".join(names))
        for name in names:
            save_pair(tmp_path / f"img/{name}.jpg", None, ord(name))
            content = np.zeros((1,), dtype=[("Segmentation", object)])
            content["Segmentation"][0] = np.resize(np.array([0, 3], np.uint8), (12, 16))
            (tmp_path / "cls").mkdir(exist_ok=True)
            savemat(tmp_path / f"cls/{name}.mat", {"GTcls": content})
    assert classes_of(loaded(tmp_path, "SBDataset")) == [0, 3]


def test_of_cityscapes_the_classes_that_are_evaluated_count_and_the_others_are_void(tmp_path):
    for number, part in enumerate(("train", "train", "train", "val")):
        stem = f"town_{number:06d}_000019"
        image = tmp_path / "leftImg8bit" / part / "town" / f"{stem}_leftImg8bit.png"
        folder = tmp_path / "gtFine" / part / "town"
        save_pair(image, folder / f"{stem}_gtFine_labelIds.png", number, (0, 3, 7, 26))
    manifest = loaded(tmp_path, "Cityscapes")
    assert (len(manifest.class_names), manifest.class_names[0]) == (19, "road")
    assert classes_of(manifest) == [0, manifest.class_names.index("car"), 255]


def test_pets_are_classes_or_masks_as_the_task_says(tmp_path):
    base = tmp_path / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for part, names in (("trainval", ("Pug_1", "Pug_2", "Bengal_1", "Bengal_2")), ("test", ("Pug_3", "Bengal_3"))):
        rows = [f"{name} {1 + name.startswith('Pug')} 1 1" for name in names]
        (base / f"annotations/{part}.txt").write_text("\n".join(rows))
        for seed, name in enumerate(names, len(part)):  # other images in each part
            save_pair(base / f"images/{name}.jpg", base / f"annotations/trimaps/{name}.png", seed, (1, 2, 3))
    masks = loaded(tmp_path, "OxfordIIITPet", task="dense")
    assert masks.class_names == ("pet", "background")
    assert classes_of(masks) == [0, 1, 255]  # 3 is the border, which the set has not classified


def test_what_is_not_there_and_may_not_be_downloaded_is_named_with_where_to_put_it(tmp_path):
    with pytest.raises(
        DataError, match=r"torchvision:Cityscapes are not in .*put them there as torchvision keeps them"
    ):
        loaded(tmp_path, "Cityscapes")
    with pytest.raises(UsageError, match="leave out /val"):
        loaded(tmp_path, "VOCSegmentation/val")
