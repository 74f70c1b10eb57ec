"""The evaluation view: how a photograph becomes what the network was trained to see.

Each backbone brings its own values. Random renderings are in ``augmentation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cache.errors import UsageError
from stages.data.photograph import UnreadableImageError

INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic")
"""Interpolations that torchvision has for tensors."""

_RESIZED_LIMIT = 1 << 26
"""Most pixels a resized image may have before it is cropped; only a strip a thousand times longer than wide has."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop, normalisation; always antialiased.

    The same as torchvision's ``ImageClassification`` preset, in 8 bits up to `normalise`: equal to Pillow's resize to
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
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

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
        black, as torchvision's centre crop does.

        Raises
        ------
        UnreadableImageError
            If the image is so long and thin that resizing its shorter side would fill the memory.
        """
        height, width = image.shape[-2:]
        if self.resize**2 * max(height, width) > _RESIZED_LIMIT * min(height, width):
            raise UnreadableImageError(f"{width} x {height} pixels are too long and thin to be resized")
        resized = F.resize(image, [self.resize], interpolation=self.interpolation_mode, antialias=True)
        view: Tensor = F.center_crop(resized, [self.image_size, self.image_size])
        return view.contiguous()

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 [b, 3, S, S] as float32 [b, 3, S, S], (x / 255 - mean) / std, on the same device."""
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std))
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)

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
