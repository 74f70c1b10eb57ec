import contextlib
import io
import os
import pickle
import struct
import threading
import zlib

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cache.errors import DataError
from stages.data.images.decode import PIXEL_LIMIT, decode
from stages.data.images.preprocessing import Preprocessing
from stages.data.images.reading import Reading
from stages.data.images.rgb import UnreadableImageError
from stages.data.sources.open_image import read_image
from tests.stages.data.pictures import encoded, photograph, pixels, png_chunk

# how a camera held differently stores what is seen upright: orientation tag -> what undoes it
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def rotated(upright: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    operation = STORED[orientation]
    return (upright if operation is None else upright.transpose(operation)), exif


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
    ],
)
def test_photographs_stand_upright(kind, options, orientation):
    upright = photograph()
    stored, exif = rotated(upright, orientation)
    image = decode(encoded(stored, kind, exif=exif, **options)).numpy()
    assert image.shape == (3, 40, 60)
    assert np.abs(image.astype(int) - pixels(upright)).mean() < (3 if kind == "JPEG" else 0.001)


def test_orientation_counts_wherever_exif_stands_in_a_jpeg():
    """TorchCodec looks into the first segment of its kind alone, which may be XMP."""
    stored, exif = rotated(photograph(), 6)
    data = encoded(stored, "JPEG", exif=exif)
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"
    segment = b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp
    before, after = data[:2] + segment + data[2:], encoded(stored, "JPEG", exif=exif, xmp=xmp[29:])
    assert torch.equal(decode(before), decode(data))
    assert torch.equal(decode(after), decode(data))


def test_orientation_of_a_camera_that_writes_big_endian():
    stored, exif = rotated(photograph(), 6)
    exif.endian = ">"
    assert decode(encoded(stored, "JPEG", exif=exif)).shape == (3, 40, 60)


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("RGB", "JPEG", {"subsampling": 2, "quality": 50}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "MPO", {"save_all": True, "append_images": [photograph(seed=1)]}),
        ("RGB", "WEBP", {}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "PNG", {}),
        ("L", "PNG", {}),
        ("1", "PNG", {}),
        ("P", "PNG", {}),
        ("P", "GIF", {}),
        ("RGB", "BMP", {}),
        ("RGB", "TIFF", {}),
        ("CMYK", "TIFF", {}),
        ("YCbCr", "TIFF", {}),
        ("RGB", "PPM", {}),
        ("RGB", "TGA", {}),
    ],
)
def test_opaque_images_have_the_pixels_pillow_shows(mode, kind, options):
    data = encoded(photograph().convert(mode), kind, **options)
    with Image.open(io.BytesIO(data)) as opened:
        expected = pixels(opened)
    image = decode(data)
    assert image.dtype == torch.uint8
    assert np.array_equal(image.numpy(), expected)


@pytest.mark.parametrize("variant", ["no Adobe marker", "YCCK"])
def test_unusual_cmyk_has_the_pixels_pillow_shows(variant):
    data = encoded(photograph().convert("CMYK"), "JPEG")
    marker = data.index(b"\xff\xee")
    end = marker + 2 + int.from_bytes(data[marker + 2 : marker + 4], "big")
    data = data[:marker] + (b"" if variant == "no Adobe marker" else data[marker : end - 1] + b"\2") + data[end:]
    with Image.open(io.BytesIO(data)) as opened:
        assert np.array_equal(decode(data).numpy(), pixels(opened))


def test_cmyk_is_not_inverted():
    red = decode(encoded(Image.new("RGB", (16, 16), "red").convert("CMYK"), "JPEG"))
    assert red[:, 8, 8].tolist() == pytest.approx([255, 0, 0], abs=4)


def transparent_palette() -> bytes:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 1)
    return encoded(image, "PNG", transparency=0)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG"), [255, 255, 255]),
        (encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "PNG"), [255, 127, 127]),
        (encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "WEBP", lossless=True), [255, 127, 127]),
        (encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "TIFF"), [255, 127, 127]),
        (encoded(Image.new("LA", (4, 4), (0, 128)), "PNG"), [127, 127, 127]),
        (encoded(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3)), [255, 255, 255]),
        (encoded(Image.new("L", (4, 4), 7), "PNG", transparency=7), [255, 255, 255]),
        (transparent_palette(), [255, 255, 255]),
        (encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "GIF"), [255, 255, 255]),
    ],
    ids=["rgba-clear", "rgba-half", "webp", "tiff", "la", "rgb-key", "grey-key", "palette", "gif"],
)
def test_transparency_is_laid_on_white(data, expected):
    assert decode(data)[:, 2, 2].tolist() == pytest.approx(expected, abs=1)


