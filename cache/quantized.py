"""Maps in 8 bits: each channel of each row in 256 steps between its own least and greatest number.

A row [C, H, W] is stored as uint8 [C, H + k, W]: in the first k lines of a channel stand, in 4 bytes, its least number
and the size of a step, both float16; then come its numbers, in steps. So a row needs nothing but itself to be read.
What is read is float16, off by at most half a step, a 510th of a channel's range, and its rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheInputError

QUANTIZED = "uint8"
"""The storage type of such rows."""

_HEADER_BYTES = 4
_STEPS = 255
_LEAST_STEP = float(np.finfo(np.float16).smallest_subnormal)


def stored_shape(row_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the bytes that a row of this shape is stored in.

    Raises
    ------
    CacheInputError
        If the row is no map with its channels first.
    """
    if len(row_shape) != 3:
        raise CacheInputError(
            f"`storage_dtype` {QUANTIZED} keeps a range for each channel of a map [C, H, W], and these rows are "
            f"{[*row_shape]}: store them as float16, or take `pool` none"
        )
    channels, height, width = row_shape
    return channels, height + _header_rows(width), width


def row_shape_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the row that is stored in bytes of a shape: the inverse of `stored_shape`."""
    channels, height, width = shape
    return channels, height - _header_rows(width), width


def quantize(rows: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return float rows [n, C, H, W], all finite in float16, as they are stored, uint8 [n, C, H + k, W]."""
    count, channels, height, width = rows.shape
    values = rows.reshape(count, channels, height * width).astype(np.float32)
    least = values.min(axis=2).astype(np.float16)
    ranges = values.max(axis=2) - least.astype(np.float32)
    step = np.maximum(ranges / _STEPS, _LEAST_STEP).astype(np.float16)
    values -= least.astype(np.float32)[..., None]
    values /= step.astype(np.float32)[..., None]
    np.rint(values, out=values).clip(0, _STEPS, out=values)
    stored = np.zeros((count, *stored_shape(rows.shape[1:])), np.uint8)
    flat = stored.reshape(count, channels, -1)
    flat[..., :_HEADER_BYTES] = np.stack([least, step], axis=2).astype("<f2").view(np.uint8)
    flat[..., -height * width :] = values
    return stored


def dequantize(stored: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return the rows, float16 [n, C, H, W], of what `quantize` made."""
    shape = row_shape_of(stored.shape[1:])
    flat = stored.reshape(*stored.shape[:2], -1)
    header = np.ascontiguousarray(flat[..., :_HEADER_BYTES]).view("<f2").astype(np.float32)
    values = flat[..., -shape[1] * shape[2] :].astype(np.float32)
    values *= header[..., 1:]
    values += header[..., :1]
    return values.astype(np.float16).reshape(len(stored), *shape)


def _header_rows(width: int) -> int:
    return -(-_HEADER_BYTES // width)
