"""Which images version 1 of the decoder read as today: their features need not be computed again."""

from __future__ import annotations

from pathlib import Path

from stages.data.images.file_kinds import open_image_format
from stages.data.images.jpeg2000 import is_deep_color
from stages.data.images.png import significant_bits
from stages.data.images.rgb import DECODE_ERRORS, EXIF, has_deep_mode
from stages.data.images.tiff import has_eight_bits, is_tiff
from stages.data.sources.in_memory import InMemoryImage
from stages.data.sources.registry import opener_of

_HEAD = 1 << 16
"""Bytes in which everything stands that is asked for of all formats but TIFF."""

_JPEG = b"\xff\xd8\xff"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"

_SAME = (b"GIF8", b"BM", b"RIFF")
"""How GIF, BMP and WebP begin: those that version 1 could read look as they did."""


def is_read_as_in_version_1(location: str) -> bool:
    """Return whether an image that version 1 could read has the same pixels today; a file that is not there has not.

    Not so are JPEG with XMP before EXIF, whose orientation was not seen, TIFF of other than 8 bits a channel or of
    signed numbers, JPEG 2000 of colors of more than 8 bits, PNG whose header says that fewer than 16 of its 16 bits
    mean something, and floats. Little of a file is read.
    """
    if isinstance(location, InMemoryImage) or opener_of(location) is not None:
        return True
    try:
        with Path(location).open("rb") as file:
            head = file.read(_HEAD)
            if head.startswith(_SAME):
                return True
            if head.startswith(_JPEG):
                return not 0 <= head.find(_XMP) < head.find(EXIF)
            if head.startswith(b"\x89PNG"):
                return head[24] <= 8 or significant_bits(head) in (None, 16)
            if is_tiff(head):
                file.seek(0)
                return has_eight_bits(file)
            data = head + file.read()
            with open_image_format(data) as image:
                if image.format == "JPEG2000" and is_deep_color(data):
                    return False
                return not has_deep_mode(image) or image.mode.startswith("I;16")
    except DECODE_ERRORS:
        return False
