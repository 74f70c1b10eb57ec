"""What a photograph viewer shows of an image that Pillow has opened: upright, 8 bits a channel, no holes.

Every kind of pixel (grey, palette, CMYK, 16 bits, floats, alpha) becomes RGB here. Where images come from, and which
of them a quicker decoder gets right, is not known here. Embedded colour profiles are not applied, as nowhere in the
training of the published networks.
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
    RuntimeError,  # torchvision's only word
    Image.DecompressionBombError,
)
"""What Pillow's plug-ins and torchvision raise on bytes that are not an intact image."""


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

    EXIF orientation is applied, to `image` itself; transparency is laid on white, an animation is its first frame,
    and more than 8 bits are scaled to 8, not clipped.
    """
    image.load()
    with suppress(*DECODE_ERRORS):  # EXIF that cannot be read leaves the image as it is stored; its pixels are intact
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.has_transparency_data:
        colors = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colors.size, "white"), colors)
    if image.mode != "RGB":  # converting RGB to RGB would copy it
        image = image.convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale grey values [H, W] of any type to 0..255.

    Integers within 0..65535 are 16-bit grey and floats within 0..1 run from black to white. Others have no agreed
    black and white: as in a viewer they run from the image's darkest to its brightest value.
    """
    levels = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    black, white = float(levels.min()), float(levels.max())
    agreed = 1.0 if np.issubdtype(values.dtype, np.floating) else 65535.0
    if black >= 0 and white <= agreed:
        black, white = 0.0, agreed
    return np.round((levels - black) * (255 / (white - black))).astype(np.uint8)
