"""Files with more than one page or frame: z-stacks, time lapses, animations."""

from __future__ import annotations

from PIL import Image

from stages.data.images.rgb import DECODE_ERRORS, UnreadableImageError

_PAGED = ("TIFF", "GIF", "PNG", "WEBP", "AVIF", "HEIF", "DCX")
"""Formats whose further frames are pages. A second one of MPO is a preview or another view; ICO has sizes of one."""


def count_pages(image: Image.Image) -> int:
    """Return the number of pages of an opened image."""
    if image.format not in _PAGED:
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except DECODE_ERRORS:  # a broken list of pages behind a sound first one
        return 1


def has_pages(image: Image.Image) -> bool:
    """Return whether an opened image has more than one page; quicker than to count them."""
    return image.format in _PAGED and bool(getattr(image, "is_animated", False))


def choose_pages(count: int, page: str | int) -> list[int]:
    """Return the numbers of the pages that are read.

    Raises
    ------
    UnreadableImageError
        If there is no page of that number.
    """
    if page == "max":
        return list(range(count))
    number = {"first": 0, "middle": count // 2}[page] if isinstance(page, str) else page
    if number >= count:
        raise UnreadableImageError(f"{count} pages, the first is number 0: there is no page {number}")
    return [number]
