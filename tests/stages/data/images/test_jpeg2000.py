"""JPEG 2000 of more than 8 bits, against numbers that are worked out here."""

import sys

import numpy as np
import pytest

from stages.config.pixel_values import parse_intensity_range
from stages.data.images.decode import decode
from stages.data.images.jpeg2000 import channel_bits, is_deep_color
from stages.data.images.reading import Reading
from stages.data.images.rgb import UnreadableImageError
from stages.data.sources.version_1 import is_read_as_in_version_1
from tests.stages.data.pictures import encoded, photograph


def jpeg_2000(ramp, bits, channels, codec="jp2"):
    """A ramp of blocks, without loss."""
    imagecodecs = pytest.importorskip("imagecodecs")
    blocks = np.repeat(np.repeat(np.array([ramp], np.uint16), 8, 0), 8, 1)
    values = blocks if channels == 1 else np.repeat(blocks[..., None], channels, 2)
    return imagecodecs.jpeg2k_encode(values, level=0, reversible=True, bitspersample=bits, codecformat=codec)


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("bits", "ramp"), [(12, [0, 1365, 2730, 4095]), (16, [0, 21845, 43690, 65535])])
def test_the_brightest_value_is_white(bits, ramp, channels, codec, tmp_path):
    data = jpeg_2000(ramp, bits, channels, codec)
    assert channel_bits(data) == [bits] * channels
    assert is_deep_color(data) == (channels > 1)
    image = decode(data)
    assert image.shape == (3, 8, 32)
    assert image[:, 0, ::8].tolist() == [[0, 85, 170, 255]] * 3
    (tmp_path / "image").write_bytes(data)
    assert is_read_as_in_version_1(str(tmp_path / "image")) == (channels == 1)


def test_a_range_and_channels_may_be_asked_for():
    data = jpeg_2000([0, 1365, 2730, 4095], 16, 3)
    twelve_bits = Reading(parse_intensity_range("bits:12"), channels=(1, 0, 2))
    assert decode(data, twelve_bits)[0, 0, ::8].tolist() == [0, 85, 170, 255]


def test_eight_bits_stay_with_pillow():
    data = encoded(photograph(), "JPEG2000")
    assert channel_bits(data) == [8, 8, 8]
    assert not is_deep_color(data)
    assert channel_bits(b"no code stream") == []


def test_where_the_library_is_missing_the_message_names_it(monkeypatch):
    data = jpeg_2000([0, 65535], 16, 3)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(UnreadableImageError, match=r"needs imagecodecs: pip install 'imagecodecs>=2023\.1'"):
        decode(data)
