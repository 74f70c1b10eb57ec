"""The evaluation view: how a photograph becomes what the network was trained to see.

Each backbone brings its own values. Random renderings are in ``augmentation``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cache.errors import UsageError
from stages.config.features import CropMode
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
    """Resize, crop, normalisation; always antialiased.

    With a centre crop the same as torchvision's ``ImageClassification`` preset, in 8 bits up to `normalize`: equal to
    Pillow's resize to within rounding. With the others as timm's evaluation transform of that name with a `crop_pct`
    of 1, which loses nothing of an image.

    Attributes
    ----------
    image_size : int
        Side of the square the network sees, in pixels.
    resize : int
        Length of the shorter side before the crop, in pixels; where all of an image is seen, the side of the square
        that random crops of test-time augmentation are taken from.
    interpolation : str
        One of `INTERPOLATIONS`.
    mean, std : tuple of float
        Per channel, for pixel values between 0 and 1.
    crop_mode : str
        What is seen of an image: ``center``, the middle of it; ``squash``, all, its sides brought to one length;
        ``border``, all in its own proportions, the mean color beside it.
    """

    image_size: int
    resize: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_mode: CropMode = "center"

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(f"interpolation {self.interpolation!r} is not one of {', '.join(INTERPOLATIONS)}")
        if self.crop_mode not in get_args(CropMode):
            raise UsageError(f"crop mode {self.crop_mode!r} is not one of {', '.join(get_args(CropMode))}")
        if self.image_size < 1 or self.resize < 1:
            raise UsageError(f"image size {self.image_size} and resize {self.resize} must be at least 1 pixel")

    @property
    def mean_color(self) -> list[int]:
        """The color that fills what a rendering leaves open, a level from 0 to 255 for each channel."""
        return [round(255 * level) for level in self.mean]

    @property
    def interpolation_mode(self) -> InterpolationMode:
        """The interpolation as torchvision's constant."""
        return InterpolationMode(self.interpolation)

    def render(self, image: Tensor) -> Tensor:
        """Return the evaluation view, uint8 [3, S, S], of a photograph, uint8 [3, H, W].

        With a centre crop the shorter side becomes `resize`, then the middle is cut out; where that is smaller than S
        it is padded with black, as torchvision's does. In memory the three channels of a pixel lie side by side, as
        the decoders leave them and `normalize` wants them.

        Raises
        ------
        UnreadableImageError
            As `resized`, with a centre crop.
        """
        side = self.image_size
        view: Tensor = (
            F.center_crop(self.resized(image), [side, side]) if self.crop_mode == "center" else self.whole(image, side)
        )
        return view[None].contiguous(memory_format=torch.channels_last)[0]

    def share_seen(self, height: int, width: int) -> float:
        """Return how much of the area of an image the evaluation view shows."""
        if self.crop_mode != "center":
            return 1.0
        kept = min(self.image_size / self.resize, 1.0)
        longer = max(height, width) / min(height, width)
        return kept * min(self.image_size / (self.resize * longer), 1.0)

    def whole(self, image: Tensor, side: int) -> Tensor:
        """Return all of a photograph, uint8 [3, H, W], as uint8 [3, side, side]: squashed, or with a border."""
        size = [side, side]
        if self.crop_mode == "border":
            longer = max(image.shape[-2:])
            # of a strip of pixels one row is left
            size = [max(round(length * side / longer), 1) for length in image.shape[-2:]]
        return self.padded(F.resize(image, size, interpolation=self.interpolation_mode, antialias=True), side)

    def image_area(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return where in a view with a border the image lies: the first row and column, and how many of each."""
        side, longer = self.image_size, max(height, width)
        rows, columns = (max(round(length * side / longer), 1) for length in (height, width))
        return (side - rows) // 2, (side - columns) // 2, rows, columns

    def padded(self, image: Tensor, side: int) -> Tensor:
        """Return an image of at most `side` pixels a side in the middle of a square, uint8 [3, side, side]."""
        height, width = image.shape[-2:]
        top, left = (side - height) // 2, (side - width) // 2
        square: Tensor = F.pad(image, [left, top, side - width - left, side - height - top], fill=self.mean_color)
        return square

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

    def with_crop_mode(self, crop_mode: CropMode) -> Preprocessing:
        """Return the same preprocessing with another crop mode; ``center``, the option's default, leaves its own."""
        return self if crop_mode == "center" else replace(self, crop_mode=crop_mode)

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON has them, but for a centre crop; `from_json` is the inverse.

        Specs of cached features hold these values, and those of before there were other crop modes name none.
        """
        values = {**asdict(self), "mean": list(self.mean), "std": list(self.std)}
        if self.crop_mode == "center":
            del values["crop_mode"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Return the preprocessing that `to_json` described."""
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