RAMP = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)


def png_of_16_bit_color(values: np.ndarray) -> bytes:
    """A 16-bit RGB PNG, which Pillow cannot write. `values` is uint16 [H, W, 3]."""

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(rows), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in chunks.items())


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(RAMP), "PNG"),
        encoded(Image.fromarray(RAMP), "TIFF"),
        encoded(Image.frombytes("I;16B", (16, 16), RAMP.astype(">u2").tobytes()), "TIFF"),
        b"P5 16 16 65535\n" + RAMP.astype(">u2").tobytes(),
        encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
        encoded(Image.fromarray((RAMP * 3.0 - 1e4).astype(np.float32)), "TIFF"),
        png_of_16_bit_color(np.repeat(RAMP[..., None], 3, axis=2)),
    ],
    ids=["png", "tiff", "tiff-big-endian", "pgm", "int32", "float-0-1", "float-any", "png-rgb"],
)
def test_more_than_eight_bits_are_scaled_and_not_clipped(data):
    image = decode(data)
    assert image.shape == (3, 16, 16)
    assert np.abs(image[0].numpy().astype(int).ravel() - np.arange(256)).max() <= 1
    assert torch.equal(image[0], image[2])


def test_a_dark_16_bit_image_stays_dark():
    image = Image.fromarray(np.full((4, 4), 257 * 10, dtype=np.uint16))
    assert decode(encoded(image, "PNG")).unique().tolist() == [10]


@pytest.mark.parametrize("orientation", STORED)
def test_16_bit_photographs_stand_upright(orientation):
    upright = Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000)
    stored, exif = rotated(upright, orientation)
    image = decode(encoded(stored, "PNG", exif=exif))
    assert image[0].tolist() == decode(encoded(upright, "PNG"))[0].tolist()


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_an_animation_is_its_first_frame(kind, options):
    first, second = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert decode(data)[:, 4, 4].tolist() == pytest.approx([255, 0, 0], abs=2)


ODD_EXIF = {
    "no header": b"no TIFF header at all",
    "header cut off": b"II*\0",
    "entries cut off": b"II*\0\x08\0\0\0\x05\0\x12\x01",
    "points outside": b"II*\0\xff\xff\0\0",
    "no such orientation": b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", ODD_EXIF.values(), ids=ODD_EXIF)
@pytest.mark.parametrize(("kind", "shorter_side"), [("JPEG", None), ("JPEG", 10), ("PNG", None), ("WEBP", None)])
def test_an_image_with_damaged_exif_is_shown_as_it_is_stored(kind, shorter_side, exif):
    with_exif = encoded(photograph(), kind, exif=(b"" if kind == "PNG" else b"Exif\0\0") + exif)
    assert torch.equal(
        decode(with_exif, Reading(shorter_side=shorter_side)),
        decode(encoded(photograph(), kind), Reading(shorter_side=shorter_side)),
    )


@pytest.mark.skipif(
    int(PIL.__version__.partition(".")[0]) < 13, reason="Pillow before 13 reads nothing behind an entry that is damaged"
)
@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize(("kind", "shorter_side"), [("JPEG", None), ("JPEG", 10), ("PNG", None), ("WEBP", None)])
def test_orientation_counts_where_other_exif_is_damaged(kind, shorter_side):
    orientation_6 = b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    maker_beyond_the_end = b"\x0f\x01\x02\0\xff\0\0\0\xff\xff\0\0"
    exif = b"II*\0\x08\0\0\0\x02\0" + maker_beyond_the_end + orientation_6 + b"\0\0\0\0"
    data = encoded(photograph(), kind, exif=(b"" if kind == "PNG" else b"Exif\0\0") + exif)
    height, width = decode(data, Reading(shorter_side=shorter_side)).shape[1:]
    assert height > width


LARGE = photograph(800, 600)


@pytest.mark.parametrize(
    ("shorter_side", "size"),
    [
        (151, (800, 600)),  # half of it would leave 300 pixels, less than twice 151
        (150, (400, 300)),
        (76, (400, 300)),
        (75, (200, 150)),
        (37, (100, 75)),
        (5, (100, 75)),  # JPEG has nothing below an eighth
    ],
)
@pytest.mark.parametrize("standing", [False, True])
def test_reduced_scale_leaves_at_least_twice_the_shorter_side(shorter_side, size, standing):
    data = encoded(LARGE.transpose(Image.Transpose.ROTATE_90) if standing else LARGE, "JPEG")
    width, height = reversed(size) if standing else size
    assert decode(data, Reading(shorter_side=shorter_side)).shape == (3, height, width)


def test_reduced_scale_rounds_odd_sides_up():
    assert decode(encoded(photograph(801, 603), "JPEG"), Reading(shorter_side=75)).shape == (3, 151, 201)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "MPO", {"save_all": True, "append_images": [photograph(seed=1)]}),
    ],
)
def test_photographs_at_reduced_scale_stand_upright_and_look_the_same(mode, kind, options, orientation):
    stored, exif = rotated(LARGE.convert(mode), orientation)
    data = encoded(stored, kind, exif=exif, quality=90, **options)
    reduced = decode(data, Reading(shorter_side=75))
    assert reduced.dtype == torch.uint8
    assert reduced.shape == (3, 150, 200)
    render = Preprocessing(64, 75).render
    difference = (render(reduced).int() - render(decode(data)).int()).abs()
    assert difference.float().mean() < 1


