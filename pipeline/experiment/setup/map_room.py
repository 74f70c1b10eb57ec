"""What maps take on the disk, in words."""

from __future__ import annotations

from math import prod

from cache.quantized import QUANTIZED
from pipeline.text import byte_count
from stages.extraction.extractor import Extractor
from stages.extraction.room import map_row_bytes

_ERROR = "off by at most a 510th of a channel's range in an image"


def maps_in_words(extractor: Extractor, images: int) -> str:
    """Return what unpooled maps of so many images take on the disk, in 16 bits and in 8; '' where there are none."""
    stored, quantized = map_row_bytes(extractor)
    if not stored:
        return ""
    shapes = [tap.shape for tap in extractor.taps if len(tap.shape) > 1]
    views, dtype = extractor.options.views, extractor.options.storage_dtype
    seen = f" in {views} views" if views > 1 else ""
    in_all = byte_count(stored * images * views)
    said = f"maps of {len(shapes)} cuts take {byte_count(stored)} an image{seen}, {in_all} in all"
    if dtype == QUANTIZED:
        return f"{said}: {stored / (2 * sum(map(prod, shapes))):.2f} of float16, {_ERROR}"
    if dtype != "float16" or quantized is None:
        return said
    return f"{said}; `storage_dtype` uint8 would take {quantized / stored:.2f} of that, {_ERROR}"
