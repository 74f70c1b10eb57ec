"""TorchCodec and Pillow give the same pixels, so either may be there."""

import logging
import struct
import zlib

import pytest
import torch
from PIL import Image

from stages.config.pixel_values import parse_intensity_range
from stages.data.images import codecs
from stages.data.images.decode import decode
from stages.data.images.reading import Reading
from stages.data.images.rgb import UnreadableImageError
from tests.stages.data.pictures import encoded, photograph, png_chunk

JPEG_OPTIONS = [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 20, "optimize": True}]
FILES = {
    **{f"JPEG {options}": encoded(photograph(), "JPEG", **options) for options in JPEG_OPTIONS},
    **{f"JPEG {mode}": encoded(photograph().convert(mode), "JPEG") for mode in ("L", "CMYK")},
    **{f"PNG {mode}": encoded(photograph().convert(mode), "PNG") for mode in ("RGB", "L", "P", "RGBA", "LA", "1")},
    **{f"WEBP {lossless}": encoded(photograph(), "WEBP", lossless=lossless) for lossless in (False, True)},
}


@pytest.fixture
def without_torchcodec(monkeypatch):
    def missing(name):
        raise ImportError(f"libcudart.so.13: cannot open shared object file ({name})")

    monkeypatch.setattr(codecs, "import_module", missing)
    codecs.torchcodec_decoders.cache_clear()
    yield
    codecs.torchcodec_decoders.cache_clear()


@pytest.fixture(scope="module")
def by_torchcodec():
    return {name: decode(data) for name, data in FILES.items()}


def test_torchcodec_loads_here_and_is_asked():
    assert codecs.rgb_decoder("jpeg") is not None


@pytest.mark.parametrize("name", FILES)
def test_pixels_do_not_depend_on_what_decodes(name, by_torchcodec, without_torchcodec):
    assert torch.equal(decode(FILES[name]), by_torchcodec[name])


def test_where_it_does_not_load_one_line_says_why_and_what_to_do(without_torchcodec, caplog):
    with caplog.at_level(logging.INFO, "cutonce"):
        decode(FILES["PNG RGB"])
        decode(FILES["PNG RGB"])
    [record] = caplog.records
    assert "decoded by Pillow, with the same pixels but slower" in record.message
    assert "libcudart.so.13" in record.message


def test_what_only_torchcodec_reads_is_refused_by_its_name(without_torchcodec):
    with pytest.raises(UnreadableImageError, match="pip install 'torchcodec"):
        decode(deep_png(), Reading(parse_intensity_range("bits:12")))


def test_a_png_of_several_deep_channels_follows_the_range():
    twelve = decode(deep_png(), Reading(parse_intensity_range("bits:12")))
    assert twelve[:, 0, 0].tolist() == [0, 128, 255]


def deep_png():
    """A PNG of one pixel, red 0, green 2,048 and blue 4,095 of 65,535, which Pillow does not write."""
    row = b"\0" + struct.pack(">HHH", 0, 2048, 4095)
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    chunks = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(row)), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_message_has_no_place_in_a_source_file():
    assert codecs.first_line(RuntimeError("decode, /a/b.cpp:12, Image is cut.\nmore")) == "Image is cut."
    assert codecs.first_line(ValueError()) == "ValueError"


def test_an_image_that_is_turned_or_transparent_is_left_to_pillow():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(photograph(), "PNG", exif=exif)).shape == (3, 60, 40)
    image = photograph().convert("RGBA")
    image.putalpha(0)
    assert decode(encoded(image, "PNG")).min() == 255
