"""Only formats of images are opened, and what is something else is called by its name."""

import io
import shutil
import stat

import numpy as np
import pytest
from PIL import Image

from stages.data.images.decode import decode
from stages.data.images.file_kinds import COMMON, OTHERS, describe_unknown
from stages.data.images.rgb import UnreadableImageError

POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
0 0 8 8 rectfill
showpage
%%EOF
"""

KINDS = {
    "PostScript": (POSTSCRIPT, "PostScript, which is a program and is not run"),
    "PostScript with a preview": (b"\xc5\xd0\xd3\xc6" + bytes(60), "PostScript"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "a PDF document; save its pages as PNG"),
    "iPhone": (b"\x00\x00\x00\x24ftypheic\x00\x00\x00\x00mif1heic" + bytes(40), "a HEIC photograph"),
    "JPEG XL": (b"\xff\x0a\xfa\x1f\x41\x10" + bytes(40), "JPEG XL"),
    "JPEG XL in a container": (b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL"),
    "DICOM": (bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00", "a DICOM file"),
    "NIfTI": (b"\x5c\x01\x00\x00" + bytes(340) + b"n+1\x00" + bytes(40), "a NIfTI volume"),
    "a web page": (b"\n<!DOCTYPE html>\n<html><title>404</title></html>", "a web page: the server answered with it"),
    "a web page that begins with a comment": (b"<!-- cached --><HTML lang='de'>", "a web page"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "run git lfs pull"),
    "SVG": (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG, a drawing without pixels"),
    "MP4": (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2" + bytes(40), "a video; save its frames"),
    "Matroska": (b"\x1aE\xdf\xa3\x01" + bytes(40), "a video"),
    "AVI": (b"RIFF\x00\x01\x00\x00AVI LIST" + bytes(40), "a video"),
    "ZIP": (b"PK\x03\x04\x14\x00" + bytes(40), "a ZIP archive; unpack it"),
    "NumPy": (b"\x93NUMPY\x01\x00v\x00{'descr': '|u1'}", "a NumPy array"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file"),
    "CZI of a microscope": (b"ZISRAWFILE" + bytes(60), "a CZI file of a microscope; let the program"),
    "ND2 of a microscope": (b"\xda\xce\xbe\x0a" + bytes(60), "an ND2 file of a microscope"),
    "raw file of a camera": (b"\x00\x00\x00\x18ftypcrx " + bytes(60), "the raw file of a camera; develop it"),
    "what macOS keeps beside a file": (b"\x00\x05\x16\x07\x00\x02" + bytes(60), "not the file itself"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(60), "a 7z archive; unpack it"),
    "AVIF, damaged": (b"\x00\x00\x00\x18ftypavif" + bytes(60), "AVIF, damaged"),
    "a web page behind a byte-order mark": (b"\xef\xbb\xbf<html>", "a web page"),
    "what a server answers": (
        b'{"error": "not found"}',
        """not an image of a known format, but text: '{"error": "not""",
    ),
    "zeros": (bytes(5000), "nothing but zeros at its beginning"),
    "text": (b"dear diary, " * 40, "not an image of a known format"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_image_is_named_with_what_helps(kind):
    data, reason = KINDS[kind]
    with pytest.raises(UnreadableImageError) as refused:
        decode(data)
    assert reason in refused.value.reason


def test_a_postscript_program_is_never_started(tmp_path, monkeypatch):
    started = tmp_path / "started"
    for name in ("gs", "gswin64c", "gswin32c"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ntouch {started}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert shutil.which("gs") == str(tmp_path / "gs")
    with pytest.raises(UnreadableImageError):
        decode(POSTSCRIPT)
    assert not started.exists()


WRITTEN_BY_PILLOW = {"1": ("MSP", "XBM"), "RGB": ("JPEG", "PNG", "GIF", "BMP", "PPM", "DIB", "MPO", "WEBP", "TIFF")}
WRITTEN_BY_PILLOW["RGB"] += ("JPEG2000", "ICO", "ICNS", "PCX", "SGI", "DDS", "TGA")


@pytest.mark.parametrize(
    ("mode", "kind"), [(mode, kind) for mode, kinds in WRITTEN_BY_PILLOW.items() for kind in kinds]
)
def test_formats_of_images_are_opened(mode, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(encoded, kind)
    assert kind in (*COMMON, *OTHERS)
    assert decode(encoded.getvalue()).shape == (3, *Image.open(encoded).size[::-1])


def test_a_photograph_of_an_iphone_is_read_where_the_library_is():
    pillow_heif = pytest.importorskip("pillow_heif")
    pixels = np.full((48, 64, 3), (200, 100, 50), np.uint8)
    data = io.BytesIO()
    pillow_heif.from_bytes("RGB", (64, 48), pixels.tobytes()).save(data, quality=95)
    image = decode(data.getvalue())
    assert image.shape == (3, 48, 64)
    assert image[:, 20, 20].tolist() == pytest.approx([200, 100, 50], abs=4)


def test_where_the_library_is_missing_the_message_names_it(monkeypatch):
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    assert describe_unknown(KINDS["iPhone"][0]).endswith("pip install 'pillow-heif>=0.18'")
