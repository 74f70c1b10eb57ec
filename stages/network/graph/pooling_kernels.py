"""Average, maximum and deviation over places in one reading of a map, compiled for the processor by numba.

Imported where such a kernel is wanted, since it imports numba. torch reads a map once for each of the three, and writes
differences for the last; on a CPU the statistics of all depths wait for memory, so one reading costs half, or less.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

Kernel = Callable[[NDArray[Any], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]], None]
"""A map, float32 [b, N, C] or the bits of one in bfloat16, uint16 [b, N, C]; then average, maximum and standard
deviation to be filled, float32 [b, C]."""

_NOT_KEPT = (
    *(RuntimeError, OSError),  # there is no folder to keep it in, or a full one
    *(pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError, ImportError, TypeError),  # damaged
)

_STORED = {torch.float32: types.float32, torch.bfloat16: types.uint16}


def compiled_kernel(dtype: torch.dtype) -> Kernel:
    """Return the kernel for maps of a dtype, float32 or bfloat16: compiled once for a user, then read from disk.

    The rows of an image have the bits that they have alone, the same on each processor.
    """
    rows = types.float32[:, ::1]
    signature = types.void(_STORED[dtype][:, :, ::1], rows, rows, rows)
    try:
        return _compiled(signature, cache=True)
    except _NOT_KEPT:  # what is wrong with the kernel itself comes again
        return _compiled(signature, cache=False)


def _compiled(signature: Any, cache: bool) -> Kernel:
    kernel: Kernel = numba.njit(signature, cache=cache, nogil=True, error_model="numpy")(_pool)
    return kernel


def _number(stored: Any) -> Any:
    """Return what is stored, as float32; what follows is taken by compiled code, of which numba asks for no types."""
    by_type: Any = _as_it_is if isinstance(stored, np.float32) else _of_bits
    return by_type(stored)


@overload(_number, inline="always")
def _number_by_type(stored):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return _as_it_is if isinstance(stored, types.Float) else _of_bits


def _as_it_is(stored):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return stored


def _of_bits(stored):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)


def _pool(
    places: NDArray[Any], average: NDArray[np.float32], maximum: NDArray[np.float32], deviation: NDArray[np.float32]
) -> None:
    # Loops go along channels, many of which a processor computes at once. Deviations are those of groups of eight
    # places from their own average, joined as by Chan, Golub and LeVeque (1983), "Algorithms for Computing the Sample
    # Variance": right where all numbers are nearly alike, too.
    images, count, channels = places.shape
    for i in range(images):
        total, top, squares = average[i], maximum[i], deviation[i]
        for c in range(channels):
            total[c], top[c], squares[c] = 0, _number(places[i, 0, c]), 0
        n = 0
        while n + 8 <= count:
            before, weight = np.float32(max(n, 1)), np.float32(n * 8 / (n + 8))
            for c in range(channels):
                v0, v1 = _number(places[i, n, c]), _number(places[i, n + 1, c])
                v2, v3 = _number(places[i, n + 2, c]), _number(places[i, n + 3, c])
                v4, v5 = _number(places[i, n + 4, c]), _number(places[i, n + 5, c])
                v6, v7 = _number(places[i, n + 6, c]), _number(places[i, n + 7, c])
                of_eight = ((v0 + v1) + (v2 + v3)) + ((v4 + v5) + (v6 + v7))
                mean = of_eight * np.float32(0.125)
                away = total[c] / before - mean
                total[c] += of_eight
                d0, d1, d2, d3 = v0 - mean, v1 - mean, v2 - mean, v3 - mean
                d4, d5, d6, d7 = v4 - mean, v5 - mean, v6 - mean, v7 - mean
                within = ((d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)) + ((d4 * d4 + d5 * d5) + (d6 * d6 + d7 * d7))
                squares[c] += within + away * away * weight
                top[c] = max(top[c], max(max(max(v0, v1), max(v2, v3)), max(max(v4, v5), max(v6, v7))))
            n += 8
        while n < count:
            before, weight = np.float32(max(n, 1)), np.float32(n / (n + 1))
            for c in range(channels):
                value = _number(places[i, n, c])
                away = total[c] / before - value
                total[c] += value
                squares[c] += away * away * weight
                top[c] = max(top[c], value)
            n += 1
        for c in range(channels):
            if not np.isfinite(total[c]):  # maxima of the processor pass over what is no number
                squares[c] = np.nan
                for n in range(count):
                    if np.isnan(_number(places[i, n, c])):
                        top[c] = np.nan
            total[c] /= np.float32(count)
            squares[c] = np.sqrt(squares[c] / np.float32(count))
