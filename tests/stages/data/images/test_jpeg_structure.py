"""Which JPEG files are whole and of a usual kind, against what a decoder says of the same bytes."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from stages.data.images.decode import decode
from stages.data.images.jpeg_structure import JpegSize, whole_jpegs
from stages.data.images.rgb import UnreadableImageError
from tests.photographs import photograph

KINDS = {
    "baseline": {"quality": 90},
    "4:4:4": {"quality": 80, "subsampling": 0},
    "4:2:2": {"quality": 95, "subsampling": 1},
    "own tables": {"quality": 80, "optimize": True},
    "restarts": {"quality": 80, "restart_marker_blocks": 3},
    "restarts of rows": {"quality": 75, "restart_marker_rows": 1},
}


def encoded(mode="RGB", size=(100, 75), **settings):
    stream = io.BytesIO()
    photograph((200, 90, 40), 3, side=100).resize(size).convert(mode).save(stream, "JPEG", **settings)
    return stream.getvalue()


def size_of(data):
    return whole_jpegs(np.frombuffer(data, np.uint8), [(0, len(data))])[0]


def verdict(data):
    try:
        return decode(data)
    except UnreadableImageError:
        return None


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_of_usual_kinds_are_known_with_their_size(kind, mode):
    settings = {name: value for name, value in KINDS[kind].items() if mode == "RGB" or name != "subsampling"}
    assert size_of(encoded(mode, **settings)) == JpegSize(75, 100)


def test_what_follows_the_end_and_what_lies_before_another_file_changes_nothing():
    whole = encoded()
    assert size_of(whole + b"\0" * 40) == size_of(whole + encoded(size=(30, 30))) == JpegSize(75, 100)
    others = [whole[:-2], encoded(size=(33, 17)), b"", b"\xff", b"no image", encoded("L"), whole]
    stops = np.cumsum([len(data) for data in others]).tolist()
    spans = list(zip([0, *stops[:-1]], stops, strict=True))
    sizes = whole_jpegs(np.frombuffer(b"".join(others), np.uint8), spans)
    assert sizes == [size_of(data) if data else None for data in others]
    assert sizes == [None, JpegSize(17, 33), None, None, None, JpegSize(75, 100), JpegSize(75, 100)]


def damaged(data, kind, chance):
    data = bytearray(data)
    place = chance.randrange(len(data))
    match kind:
        case "flip":
            for _ in range(chance.choice([1, 1, 3, 10])):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case "header":
            data[chance.randrange(min(len(data), 700))] = chance.randrange(256)
        case "cut":
            del data[place:]
        case "zero":
            data[place : place + 200] = bytes(len(data[place : place + 200]))
        case "delete":
            del data[place : place + chance.randrange(1, 500)]
        case "insert":
            data[place:place] = chance.randbytes(chance.randrange(1, 50))
        case "noise":
            data[place : place + 200] = chance.randbytes(len(data[place : place + 200]))
    return bytes(data)


@pytest.mark.parametrize("damage", ["flip", "header", "cut", "zero", "delete", "insert", "noise"])
def test_no_damaged_file_that_a_decoder_refuses_is_taken_for_whole(damage, capfd):
    chance = random.Random(damage)
    kinds = [encoded(**settings) for settings in KINDS.values()] + [encoded("L"), encoded("L", optimize=True)]
    refused = taken = 0
    for data in [damaged(chance.choice(kinds), damage, chance) for _ in range(700)]:
        size, pixels = size_of(data), verdict(data)
        refused += pixels is None
        taken += size is not None
        if size is not None:
            assert pixels is not None
            assert pixels.shape[1:] == size
    capfd.readouterr()  # libjpeg's own remarks on each
    assert refused > 20
    assert damage == "cut" or taken > 20


def test_each_byte_that_is_missing_at_the_end_is_missed():
    for kind in KINDS.values():
        data = encoded(**kind)
        assert not any(size_of(data[:-cut]) for cut in range(1, 300))


@pytest.mark.parametrize(
    ("mode", "settings"),
    [("CMYK", {}), ("RGB", {"keep_rgb": True})],
)
def test_colors_that_decoders_take_for_others_are_left_to_a_cpu(mode, settings):
    data = encoded(mode, **settings)
    assert size_of(data) is None
    assert verdict(data) is not None


def test_files_with_bytes_that_fill_are_left_to_a_cpu():
    """Behind which TorchCodec finds no EXIF, though libjpeg does."""
    whole = encoded()
    filled = whole[:2] + b"\xff" + whole[2:]
    assert size_of(filled) is None
    assert verdict(filled) is not None


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_progressive_files_are_left_to_a_cpu(mode):
    """Of which nvJPEG takes one after the other."""
    data = encoded(mode, progressive=True)
    assert size_of(data) is None
    assert verdict(data) is not None


def test_files_of_other_formats_and_bits_are_left_to_a_cpu():
    stream = io.BytesIO()
    Image.new("RGB", (20, 10)).save(stream, "PNG")
    whole = encoded()
    frame = whole.index(b"\xff\xc0")
    assert size_of(stream.getvalue()) is None
    for marker in (0xC1, 0xC3, 0xC9):  # extended, lossless, arithmetic
        assert size_of(whole[: frame + 1] + bytes([marker]) + whole[frame + 2 :]) is None
    assert size_of(whole[: frame + 4] + b"\x0c" + whole[frame + 5 :]) is None  # 12 bits
