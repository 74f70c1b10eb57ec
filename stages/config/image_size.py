"""How large the images are that the network sees: one number for a square, else height and width in one word."""

from __future__ import annotations

import re

from cache.errors import UsageError

ImageSize = int | str
"""The side of a square, or ``360x480``, height first. What is square is always a number, as it always was, so that
digests of caches stay."""

_WORD = re.compile(r"(\d+)\s*[x×*]\s*(\d+)", re.IGNORECASE)


def read_size(size: ImageSize) -> ImageSize:
    """Return a size as it is written here, from the ways in which people write it.

    Raises
    ------
    UsageError
        If it is none, or a side is shorter than a pixel.
    """
    text = str(size).strip()
    match = _WORD.fullmatch(text)
    if match is None and not text.isdecimal():
        raise UsageError(f"`image_size` {size} must be the side of a square in pixels, or HEIGHTxWIDTH, as 360x480")
    height, width = (int(match[1]), int(match[2])) if match else (int(text), int(text))
    if min(height, width) < 1:
        raise UsageError(f"`image_size` {size}: a side has at least 1 pixel")
    return size_of_shape(height, width)


def size_of_shape(height: int, width: int) -> ImageSize:
    """Return the size of images of so many rows and columns."""
    return height if height == width else f"{height}x{width}"


def shape_of_size(size: ImageSize) -> tuple[int, int]:
    """Return how many rows and columns images of a size have."""
    if isinstance(size, int):
        return size, size
    height, _, width = size.partition("x")
    return int(height), int(width)


def size_in_words(size: ImageSize) -> str:
    """Return a size as a message says it: ``224 x 224``, ``360 x 480``."""
    height, width = shape_of_size(size)
    return f"{height} x {width}"
