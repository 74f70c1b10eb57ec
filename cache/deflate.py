"""zlib's CRC-32 and its compressed format, made by ISA-L where that is installed: the same bytes mean the same.

Measured on one core: CRC-32 5 times, packing 4 to 14 times and unpacking 1.4 to 2 times as fast as the standard
library. What one of the two has packed, the other unpacks, and so does HDF5, which calls the format gzip.
"""

from __future__ import annotations

from typing import Any

zlib: Any
try:
    from isal import isal_zlib as zlib
except ImportError:  # no wheel for this processor: nothing but slower
    import zlib

_LEVEL = 1
"""Higher levels gain nothing on features and take several times as long."""


crc32 = zlib.crc32
"""``crc32(data, before=0)``: the CRC-32 of anything with a buffer, following on bytes whose CRC-32 is `before`. No
function of our own round it, because it is called for every row."""


class DecompressionError(Exception):
    """Bytes that are not what was packed."""


def compress(data: Any) -> bytes:
    """Return the bytes of `data` (anything with a buffer) in zlib's format."""
    packed: bytes = zlib.compress(data, _LEVEL)
    return packed


def decompress(packed: bytes | bytearray, size: int) -> bytes:
    """Return the `size` bytes that were packed, in no more memory than they take, whatever `packed` claims.

    Raises
    ------
    DecompressionError
        If they are fewer, or `packed` is damaged.
    """
    try:
        data: bytes = zlib.decompressobj().decompress(packed, size)
    except zlib.error as error:
        raise DecompressionError(str(error)) from error
    if len(data) != size:
        raise DecompressionError(f"{len(data)} bytes instead of {size}")
    return data
