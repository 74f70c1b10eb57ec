import io
import zlib

import numpy as np
import pytest
from PIL import Image

from stages.data.images.decode import decode
from stages.data.images.png import has_exif, significant_bits
from tests.stages.data.pictures import encoded, photograph, png_chunk

RAMP = np.array([[0, 1365, 2730, 4095]], np.uint16)
AFTER_HEADER = 33


def with_significant_bits(values, *bits):
    data = encoded(Image.fromarray(values), "PNG")
    return data[:AFTER_HEADER] + png_chunk(b"sBIT", bytes(bits)) + data[AFTER_HEADER:]


def gray(data):
    return decode(data)[0, 0].tolist()


def test_values_of_twelve_bits_have_the_white_of_twelve_bits():
    assert gray(with_significant_bits(RAMP, 12)) == [0, 85, 170, 255]


@pytest.mark.parametrize("stretched", [RAMP << 4, (RAMP << 4) | (RAMP >> 8)])
def test_values_that_were_stretched_over_sixteen_bits_are_not_stretched_again(stretched):
    assert gray(with_significant_bits(stretched.astype(np.uint16), 12)) == [0, 85, 170, 255]


def test_without_a_word_of_it_white_is_that_of_sixteen_bits():
    assert gray(encoded(Image.fromarray(RAMP), "PNG")) == [0, 5, 11, 16]
    assert gray(with_significant_bits(RAMP, 16)) == [0, 5, 11, 16]
    assert gray(with_significant_bits(RAMP, 10)) == [0, 5, 11, 16]  # which the values contradict


def test_the_chunk_is_found_among_others_and_nowhere_else():
    data = encoded(photograph(), "PNG")
    assert significant_bits(data) is None
    assert significant_bits(with_significant_bits(RAMP, 5, 6, 5)) == 6
    assert significant_bits(data[:AFTER_HEADER] + png_chunk(b"tEXt", b"sBIT") + data[AFTER_HEADER:]) is None
    assert significant_bits(data[:40]) is None


def test_sixteen_bits_that_pillow_holds_in_32_are_the_same(monkeypatch):
    """As before version 11 of Pillow."""
    data = with_significant_bits(RAMP, 12)
    expected = gray(data)
    monkeypatch.setattr("stages.data.images.decode.open_image_format", in_32_bits)
    assert gray(data) == expected


def in_32_bits(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    wide = image.convert("I")
    wide.format = "PNG"
    return wide


def with_exif(data, place):
    exif = Image.Exif()
    exif[274] = 6
    chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    return data[:place] + chunk + data[place:]


def test_exif_is_found_before_the_pixels_and_behind_them_and_not_among_them():
    data = encoded(photograph().resize((40, 30)), "PNG")
    behind = data.rindex(b"IEND") - 4
    assert not has_exif(data)
    for turned in (with_exif(data, AFTER_HEADER), with_exif(data, behind)):
        assert has_exif(turned)
        assert decode(turned).shape == (3, 40, 30)
    assert not has_exif(data + b"eXIf")
    named = np.tile(np.frombuffer(b"eXIf", np.uint8), (30, 10))
    rows = b"".join(b"\0" + row.tobytes() for row in named)  # as they are
    head = encoded(Image.fromarray(named), "PNG")[:AFTER_HEADER]
    stored = head + png_chunk(b"IDAT", zlib.compress(rows, 0)) + png_chunk(b"IEND", b"")
    assert b"eXIfeXIf" in stored
    assert not has_exif(stored)
    assert decode(stored)[0].tolist() == named.tolist()
    for end in range(len(data)):
        assert not has_exif(data[:end])
