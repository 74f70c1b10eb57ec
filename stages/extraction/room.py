"""Whether the features that an extraction will make find room on the disk of their cache."""

from __future__ import annotations

import shutil
from math import prod
from pathlib import Path

from cache.atomic_write import existing_part
from cache.errors import CacheError
from cache.quantized import QUANTIZED, stored_shape
from stages.extraction.extractor import CachedCut, Extractor

_ROW_BYTES = 48
"""What a shard keeps of a row beside its numbers: its key, its checksum, and its part of the table."""


def free_bytes(folder: Path) -> int:
    """Return what is free on the disk of a folder, which need not be there yet."""
    return shutil.disk_usage(existing_part(folder)).free


def row_bytes(tap: CachedCut) -> int:
    """Return the bytes that a row of a tap takes on the disk, uncompressed."""
    if tap.cache.spec.dtype == QUANTIZED:
        return prod(stored_shape(tap.shape)) + _ROW_BYTES
    return prod(tap.shape) * tap.cache.dtype.itemsize + _ROW_BYTES


def map_row_bytes(extractor: Extractor) -> tuple[int, int | None]:
    """Return the bytes that unpooled maps of an image take, and what they would in 8 bits; None where they could not.

    0 where there are none.
    """
    taps = [tap for tap in extractor.taps if len(tap.shape) > 1]
    stored = sum(map(row_bytes, taps))
    if not taps or any(_has_no_channels_first(tap) for tap in taps):
        return stored, None
    return stored, sum(prod(stored_shape(tap.shape)) + _ROW_BYTES for tap in taps)


def _has_no_channels_first(tap: CachedCut) -> bool:
    return tap.cut is None or tap.cut.layout != "nchw" or len(tap.shape) != 3


def require_room(extractor: Extractor, rows_of_tap: list[int]) -> None:
    """Refuse to begin what the disk has no room for, unless the options say that it is to be tried.

    Parameters
    ----------
    rows_of_tap
        How many rows each tap lacks, of all views.

    Raises
    ------
    CacheError
        With the bytes that are needed and those that are free.
    """
    options = extractor.options
    needed = sum(rows * row_bytes(tap) for tap, rows in zip(extractor.taps, rows_of_tap, strict=True))
    free = free_bytes(options.cache)
    if needed <= free or options.force:
        return
    compressed = "" if options.compression == "none" else f" before `compression` {options.compression}"
    raise CacheError(
        f"{sum(rows_of_tap):,} rows of features are to be made, which take {needed:,} bytes{compressed}, and the disk "
        f"of {options.cache} has {free:,} bytes free: make room, choose another `cache`, another `cut`, a `pool` or "
        "fewer `views`, or begin all the same with `force` (what is finished is kept)"
    )
