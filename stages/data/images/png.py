"""What the header of a PNG says of its values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.data.images.samples import Samples

_FIRST_CHUNK = 8


def has_exif(data: bytes) -> bool:
    """Return whether EXIF stands in a chunk of a PNG, before its pixels or behind them.

    To search all bytes for the chunk's name would take a tenth of the time that decoding takes, and hold the
    interpreter's lock meanwhile.
    """
    start = _FIRST_CHUNK
    while start + 8 <= len(data):
        kind = data[start + 4 : start + 8]
        if kind in (b"eXIf", b"IEND"):
            return kind == b"eXIf"
        start += 12 + int.from_bytes(data[start : start + 4], "big")
    return False


def significant_bits(data: bytes) -> int | None:
    """Return how many bits of the samples mean something, as the chunk sBIT says; the most of all channels.

    None where it does not stand in front of the pixels.
    """
    start = _FIRST_CHUNK
    while start + 8 <= len(data):
        length, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        if kind == b"sBIT" and length:
            return max(data[start + 8 : start + 8 + length], default=None)
        if kind in (b"IDAT", b"IEND"):
            return None
        start += 12 + length
    return None


def significant_samples(values: NDArray[Any], data: bytes) -> Samples:
    """Return the samples of a PNG, [H, W, C] of 8 or 16 bits, with the white that its header says.

    Values of 12 bits in a file of 16 are to be stretched over all 16 by who writes them, and most do. Some write them
    as they are: then white is 4,095. Which of the two it is shows in the values: of stretched ones the lower bits
    repeat the upper, or are zero.
    """
    if values.dtype != np.uint16:
        return Samples(values)
    has_alpha = values.shape[2] in (2, 4)
    bits = significant_bits(data)
    if bits is None or not 0 < bits < 16 or values.max(initial=0) >= 2**bits or _stretched(values, bits):
        return Samples(values, 0.0, 65535.0, has_alpha=has_alpha)
    return Samples(values, 0.0, float(2**bits - 1), has_alpha=has_alpha)


def _stretched(values: NDArray[np.uint16], bits: int) -> bool:
    lower = 16 - bits
    upper = values >> lower
    repeated = (upper << lower) | (upper >> (bits - lower) if bits >= lower else 0)
    zeros = (values & (2**lower - 1)) == 0
    return bool((zeros | (values == repeated)).all())
