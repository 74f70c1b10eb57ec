import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from cache.errors import DataError
from stages.data.images.rgb import UnreadableImageError
from stages.data.masks.mask_classes import MaskClasses, read_mask, resize_mask
from stages.data.masks.stored import packed

GAPS = MaskClasses(("road", "car"), False, ((7, 0), (26, 1), (255, 255), (0, 255)))
COLORS = MaskClasses(("sky", "tree"), True, ((packed(0, 0, 255), 0), (packed(0, 128, 0), 1), (packed(7, 7, 7), 255)))


def saved(path, array):
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path)
    return str(path)


def test_stored_numbers_become_numbers_of_classes_and_void(tmp_path):
    stored = np.array([[7, 26], [0, 255]], dtype=np.uint8)
    mask = read_mask(saved(tmp_path / "m.png", stored), GAPS)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 1], [255, 255]]


def test_colors_are_read_from_color_and_from_palette_images_alike(tmp_path):
    colors = np.array([[[0, 0, 255], [0, 128, 0]], [[7, 7, 7], [0, 0, 255]]], dtype=np.uint8)
    as_palette = Image.fromarray(colors).quantize(8)
    expected = [[0, 1], [255, 0]]
    assert read_mask(saved(tmp_path / "rgb.png", colors), COLORS).tolist() == expected
    assert read_mask(saved(tmp_path / "palette.png", as_palette), COLORS).tolist() == expected
    # a mask in which grey alone occurs is stored as numbers, and its greys are colors all the same
    assert read_mask(saved(tmp_path / "grey.png", colors[1:, :1]), COLORS).tolist() == [[255]]


@pytest.mark.parametrize(
    ("classes", "array", "reason"),
    [
        (GAPS, np.array([[7, 8, 300]], np.uint16), "it holds 8, 300, which is no class"),
        (GAPS, np.array([[[1, 2, 3]]], np.uint8), "it is a color image, and the other masks hold numbers"),
        (COLORS, np.array([[[0, 0, 255], [0, 1, 255]]], np.uint8), "it holds #0001ff, which is no class"),
    ],
)
def test_a_value_that_is_no_class_is_named_with_its_file(tmp_path, classes, array, reason):
    with pytest.raises(UnreadableImageError, match=rf"m\.png: {reason}"):
        read_mask(saved(tmp_path / "m.png", array), classes)


@pytest.mark.parametrize("classes", [GAPS, COLORS])
def test_classes_come_back_from_json(classes):
    assert MaskClasses.from_json(json.loads(json.dumps(classes.to_json()))) == classes
    assert "#0000ff" in json.dumps(COLORS.to_json())
    with pytest.raises(DataError, match="no classes of masks"):
        MaskClasses.from_json({"names": ["a"]})


def test_each_class_has_the_first_color_that_stands_for_it():
    assert COLORS.colors == (packed(0, 0, 255), packed(0, 128, 0))
    assert GAPS.colors is None


def test_a_mask_is_resized_by_the_centers_of_pixels_to_any_size():
    mask = np.random.default_rng(0).integers(0, 5, (23, 30), dtype=np.uint8)
    for shape in ((12, 15), (23, 30), (7, 41), (46, 60), (1, 1)):
        expected = functional.interpolate(torch.from_numpy(mask)[None, None], shape, mode="nearest-exact")[0, 0]
        assert np.array_equal(resize_mask(mask, shape), expected.numpy())