def test_orientation_in_xmp_turns_neither_the_full_nor_the_reduced_image():
    data = encoded(LARGE, "JPEG", xmp=b'<rdf:Description tiff:Orientation="6"/>')
    assert decode(data).shape == (3, 600, 800)
    assert decode(data, Reading(shorter_side=75)).shape == (3, 150, 200)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000"])
def test_what_is_no_jpeg_is_decoded_in_full(kind):
    data = encoded(photograph(160, 120), kind)
    assert torch.equal(decode(data, Reading(shorter_side=10)), decode(data))


def test_an_image_not_large_enough_to_be_reduced_has_the_pixels_of_full_decoding():
    data = encoded(LARGE, "JPEG")
    assert torch.equal(decode(data, Reading(shorter_side=151)), decode(data))


def test_files_are_read_at_reduced_scale_and_arrays_as_they_are(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(LARGE, "JPEG"))
    assert read_image(str(tmp_path / "a.jpg"), Reading(shorter_side=75)).shape == (3, 150, 200)
    assert read_image(str(tmp_path / "a.jpg")).shape == (3, 600, 800)
    assert read_image("digits:0", Reading(shorter_side=2)).shape == (3, 8, 8)


JPEG = encoded(photograph(), "JPEG")


@pytest.mark.parametrize("shorter_side", [None, 10])
@pytest.mark.parametrize("lost", [3, 10, 100, 300, 800])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
def test_truncated_jpeg_is_an_error_and_not_half_an_image(lost, options, shorter_side):
    data = encoded(photograph(), "JPEG", **options)
    with pytest.raises(UnreadableImageError, match=r"(?i)truncated"):
        decode(data[:-lost], Reading(shorter_side=shorter_side))


@pytest.mark.parametrize("shorter_side", [None, 10])
@pytest.mark.parametrize("end", [b"", b"\0" * 100])
@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 1}, {"optimize": True}])
def test_a_jpeg_without_the_marker_at_its_end_is_whole(options, end, shorter_side):
    data = encoded(photograph(), "JPEG", **options)
    reading = Reading(shorter_side=shorter_side)
    assert torch.equal(decode(data[:-2] + end, reading), decode(data, reading))


