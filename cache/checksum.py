"""CRC-32 of feature rows, one per row, and of many rows at once.

A checksum per row lets damage be named by row; one call per row is slow for short rows. CRC-32 is linear, so the
checksum of joined rows follows from the checksums of the rows: a long run is checked with one call over all its bytes,
and row by row only where that fails.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def row_checksums(rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the CRC-32 of each row's bytes.

    Parameters
    ----------
    rows : uint8 array [n, row_bytes]

    Returns
    -------
    uint32 array [n]
    """
    return np.fromiter((zlib.crc32(row) for row in rows), dtype=np.uint32, count=len(rows))


def joined_checksum(checksums: NDArray[np.uint32], row_bytes: int) -> int:
    """Return the CRC-32 of equally long rows joined, from the CRC-32 of each.

    For byte strings A and B, ``crc(A + B) == shift(crc(A), len(B)) ^ crc(B)``, where the shift is linear over GF(2)
    and depends on the length of B only. Neighbours are joined pairwise, so n rows take log2(n) array operations.

    Parameters
    ----------
    checksums : uint32 array [n]
        n >= 1.
    row_bytes : int
    """
    doublings = 0
    while len(checksums) > 1:
        if len(checksums) % 2:  # an empty string in front changes nothing, and its CRC-32 is 0
            checksums = np.concatenate([np.zeros(1, np.uint32), checksums])
        checksums = _shift(checksums[0::2], _shift_tables(row_bytes, doublings)) ^ checksums[1::2]
        doublings += 1
    return int(checksums[0])


def _shift(checksums: NDArray[np.uint32], tables: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Apply a linear map, given as its value for each value of each of the four bytes."""
    shifted: NDArray[np.uint32] = tables[0][checksums & 0xFF]
    for byte in (1, 2, 3):
        shifted ^= tables[byte][(checksums >> np.uint32(8 * byte)) & 0xFF]
    return shifted


@lru_cache(maxsize=256)
def _shift_tables(row_bytes: int, doublings: int) -> NDArray[np.uint32]:
    """Return the tables, [4, 256], that shift a CRC-32 over ``row_bytes * 2**doublings`` bytes."""
    if doublings:
        half = _shift_tables(row_bytes, doublings - 1)
        images = _shift(half[:, 1 << np.arange(8)].reshape(32), half)
    else:
        zeros = bytes(row_bytes)
        unshifted = zlib.crc32(zeros)
        images = np.array([zlib.crc32(zeros, 1 << bit) ^ unshifted for bit in range(32)], dtype=np.uint32)
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    return np.stack([np.bitwise_xor.reduce(np.where(bits, part, 0), axis=1) for part in images.reshape(4, 8)]).astype(
        np.uint32
    )
