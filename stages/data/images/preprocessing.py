"""The evaluation view: how a photograph becomes what the network was trained to see.

Each backbone brings its own values. Random renderings are in ``augmentation``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cache.errors import UsageError
from stages.data.images.rgb import UnreadableImageError

INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic")
"""Interpolations that torchvision has for tensors."""

_RESIZED_LIMIT = 1 << 26
"""Most pixels a resized image may have before it is cropped; only a strip a thousand times longer than wide has."""


def stack_pixels(images: Sequence[Tensor]) -> Tensor:
    """Return images, uint8 [3, S, S], as a batch [b, 3, S, S] in channels_last.

    Several times as quick as ``torch.stack`` for what `Preprocessing.render` returns, and what `normalize` reads as it
    lies.
    """
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop, normalisation; always antialiased.

    The same as torchvision's ``ImageClassification`` preset, in 8 bits up to `normalize`: equal to Pillow's resize to
    within rounding.

    Attributes
    ----------
    image_size : int
        Side of the square the network sees, in pixels.
    resize : int
        Length of the shorter side before the crop, in pixels.
    interpolation : str
        One of `INTERPOLATIONS`.
    mean, std : tuple of float
        Per channel, for pixel values between 0 and 1.
    """

    image_size: int
    resize: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(f"interpolation {self.interpolation!r} is not one of {', '.join(INTERPOLATIONS)}")
        if self.image_size < 1 or self.resize < 1:
            raise UsageError(f"image size {self.image_size} and resize {self.resize} must be at least 1 pixel")

    @property
    def interpolation_mode(self) -> InterpolationMode:
        """The interpolation as torchvision's constant."""
        return InterpolationMode(self.interpolation)

    def render(self, image: Tensor) -> Tensor:
        """Return the evaluation view, uint8 [3, S, S], of a photograph, uint8 [3, H, W].

        The shorter side becomes `resize`, then the middle is cut out; where that is smaller than S it is padded with
        black, as torchvision's centre crop does. In memory the three channels of a pixel lie side by side, as the
        decoders leave them and `normalize` wants them.

        Raises
        ------
        UnreadableImageError
            As `resized`.
        """
        view: Tensor = F.center_crop(self.resized(image), [self.image_size, self.image_size])
        return view[None].contiguous(memory_format=torch.channels_last)[0]

    def resized(self, image: Tensor) -> Tensor:
        """Return a photograph, uint8 [3, H, W], with its shorter side `resize` long: what crops are taken from.

        Raises
        ------
        UnreadableImageError
            If the image is so long and thin that resizing its shorter side would fill the memory.
        """
        height, width = image.shape[-2:]
        if self.resize**2 * max(height, width) > _RESIZED_LIMIT * min(height, width):
            raise UnreadableImageError(f"{width} x {height} pixels are too long and thin to be resized")
        resized: Tensor = F.resize(image, [self.resize], interpolation=self.interpolation_mode, antialias=True)
        return resized

    def normalize(self, images: Tensor) -> Tensor:
        """Return uint8 [b, 3, S, S] as float32 [b, 3, S, S], (x / 255 - mean) / std, on the same device.

        The result is in channels_last, whatever the images are in; those in channels_last take half the time.
        """
        scale = [1 / (255 * deviation) for deviation in self.std]
        shift = [-mean / deviation for mean, deviation in zip(self.mean, self.std, strict=True)]
        row_scale, row_shift = (
            torch.tensor(values, device=images.device).repeat(images.shape[3]) for values in (scale, shift)
        )
        # by rows of 3 S numbers: with the channels as a dimension of their own, the inner loops would be 3 numbers long
        pixels = images.permute(0, 2, 3, 1)
        rows = pixels.flatten(2).to(torch.float32)
        torch.addcmul(row_shift, rows, row_scale, out=rows)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)

    def with_size(self, image_size: int) -> Preprocessing:
        """Return the same preprocessing for another image size; the crop keeps its share of the resized side."""
        return replace(self, image_size=image_size, resize=round(image_size * self.resize / self.image_size))

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON has them; `from_json` is the inverse."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Return the preprocessing that `to_json` described."""
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
