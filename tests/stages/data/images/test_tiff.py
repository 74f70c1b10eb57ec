"""TIFF of every layout, written by tifffile, against numbers that are worked out here."""

import io
import logging
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from stages.config.pixel_values import parse_intensity_range
from stages.data.images.decode import decode
from stages.data.images.reading import Reading
from stages.data.images.rgb import UnreadableImageError
from stages.data.images.tiff import is_tiff
from tests.stages.data.pictures import encoded, photograph

RAMP = np.array([[0, 1365, 2730, 4095]], np.uint16)
DEEP = np.random.default_rng(0).integers(0, 65536, (6, 5, 3)).astype(np.uint16)
ROUNDED = np.round(DEEP * (255 / 65535)).astype(np.uint8)
ORIENTATION, MAX_SAMPLE_VALUE, GDAL_NO_DATA = 274, 281, 42113


def tiff(values, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def with_overview(image=DEEP[..., 0], *, big=False):
    """A TIFF of one image with a smaller copy of it behind."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=big) as file:
        file.write(image)
        file.write(image[::2, ::2], subfiletype=1)
    return buffer.getvalue()


def shown(data, reading=Reading()):  # noqa: B008 - frozen
    return decode(data, reading).permute(1, 2, 0).numpy()


def packed_12_bits(values):
    """A TIFF of one strip in which two values take three bytes."""
    pairs = values.reshape(-1, 2)
    body = b"".join(int((int(a) << 12) | int(b)).to_bytes(3, "big") for a, b in pairs)
    tags = [(256, values.shape[1]), (257, values.shape[0]), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, values.shape[0]), (279, len(body))]
    offset = 8 + len(body) + len(body) % 2
    directory = len(tags).to_bytes(2, "big")
    for code, value in tags:
        kind, size = (4, 4) if code in (273, 279) else (3, 2)
        field = value.to_bytes(size, "big").ljust(4, b"\0")
        directory += code.to_bytes(2, "big") + kind.to_bytes(2, "big") + (1).to_bytes(4, "big") + field
    return b"MM\0*" + offset.to_bytes(4, "big") + body.ljust(offset - 8, b"\0") + directory + bytes(4)


def test_twelve_bits_have_the_white_of_twelve_bits():
    assert shown(packed_12_bits(RAMP))[0, :, 0].tolist() == [0, 85, 170, 255]


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_the_largest_value_that_the_file_names_is_white(byteorder):
    data = tiff(RAMP, byteorder=byteorder, extratags=[(MAX_SAMPLE_VALUE, "H", 1, 4095, True)])
    assert shown(data)[0, :, 0].tolist() == [0, 85, 170, 255]
    assert shown(tiff(RAMP, byteorder=byteorder))[0, :, 0].tolist() == [0, 5, 11, 16]


@pytest.mark.parametrize("values", [np.array([[0, 43690, 65535]], np.uint16), np.array([[0, 170, 255]], np.uint8)])
def test_where_zero_is_white_no_depth_gives_a_negative(values):
    assert shown(tiff(values, photometric="miniswhite"))[0, :, 0].tolist() == [255, 85, 0]


def test_channels_of_sixteen_bits_one_after_another_are_no_stripes():
    data = tiff(np.moveaxis(DEEP, -1, 0), photometric="rgb", planarconfig="separate")
    assert np.array_equal(shown(data), ROUNDED)


def test_channels_of_sixteen_bits_side_by_side_follow_the_range_that_is_asked_for():
    assert np.array_equal(shown(tiff(DEEP, photometric="rgb")), (DEEP >> 8).astype(np.uint8))
    dark = (DEEP >> 4).astype(np.uint16)
    twelve = Reading(parse_intensity_range("bits:12"))
    assert np.array_equal(shown(tiff(dark, photometric="rgb"), twelve), np.round(dark * (255 / 4095)).astype(np.uint8))


@pytest.mark.parametrize("layout", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_of_many_channels_those_that_are_named_are_taken(layout, dtype, caplog):
    values = np.random.default_rng(1).integers(0, 256, (6, 5, 7)).astype(dtype) * dtype(np.iinfo(dtype).max // 255)
    stored = values if layout == "contig" else np.moveaxis(values, -1, 0)
    data = tiff(stored, photometric="minisblack", planarconfig=layout)
    with pytest.raises(UnreadableImageError, match="7 channels: `channels`"), caplog.at_level(logging.WARNING):
        decode(data)
    assert not caplog.records  # what Pillow says of such a file, for each
    expected = (values // dtype(np.iinfo(dtype).max // 255)).astype(np.uint8)
    assert np.array_equal(shown(data, Reading(channels=(2, 1, 0))), expected[..., [2, 1, 0]])
    assert np.array_equal(shown(data, Reading(channels=(6,))), expected[..., [6, 6, 6]])
    assert np.array_equal(shown(data, Reading(channels=tuple(range(7)))), expected)
    with pytest.raises(UnreadableImageError, match="there is no number 7"):
        decode(data, Reading(channels=(0, 1, 7)))


def test_pages_are_chosen_and_the_brightest_is_taken_pixel_by_pixel():
    stack = np.stack([np.full((4, 4), level, np.uint8) for level in (10, 200, 30)])
    stack[2, 0, 0] = 250
    data = tiff(stack, photometric="minisblack")
    for page, level in (("first", 10), ("middle", 200), (2, 30)):
        assert shown(data, Reading(page=page))[1, 1].tolist() == [level] * 3
    brightest = shown(data, Reading(page="max"))
    assert (brightest[0, 0, 0], brightest[1, 1, 0]) == (250, 200)
    with pytest.raises(UnreadableImageError, match="3 pages, the first is number 0: there is no page 3"):
        decode(data, Reading(page=3))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_a_page_that_a_file_of_one_has_not_is_missed_whatever_decodes_it(kind):
    data = encoded(photograph(), kind)
    for page in (0, "middle", "max"):
        assert np.array_equal(decode(data, Reading(page=page)), decode(data))
    with pytest.raises(UnreadableImageError, match="1 pages, the first is number 0: there is no page 3"):
        decode(data, Reading(page=3))


def test_pages_of_different_sizes_have_no_brightest():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for side in (4, 6):
            writer.write(np.zeros((side, side), np.uint8), photometric="minisblack")
    with pytest.raises(UnreadableImageError, match="different sizes, 4 x 4 and 6 x 6"):
        decode(buffer.getvalue(), Reading(page="max"))


def test_a_file_with_pages_left_is_remarked():
    remarks = []
    decode(tiff(np.zeros((3, 4, 4), np.uint16), photometric="minisblack"), remarks=remarks)
    assert "pages left" in remarks
    remarks.clear()
    decode(tiff(np.zeros((4, 4), np.uint16)), remarks=remarks)
    assert "pages left" not in remarks


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_reader_turns_upright(orientation):
    """What tifffile reads is turned as what Pillow reads, which is the reference."""
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    extra = [(ORIENTATION, "H", 1, orientation, True)]
    by_pillow = shown(tiff(gray, extratags=extra))
    many = np.stack([gray] * 5, axis=-1)
    by_tifffile = shown(
        tiff(many, photometric="minisblack", planarconfig="contig", extratags=extra), Reading(channels=(4,))
    )
    assert np.array_equal(by_tifffile, by_pillow)


def test_the_value_of_missing_pixels_is_read_from_the_tags():
    values = np.array([[-1.5, 10, 15, 20]], np.float32)
    assert shown(tiff(values, extratags=[(GDAL_NO_DATA, "s", 0, "-1.5", True)]))[0, :, 0].tolist() == [0, 0, 128, 255]


def test_opacity_of_sixteen_bits_is_laid_on_white():
    values = np.zeros((1, 2, 4), np.uint16)
    values[0, 0, 3] = 65535
    data = tiff(np.moveaxis(values, -1, 0), photometric="rgb", planarconfig="separate", extrasamples=["unassalpha"])
    assert shown(data)[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("bigtiff", [False, True])
def test_unsigned_numbers_of_32_bits_are_not_read_as_negative(bigtiff):
    data = tiff(np.array([[0, 2**31, 2**32 - 1]], np.uint32), bigtiff=bigtiff)
    assert is_tiff(data)
    assert shown(data)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("lost", [5, 60, 150])
def test_a_damaged_file_is_unreadable_and_nothing_else(lost):
    data = tiff(np.moveaxis(DEEP, -1, 0), photometric="rgb", planarconfig="separate")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UnreadableImageError):
            decode(data[:-lost])


def test_a_compression_that_needs_a_library_names_it(monkeypatch):
    def asarray(page):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", asarray)
    with pytest.raises(UnreadableImageError, match="pip install 'imagecodecs"):
        decode(tiff(np.moveaxis(DEEP, -1, 0), photometric="rgb", planarconfig="separate"))


def test_files_of_eight_bits_are_shown_as_pillow_shows_them():
    for mode in ("1", "L", "P", "RGB", "CMYK"):
        image = Image.fromarray(ROUNDED).convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, "TIFF")
        assert np.array_equal(shown(buffer.getvalue()), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("bigtiff", [False, True])
def test_more_values_than_memory_holds_are_refused_before_they_are_decoded(bigtiff, monkeypatch):
    monkeypatch.setattr("stages.data.images.tiff.VALUE_LIMIT", 6 * 5 * 7 - 1)
    data = tiff(np.zeros((6, 5, 7), np.uint8), photometric="minisblack", planarconfig="contig", bigtiff=bigtiff)
    with pytest.raises(UnreadableImageError, match="more than 209 values"):
        decode(data, Reading(channels=(0, 1, 2)))


def test_signed_numbers_are_read_as_such():
    assert shown(tiff(np.array([[-128, -1, 0, 127]], np.int8)))[0, :, 0].tolist() == [0, 127, 128, 255]
    assert shown(tiff(np.array([[0, 64, 127]], np.int8)))[0, :, 0].tolist() == [0, 129, 255]
    assert shown(tiff(np.array([[0, 16384, 32767]], np.int16)))[0, :, 0].tolist() == [0, 128, 255]
    assert shown(tiff(np.array([[-9999, 0, 32767]], np.int16)))[0, :, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("big", [False, True])
def test_overviews_of_one_image_are_no_pages(dtype, big):
    """As GeoTIFF for the cloud has them."""
    image = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(dtype)
    data = with_overview(image, big=big)
    remarks = []
    first = decode(data, remarks=remarks)
    assert "pages left" not in remarks
    assert decode(data, Reading(page="max")).equal(first)
    with pytest.raises(UnreadableImageError, match="there is no page 1"):
        decode(data, Reading(page=1))
    stack = tiff(np.stack([image, image + 1]), photometric="minisblack", bigtiff=big)
    remarks = []
    decode(stack, remarks=remarks)
    assert "pages left" in remarks
