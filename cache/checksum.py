"""CRC-32 of feature rows, one per row, and of many rows at once.

A checksum per row lets damage be named by row; one call per row is slow for short rows. CRC-32 is linear, so the
checksum of joined rows follows from the checksums of the rows: a long run is checked with one call over all its bytes,
and row by row only where that fails.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cache.deflate import crc32


def row_checksums(rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the CRC-32 of each row's bytes.

    Parameters
    ----------
    rows : uint8 array [n, row_bytes]

    Returns
    -------
    uint32 array [n]
    """
    return np.fromiter(map(crc32, rows), dtype=np.uint32, count=len(rows))


def running_checksums(checksums: NDArray[np.uint32], row_bytes: int) -> NDArray[np.uint32]:
    """Return the CRC-32 of the first 1, 2, ... n of equally long rows joined, from the CRC-32 of each.

    For byte strings A and B, ``crc(A + B) == shift(crc(A), len(B)) ^ crc(B)``, where the shift is linear over GF(2)
    and depends on the length of B only. A row is joined to its neighbour, the pairs are summed up in the same way, and
    every second sum is then one row short of its pair's: about 2 n shifts in 2 log2(n) array operations.

    Parameters
    ----------
    checksums : uint32 array [n]
    row_bytes : int

    Returns
    -------
    uint32 array [n]
    """
    return _running(checksums, row_bytes, 0)


def _running(checksums: NDArray[np.uint32], row_bytes: int, doublings: int) -> NDArray[np.uint32]:
    if len(checksums) < 2:
        return checksums
    tables = _shift_tables(row_bytes, doublings)
    pairs = _shift(checksums[:-1:2], tables) ^ checksums[1::2]
    running = checksums.copy()
    running[1::2] = _running(pairs, row_bytes, doublings + 1)
    running[2::2] ^= _shift(running[1:-1:2], tables)
    return running


def stretch_checksum(running: NDArray[np.uint32], start: int, stop: int, row_bytes: int) -> int:
    """Return the CRC-32 of rows `start` to `stop` joined, at least one, from all rows' :func:`running_checksums`."""
    if not start:
        return int(running[stop - 1])
    shifted = running[start - 1]
    for doublings in range((stop - start).bit_length()):
        if (stop - start) >> doublings & 1:
            shifted = _shift(shifted, _shift_tables(row_bytes, doublings))
    return int(shifted ^ running[stop - 1])


def _shift(checksums: NDArray[np.uint32], tables: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Apply a linear map, given as its value for each value of each of the four bytes, to an array or one number."""
    shifted: NDArray[np.uint32] = tables[0][checksums & 0xFF]
    shifted ^= tables[1][checksums >> 8 & 0xFF]
    shifted ^= tables[2][checksums >> 16 & 0xFF]
    shifted ^= tables[3][checksums >> 24]
    return shifted


@lru_cache(maxsize=256)
def _shift_tables(row_bytes: int, doublings: int) -> NDArray[np.uint32]:
    """Return the tables, [4, 256], that shift a CRC-32 over ``row_bytes * 2**doublings`` bytes."""
    if doublings:
        half = _shift_tables(row_bytes, doublings - 1)
        images = _shift(half[:, 1 << np.arange(8)].reshape(32), half)
    else:
        zeros = bytes(row_bytes)
        unshifted = crc32(zeros)
        images = np.array([crc32(zeros, 1 << bit) ^ unshifted for bit in range(32)], dtype=np.uint32)
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    return np.stack([np.bitwise_xor.reduce(np.where(bits, part, 0), axis=1) for part in images.reshape(4, 8)]).astype(
        np.uint32
    )
