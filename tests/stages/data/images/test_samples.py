"""Values of every type in 8 bits, against numbers that are worked out here."""

import numpy as np
import pytest

from stages.config.pixel_values import FULL, parse_intensity_range
from stages.data.images.samples import Samples, eight_bits


def levels(values, intensity=FULL, **header):
    """The levels of a row of values of one channel, and what was remarked."""
    remarks = []
    pixels = eight_bits(Samples(np.asarray(values)[None, :, None], **header), intensity, remarks)
    return pixels[0, :, 0].tolist(), set(remarks) - {"few levels", "deep"}


def test_eight_bits_are_never_touched():
    values = np.array([0, 7, 255], np.uint8)
    assert levels(values, parse_intensity_range("3,9")) == ([0, 7, 255], set())


def test_white_is_what_the_file_says():
    ramp = np.array([0, 1365, 2730, 4095], np.uint16)
    assert levels(ramp, white=4095.0) == ([0, 85, 170, 255], set())
    assert levels(ramp, white=65535.0) == ([0, 5, 11, 16], set())
    assert levels(ramp, black=1365.0, white=4095.0) == ([0, 0, 128, 255], {"clipped"})


def test_a_file_whose_zero_is_white_is_no_negative():
    assert levels(np.array([0, 65535], np.uint16), white=65535.0, inverted=True) == ([255, 0], set())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint32])
def test_an_image_of_one_value_is_no_error(dtype):
    assert levels(np.full(3, 70_000, dtype)) == ([0, 0, 0], {"stretched"})


@pytest.mark.parametrize("stand_in", [-9999, -32768, np.finfo(np.float32).min, np.finfo(np.float32).max])
def test_pixels_without_a_value_are_black_and_do_not_spoil_the_others(stand_in):
    assert levels(np.array([stand_in, 10, 15, 20], np.float32)) == ([0, 0, 128, 255], {"stretched"})


def test_what_the_file_names_as_no_value_is_none_whatever_it_is():
    assert levels(np.array([12345, 100, 160, 200], np.float32), no_data=12345.0) == ([0, 0, 153, 255], {"stretched"})
    assert levels(np.array([7, 0, 65535], np.uint16), white=65535.0, no_data=7.0, inverted=True)[0] == [0, 255, 0]


def test_infinity_lies_at_its_end_and_what_is_no_number_is_black():
    assert levels(np.array([np.inf, -np.inf, np.nan, 5, 10], np.float32)) == ([255, 0, 0, 0, 255], {"stretched"})
    assert levels(np.array([np.nan, np.inf], np.float32)) == ([0, 255], set())


def test_one_range_for_all_images_stretches_none_by_itself():
    twelve = parse_intensity_range("bits:12")
    assert levels(np.array([0, 4095], np.uint16), twelve, white=65535.0) == ([0, 255], set())
    assert levels(np.array([0, 2048, 5000], np.uint16), twelve, white=65535.0) == ([0, 128, 255], {"clipped"})
    assert levels(np.array([-5.0, 5.0]), parse_intensity_range("-10,10")) == ([64, 191], set())


def test_images_that_lose_nearly_all_their_levels_are_remarked():
    ramp = np.arange(4096, dtype=np.uint16)[None, :, None]
    for white, lost in ((65535.0, True), (4095.0, False)):
        remarks = []
        eight_bits(Samples(ramp, white=white), FULL, remarks)
        assert ("few levels" in remarks) == lost
