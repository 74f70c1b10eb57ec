"""What a file is by its first bytes, where it is no image that is read: so that a message can say what helps."""

from __future__ import annotations

import codecs
import io
import re
from contextlib import suppress
from functools import cache
from importlib import import_module

from PIL import Image, UnidentifiedImageError

_HEIF_FORMAT = "HEIF"
_HEIF_INSTALL = "pip install 'pillow-heif>=0.18'"

COMMON = ("JPEG", "PNG", "GIF", "BMP", "PPM", "DIB")
"""Formats that Pillow knows from the start; the others cost it an import of all its plug-ins."""

OTHERS = (
    *("MPO", "WEBP", "TIFF", "AVIF", "JPEG2000", "ICO", "ICNS", "PCX", "DCX", "PSD", "SGI", "SUN", "DDS", "QOI"),
    *("MSP", "XBM", "XPM", "TGA", _HEIF_FORMAT),
)
"""The other formats of images that are opened. Pillow knows more; some of them, such as PostScript, start a program."""

_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_AVIF = (b"avif", b"avis")
_RAW = (b"crx ",)

_EXPORT = "let the program of the microscope, or Fiji, export it as TIFF"
_DEVELOP = "develop it to TIFF or JPEG"

_STARTS = {
    b"%!PS": "PostScript, which is a program and is not run; convert it to PNG",
    b"\xc5\xd0\xd3\xc6": "PostScript, which is a program and is not run; convert it to PNG",
    b"%PDF": "a PDF document; save its pages as PNG",
    b"\xff\x0a": "JPEG XL, which is not read; convert it to PNG or JPEG",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL, which is not read; convert it to PNG or JPEG",
    b"version https://git-lfs.github.com/spec/": "a pointer of Git LFS, not the file itself; run git lfs pull",
    b"\x1aE\xdf\xa3": "a video; save its frames as images",
    b"\x00\x00\x01\xba": "a video; save its frames as images",
    b"PK\x03\x04": "a ZIP archive; unpack it",
    b"\x1f\x8b": "compressed by gzip; unpack it",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file; save its images as PNG, or hand them in as arrays from Python",
    b"\x93NUMPY": "a NumPy array; save it as PNG, or hand it in from Python",
    b"SIMPLE  =": "a FITS image; convert it to PNG or TIFF",
    b"ZISRAWFILE": f"a CZI file of a microscope; {_EXPORT}",
    b"\xda\xce\xbe\x0a": f"an ND2 file of a microscope; {_EXPORT}",
    b"\x70\x00\x00\x00": f"a LIF file of a microscope; {_EXPORT}",
    b"FUJIFILMCCD-RAW": f"the raw file of a camera; {_DEVELOP}",
    b"PAR1": "a Parquet file; save it as CSV, and images in it as files",
    b"\x00\x05\x16\x07": "what macOS keeps beside a file, and not the file itself",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"Rar!\x1a\x07": "a RAR archive; unpack it",
    b"MATLAB 5.0 MAT-file": "a file of MATLAB; save its images as PNG, or hand them in as arrays from Python",
}

_MARKUP = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>|<!--.*?-->|\s)*<(!doctype\s+)?(html|svg)\b", re.IGNORECASE | re.DOTALL
)


_TEXT_READ = 512
_TEXT_SHOWN = 40


def open_image_format(data: bytes) -> Image.Image:
    """Return the image that the bytes begin, its pixels not yet decoded, if it is of a format that is opened here.

    Raises
    ------
    UnidentifiedImageError
        If it is of none. Pillow raises others where the bytes are damaged.
    """
    try:
        return Image.open(io.BytesIO(data), formats=COMMON)
    except UnidentifiedImageError:
        Image.init()
        _register_heif()
        return Image.open(io.BytesIO(data), formats=[name for name in OTHERS if name in Image.OPEN])


@cache
def _register_heif() -> None:
    """Let Pillow read HEIC, where the library for it is installed; an extra, as it is under a license of its own."""
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()


def describe_unknown(data: bytes) -> str:
    """Return what the bytes are that `open_image_format` does not open, and what helps."""
    if (kind := describe_known(data)) is not None:
        return kind
    if not any(data[:4096]):
        return "nothing but zeros at its beginning; the copy or download of it was cut short"
    if text := _beginning_of_text(data):
        return f"not an image of a known format, but text: {text!r}"
    return "not an image of a known format"


def describe_known(data: bytes) -> str | None:
    """Return what the bytes begin that no image and no table begins, and what helps; None where nothing tells."""
    for start, description in _STARTS.items():
        if data.startswith(start):
            return description
    if data[4:8] == b"ftyp":
        return _describe_media(data[8:12])
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "a video; save its frames as images"
    if data[128:132] == b"DICM":
        return "a DICOM file; convert it to PNG or TIFF, with the window that its reader would choose"
    if data[344:348] in (b"n+1\x00", b"ni1\x00"):
        return "a NIfTI volume; save its slices as PNG or TIFF"
    if markup := _MARKUP.match(data[:4096]):
        if markup[2].lower() == b"svg":
            return "SVG, a drawing without pixels; save it as PNG"
        return "a web page: the server answered with it instead of the file"
    return None


def _beginning_of_text(data: bytes) -> str:
    """Return the first words of a file that is nothing but text, such as a server's answer; nothing if it is not."""
    try:
        text = data[:_TEXT_READ].removeprefix(codecs.BOM_UTF8).decode("ascii").strip()
    except UnicodeDecodeError:
        return ""
    return (
        " ".join(text[:_TEXT_SHOWN].split()) if all(letter.isprintable() or letter.isspace() for letter in text) else ""
    )


def _describe_media(brand: bytes) -> str:
    if brand in _HEIF:
        known = _HEIF_FORMAT in Image.OPEN
        return "a HEIC photograph, damaged" if known else f"a HEIC photograph, as iPhones take them: {_HEIF_INSTALL}"
    if brand in _RAW:
        return f"the raw file of a camera; {_DEVELOP}"
    if brand in _AVIF:
        if "AVIF" in Image.OPEN:
            return "AVIF, damaged"
        return "AVIF, which the installed Pillow does not read: pip install 'pillow>=11.3'"
    return "a video; save its frames as images"