def test_of_a_progressive_jpeg_without_the_marker_nobody_knows_whether_a_scan_is_missing():
    with pytest.raises(UnreadableImageError, match=r"(?i)truncated"):
        decode(encoded(photograph(), "JPEG", progressive=True)[:-2])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_other_truncated_files_are_errors(kind):
    data = encoded(photograph(), kind)
    with pytest.raises(UnreadableImageError):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"dear diary, " * 40, "not an image of a known format"),
        (JPEG[:-100], "incomplete or truncated"),
        (encoded(photograph(), "PNG")[:500], "truncated"),
    ],
)
def test_reasons_are_short_and_plain(data, reason):
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        decode(data)
    assert len(caught.value.reason) < 100
    assert ".cpp" not in caught.value.reason


def png_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("1", (8, 8)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(JPEG)
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("shorter_side", [None, 256])
@pytest.mark.parametrize("data", [png_header(50_000, 50_000), jpeg_header(50_000, 50_000)], ids=["png", "jpeg"])
def test_a_bomb_is_refused_before_it_is_decoded(data, shorter_side):
    with pytest.raises(UnreadableImageError, match=f"^more than {PIXEL_LIMIT:,} pixels: make it smaller"):
        decode(data, Reading(shorter_side=shorter_side))


def test_the_pixel_limit_holds_where_pillows_own_is_switched_off(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(UnreadableImageError, match=f"{PIXEL_LIMIT:,}"):
        decode(png_header(50_000, 50_000))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_an_image_or_a_reason(data):
    """Nothing else: no other exception, and above all no crash of the process."""
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]))
    damaged = bytearray(encoded(photograph(24, 16), kind))
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[position] = data.draw(st.integers(0, 255))
    damaged = bytes(damaged[: data.draw(st.integers(1, len(damaged)))])
    with contextlib.suppress(UnreadableImageError):
        image = decode(damaged, Reading(shorter_side=data.draw(st.sampled_from([None, 4]))))
        assert image.dtype == torch.uint8
        assert image.shape[0] == 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_damage_that_leaves_an_image_is_read_past(kind):
    """Whatever Pillow still shows of a file is shown here, pixel for pixel; what it refuses is refused."""
    whole = encoded(photograph(24, 16), kind)
    shown = 0
    for position in range(len(whole) // 2, len(whole) - 20, 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        try:
            expected = pixels(Image.open(io.BytesIO(damaged)))
        except Exception:  # noqa: BLE001 - Pillow raises what its decoders raise
            with pytest.raises(UnreadableImageError):
                decode(bytes(damaged))
        else:
            assert np.array_equal(decode(bytes(damaged)).numpy(), expected)
            shown += 1
    assert shown > 0


def test_flipped_bits_in_png_data_do_not_end_the_process():
    png = encoded(photograph(), "PNG")
    refused = 0
    for position in range(60, len(png) - 20, 97):
        damaged = bytearray(png)
        damaged[position] ^= 0xFF
        try:
            decode(bytes(damaged))
        except UnreadableImageError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    "name",
    [
        b"new\nline.jpg",
        "emoji \N{TULIP}.jpg".encode(),
        b"a,b\"c'd.jpg",
        b"%s {x} $HOME ?root=.jpg",
        b"x" * 251 + b".jpg",
        b"not unicode \xff\xfe.jpg",
    ],
)
def test_any_file_name_works(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(JPEG)
    assert torch.equal(read_image(str(path)), decode(JPEG))


def test_what_is_no_file_is_named_with_its_reason(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {
        "folder.png": "a folder",
        "link.png": "a link to a file that does not exist",
        "pipe.png": "not a regular file",
        "nothing.png": "no such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=reason) as caught:
            read_image(str(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value)
        assert name not in caught.value.reason


def test_the_error_survives_the_way_out_of_a_worker_process():
    error = UnreadableImageError("cut off", "a.jpg")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.reason, copy.location, str(copy)) == ("cut off", "a.jpg", "a.jpg: cut off")
    assert str(type(error)(str(error))) == "a.jpg: cut off"  # how torch's data loader raises it again


def test_many_threads_decode_at_once():
    data = [encoded(photograph(64, 48, seed), kind) for seed in range(4) for kind in ("JPEG", "PNG", "WEBP", "TIFF")]
    expected = [decode(content) for content in data]
    wrong = []

    def check(order):
        wrong.extend(index for index in order if not torch.equal(decode(data[index]), expected[index]))

    threads = [threading.Thread(target=check, args=(range(start, len(data)),)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
