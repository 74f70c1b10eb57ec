"""The key of an image that is no file: the digest of its pixels."""

from __future__ import annotations

from torch import Tensor

from cache import key_of_bytes


def key_of_pixels(image: Tensor) -> str:
    """Return the key of an image, uint8 [3, H, W], that has no file: the digest of its pixels and their shape."""
    return key_of_bytes(repr(tuple(image.shape)).encode() + image.numpy().tobytes())
