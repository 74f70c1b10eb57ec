"""What all masks of a data set hold, looked at once, before any class is known."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from stages.data.images.file_kinds import COMMON, open_image_format
from stages.data.images.rgb import DECODE_ERRORS, UnreadableImageError
from stages.data.masks.stored import MaskFacts, facts_of_mask, stored_mask
from stages.runtime.threads import usable_cores

_ORIENTATION = 0x0112
"""The EXIF tag by which a camera says how an image is turned."""

_REMEMBERED = 1 << 17
_AT_ONCE = 256
"""Masks that are surveyed between two steps of a progress bar."""

_MOST_THREADS = 16
"""Each holds a mask as it is decoded, so that memory would grow with the cores."""


def survey_masks(
    locations: Sequence[str], progress: Callable[[Sequence[Any]], Iterable[Any]] | None = None
) -> tuple[list[MaskFacts | None], dict[str, str]]:
    """Return what each mask holds, None of one that cannot be read, and the reasons of those by their locations.

    What was surveyed is remembered within the process, as long as the file stays as it is.
    """
    portions = [locations[start : start + _AT_ONCE] for start in range(0, len(locations), _AT_ONCE)]
    facts: list[MaskFacts | None] = []
    reasons: dict[str, str] = {}
    with ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS)) as threads:
        for portion in progress(portions) if progress else portions:
            for location, found in zip(portion, threads.map(_surveyed, portion), strict=True):
                if isinstance(found, MaskFacts):
                    facts.append(found)
                else:
                    facts.append(None)
                    reasons[location] = found
    return facts, reasons


def image_shape(location: str) -> tuple[int, int] | None:
    """Return height and width of an image file, upright, from its header; None where that cannot be read.

    Of an image that is in memory its location knows them.
    """
    known: tuple[int, int] | None = getattr(location, "shape", None)
    if known is not None:
        return known
    try:
        # the header alone is read: Pillow is given the file, and not its bytes
        with Image.open(location, formats=COMMON) as image:
            return _upright_shape(image)
    except DECODE_ERRORS:
        pass
    try:
        with open_image_format(Path(location).read_bytes()) as image:
            return _upright_shape(image)
    except DECODE_ERRORS:
        return None


def _upright_shape(image: Image.Image) -> tuple[int, int]:
    # of a PNG without that mark Pillow would decode all pixels to look for one behind them; TIFF it turns itself
    has_mark = "exif" in image.info if image.format == "PNG" else image.format != "TIFF"
    turned = has_mark and image.getexif().get(_ORIENTATION, 1) >= 5
    return (image.width, image.height) if turned else (image.height, image.width)


def _surveyed(location: str) -> MaskFacts | str:
    try:
        status = os.stat(location)  # noqa: PTH116 (a string is what is known)
    except OSError:
        return "no such file"
    return _remembered(location, status.st_size, status.st_mtime_ns)


@lru_cache(_REMEMBERED)
def _remembered(location: str, _size: int, _mtime_ns: int) -> MaskFacts | str:
    try:
        return facts_of_mask(stored_mask(location))
    except UnreadableImageError as error:
        return error.reason
