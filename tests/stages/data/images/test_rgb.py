"""Every kind of pixel as a viewer shows it, against numbers that are worked out here."""

import numpy as np
import pytest
import torch
from PIL import Image

from stages.data.images.rgb import UnreadableImageError, as_rgb


def gray(values):
    """What all three channels of an image are; it is gray, so they are equal."""
    tensor = as_rgb(values)
    assert tensor.dtype == torch.uint8
    assert torch.equal(tensor[0], tensor[1])
    assert torch.equal(tensor[0], tensor[2])
    return tensor[0].tolist()


def test_channels_come_first_and_nothing_is_changed():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(as_rgb(Image.fromarray(pixels)).numpy(), pixels.transpose(2, 0, 1))


def test_sixteen_bits_are_scaled_and_not_clipped():
    levels = np.array([[0, 257, 25_700, 65_535]], dtype=np.uint16)
    assert gray(Image.fromarray(levels)) == [[0, 1, 100, 255]]


def test_floats_up_to_one_run_from_black_to_white():
    levels = np.array([[0.0, 0.2, 1.0]], dtype=np.float32)
    assert gray(Image.fromarray(levels)) == [[0, 51, 255]]


@pytest.mark.parametrize("levels", [[-10.0, 0.0, 10.0], [1e6, 2e6, 3e6]])
def test_numbers_without_an_agreed_white_run_from_the_darkest_to_the_brightest(levels):
    assert gray(Image.fromarray(np.array([levels], dtype=np.float32))) == [[0, 128, 255]]


def test_what_is_no_number_is_black_and_infinity_the_end_it_lies_at():
    levels = np.array([[np.nan, np.inf, -np.inf, 1.0]], dtype=np.float32)
    assert gray(Image.fromarray(levels)) == [[0, 255, 0, 255]]


@pytest.mark.parametrize(("alpha", "level"), [(255, 40), (0, 255), (51, 212)])
def test_transparency_is_laid_on_white(alpha, level):
    color = Image.new("RGBA", (2, 2), (40, 40, 40, alpha))
    assert gray(color) == [[level] * 2] * 2


def test_each_level_under_each_opacity_is_what_pillow_composites():
    levels = np.arange(256, dtype=np.uint8)
    every = np.stack(np.broadcast_arrays(levels[:, None], levels[::-1, None], levels[:, None] ^ 85, levels), axis=-1)
    image = Image.fromarray(every, "RGBA")
    composed = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    assert np.array_equal(as_rgb(image).permute(1, 2, 0), np.array(composed))


def test_a_palette_and_its_transparent_color_are_resolved():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert as_rgb(image.copy())[:, 0].T.tolist() == [[10, 20, 30], [200, 100, 50]]
    image.info["transparency"] = 1
    assert as_rgb(image)[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]


def test_black_and_white_and_cmyk_become_rgb():
    assert gray(Image.new("1", (1, 1), 1)) == [[255]]
    assert as_rgb(Image.new("CMYK", (1, 1), (255, 0, 0, 0)))[:, 0, 0].tolist() == [0, 255, 255]


def test_the_orientation_a_camera_noted_is_applied():
    image = Image.fromarray(np.array([[[10] * 3, [200] * 3]], dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    image.info["exif"] = exif.tobytes()
    assert as_rgb(image)[0].tolist() == [[10], [200]]


def test_a_reason_stands_with_the_place_where_that_is_known():
    assert str(UnreadableImageError("cut off")) == "cut off"
    assert str(UnreadableImageError("cut off", "a.jpg")) == "a.jpg: cut off"
