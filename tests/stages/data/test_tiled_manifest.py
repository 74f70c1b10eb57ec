"""Training and validation samples become tiles with their parts of the masks; test samples stay images."""

import numpy as np
import pytest
import torch
from PIL import Image

from cache.errors import DataError
from stages.data.manifest import Manifest
from stages.data.masks.mask_classes import MaskClasses, read_mask
from stages.data.masks.mask_targets import MaskTargets
from stages.data.sources.open_image import read_image
from stages.data.tiled_manifest import tiled_manifest
from stages.tasks.dense import Dense
from stages.tasks.tiles import Tiling

CLASSES = MaskClasses(("a", "b", "c"), False, ((0, 0), (1, 1), (2, 2), (255, 255)))
COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)


@pytest.fixture
def samples(tmp_path):
    rng = np.random.default_rng(0)
    for number, shape in enumerate([(20, 30), (16, 16), (10, 40), (33, 17)]):
        mask = rng.integers(0, 3, shape, dtype=np.uint8)
        Image.fromarray(COLORS[mask]).save(tmp_path / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / f"{number}.mask.png")
    return Manifest(
        [str(tmp_path / f"{number}.png") for number in range(4)],
        np.array([str(tmp_path / f"{number}.mask.png") for number in range(4)]),
        ["train", "train", "val", "test"],
        [f"{number:032x}" for number in range(4)],
        Dense(CLASSES.names),
        groups=["x", "x", "y", "z"],
        mask_classes=CLASSES,
        target_keys=[f"{number:032x}" for number in range(10, 14)],
    )


def test_each_tile_has_its_part_of_the_image_and_of_the_mask_and_void_beyond(samples):
    tiled = tiled_manifest(samples, Tiling(16, 16, 4))
    assert tiled.splits == ["train"] * 7 + ["val"] * 3 + ["test"]
    assert tiled.groups == ["x"] * 7 + ["y"] * 3 + ["z"]
    assert len({*tiled.keys}) == len({*tiled.target_keys}) == 11
    for location, text, split in zip(tiled.locations, tiled.target_texts, tiled.splits, strict=True):
        image, mask = read_image(location), read_mask(text, CLASSES)
        assert image.shape[1:] == mask.shape
        assert split == "test" or mask.shape == (16, 16)
        known = mask != 255
        assert torch.equal(image.permute(1, 2, 0)[known], torch.from_numpy(COLORS[mask[known]]))
        assert known.all() == (split != "val")  # which is 10 pixels high
    assert "3 images are trained and validated on as 10 tiles of 16 x 16 pixels" in tiled.notes[-1]


def test_an_image_of_a_tiles_size_and_a_test_image_stay_what_they_are(samples):
    tiled = tiled_manifest(samples, Tiling(16, 16, 4))
    assert (tiled.locations[6], tiled.keys[6]) == (samples.locations[1], samples.keys[1])
    assert (tiled.locations[-1], tiled.target_texts[-1]) == (samples.locations[3], samples.target_texts[3])


def test_tiles_come_back_from_a_saved_manifest_and_their_masks_are_targets(samples, tmp_path):
    tiled = tiled_manifest(samples, Tiling(16, 16, 4))
    tiled.save(tmp_path / "manifest.csv")
    loaded = Manifest.load(tmp_path / "manifest.csv")
    assert (loaded.locations, loaded.target_texts) == (tiled.locations, tiled.target_texts)
    targets = MaskTargets(loaded.target_texts, CLASSES, 1 << 20)
    assert targets.shapes([0, 9]) == [(16, 16), (16, 16)]
    assert np.array_equal(targets.thinned([0], (16, 16))[0], read_mask(tiled.target_texts[0], CLASSES))


def test_masks_of_another_size_than_their_images_are_refused(samples, tmp_path):
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(tmp_path / "0.mask.png")
    with pytest.raises(DataError, match=r"`tile` 16 needs masks of the size of their images, and 1 are .*0\.mask\.png"):
        tiled_manifest(samples, Tiling(16, 16, 4))
