"""JPEG 2000 of several channels with more than 8 bits: satellites and scanners write it.

Pillow rounds such values to 8 bits in a byte, which turns the brightest into 0: white becomes black. They are decoded
by OpenJPEG in imagecodecs instead.
"""

from __future__ import annotations

import numpy as np

from stages.data.images.rgb import UnreadableImageError
from stages.data.images.samples import Samples

_SIZES = b"\xff\x4f\xff\x51"
"""The markers SOC and SIZ, with which the code stream begins (ISO/IEC 15444-1, A.5.1)."""

_CHANNELS_AT = 40
"""Bytes from SOC to the number of channels; three bytes of each follow, of which the first has the bits less one."""

_INSTALL = "pip install 'imagecodecs>=2023.1'"


def channel_bits(data: bytes) -> list[int]:
    """Return the bits of each channel of a JPEG 2000; nothing where no code stream begins in the bytes."""
    start = data.find(_SIZES)
    if start < 0:
        return []
    position = start + _CHANNELS_AT
    count = int.from_bytes(data[position : position + 2], "big")
    return [(byte & 0x7F) + 1 for byte in data[position + 2 : position + 2 + 3 * count : 3]]


def is_deep_color(data: bytes) -> bool:
    """Return whether a JPEG 2000 has several channels, one of more than 8 bits."""
    bits = channel_bits(data)
    return len(bits) > 1 and max(bits) > 8


def deep_color_samples(data: bytes) -> Samples:
    """Return the samples, uint16 [H, W, C], of such an image.

    Raises
    ------
    UnreadableImageError
        If imagecodecs is not there.
    """
    try:
        import imagecodecs
    except ImportError as error:
        raise UnreadableImageError(
            f"a JPEG 2000 of several channels with more than 8 bits needs imagecodecs: {_INSTALL}"
        ) from error
    values = np.asarray(imagecodecs.jpeg2k_decode(data))
    return Samples(values, 0.0, float(2 ** max(channel_bits(data)) - 1), has_alpha=values.shape[2] in (2, 4))
