"""What a photograph viewer shows of an image that Pillow has opened: upright, 8 bits a channel, no holes.

Every kind of pixel (grey, palette, CMYK, alpha, floats) becomes RGB here; how more than 8 bits become 8 is told in
``samples``. Where images come from, and which of them a quicker decoder gets right, is not known here. Embedded colour
profiles are not applied, as nowhere in the training of the published networks.
"""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from cache.errors import DataError
from stages.config.pixel_values import FULL
from stages.data.images.samples import Samples, eight_bits

DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,  # Pillow's word for a broken PNG
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    zlib.error,
    RuntimeError,  # TorchCodec's only word
    Image.DecompressionBombError,
)
"""What Pillow's plug-ins and TorchCodec raise on bytes that are not an intact image."""


EXIF = b"Exif\0\0"
"""How a segment of a JPEG begins that holds EXIF."""


class UnreadableImageError(DataError):
    """One image that cannot be used. Its `reason` is short and leaves out where the image is.

    The location may be missing, because what decodes does not always know it and because a data loader's worker
    hands an error on as its message alone.
    """

    def __init__(self, reason: str, location: str = "") -> None:
        super().__init__(reason, location)
        self.reason = reason
        self.location = location

    def __str__(self) -> str:
        return f"{self.location}: {self.reason}" if self.location else self.reason


def as_rgb(image: Image.Image) -> Tensor:
    """Return the image, uint8 [3, H, W], as a viewer shows it.

    EXIF orientation is applied, to `image` itself; transparency is laid on white. One channel of more than 8 bits is
    scaled as by `eight_bits`, without what a header may say of it; of several channels of 16 bits Pillow has kept the
    upper 8 bits alone.
    """
    upright(image)
    if has_deep_mode(image):
        return channels_first(eight_bits(Samples(np.array(image)[..., None]), FULL, []))
    if image.has_transparency_data:
        image = _on_white(image.convert("RGBA"))
    if image.mode != "RGB":  # converting RGB to RGB would copy it
        image = image.convert("RGB")
    return channels_first(np.array(image))


def _on_white(colors: Image.Image) -> Image.Image:
    """Return mode RGBA on white: the levels of `Image.alpha_composite`, which holds the interpreter's lock."""
    shown = Image.new("RGB", colors.size, "white")
    shown.paste(colors, mask=colors)
    return shown


def upright(image: Image.Image) -> None:
    """Decode an image and turn it as the camera noted."""
    image.load()
    with suppress(*DECODE_ERRORS):  # EXIF that cannot be read leaves the image as it is stored; its pixels are intact
        ImageOps.exif_transpose(image, in_place=True)


def has_deep_mode(image: Image.Image) -> bool:
    """Return whether Pillow has kept more than 8 bits of the image: one channel of integers or floats."""
    return image.mode == "F" or image.mode.startswith("I")


def as_colors(pixels: Tensor) -> Tensor:
    """Return what a person can be shown of pixels [C, H, W]: the first three channels, of fewer the first as gray."""
    return pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)


def channels_first(pixels: NDArray[np.uint8]) -> Tensor:
    """Return pixels [H, W, C] as a tensor [C, H, W] that shares their memory; one channel becomes three."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    return tensor.expand(3, -1, -1) if len(tensor) == 1 else tensor
