"""The evaluation view: how a photograph becomes what the network was trained to see.

Each backbone brings its own values. Random renderings are in ``augmentation``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, get_args

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cache.errors import UsageError
from stages.config.features import CropMode
from stages.config.image_size import ImageSize, read_size, shape_of_size
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


def inner_shape(height: int, width: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Return the largest rows and columns in the proportions of an image that fit into `shape`."""
    rows, columns = shape
    if height * columns >= width * rows:  # as in a square, where the longer side decides
        return rows, max(round(width * rows / height), 1)  # of a strip of pixels one row is left
    return max(round(height * columns / width), 1), columns


def paddings(height: int, width: int, shape: tuple[int, int]) -> list[int]:
    """Return what lies left of, above, right of and below an image in the middle of a `shape` that is no smaller."""
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    return [left, top, shape[1] - width - left, shape[0] - height - top]


@cache
def scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], columns: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return what levels are multiplied by, and what is added, for a row of pixels; made once, not for each batch.

    To bring numbers to a GPU is to wait for all that it has to do before. And CUDA graphs read them where they lie: so
    they stay.
    """
    scale = [1 / (255 * deviation) for deviation in std]
    shift = [-middle / deviation for middle, deviation in zip(mean, std, strict=True)]
    with torch.inference_mode(False):  # they serve where gradients are taken, too
        row_scale, row_shift = (torch.tensor(values).repeat(columns).to(device) for values in (scale, shift))
    return row_scale, row_shift


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop, normalisation; always antialiased.

    With a centre crop the same as torchvision's ``ImageClassification`` preset, in 8 bits up to `normalize`: equal to
    Pillow's resize to within rounding. With the others as timm's evaluation transform of that name with a `crop_pct`
    of 1, which loses nothing of an image.

    Attributes
    ----------
    image_size : int or str
        Side of the square the network sees, in pixels, or ``HEIGHTxWIDTH`` where it sees no square.
    resize : int
        Length of the shorter side before the crop, in pixels; where all of an image is seen, that of the shorter side
        of what random crops of test-time augmentation are taken from.
    interpolation : str
        One of `INTERPOLATIONS`.
    mean, std : tuple of float
        Per channel, for pixel values between 0 and 1.
    crop_mode : str
        What is seen of an image: ``center``, the middle of it; ``squash``, all, its sides brought to one length;
        ``border``, all in its own proportions, the mean color beside it.
    """

    image_size: ImageSize
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
        object.__setattr__(self, "image_size", read_size(self.image_size))
        if self.resize < 1:
            raise UsageError(f"image size {self.image_size} and resize {self.resize} must be at least 1 pixel")

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and columns the network sees."""
        return shape_of_size(self.image_size)

    @property
    def larger_shape(self) -> tuple[int, int]:
        """Rows and columns of the whole image from which crops of test-time augmentation are taken."""
        height, width = self.shape
        scale = max(self.resize / min(height, width), 1)
        return round(height * scale), round(width * scale)

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
        view: Tensor = (
            F.center_crop(self.resized(image), list(self.shape))
            if self.crop_mode == "center"
            else self.whole(image, self.shape)
        )
        return view[None].contiguous(memory_format=torch.channels_last)[0]

    def share_seen(self, height: int, width: int) -> float:
        """Return how much of the area of an image the evaluation view shows."""
        if self.crop_mode != "center":
            return 1.0
        shorter = min(height, width)
        rows, columns = self.shape
        return min(rows / (self.resize * height / shorter), 1.0) * min(columns / (self.resize * width / shorter), 1.0)

    def whole(self, image: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return all of a photograph, uint8 [3, H, W], as uint8 [3, *shape]: squashed, or with a border."""
        size = shape if self.crop_mode != "border" else inner_shape(image.shape[-2], image.shape[-1], shape)
        return self.padded(F.resize(image, list(size), interpolation=self.interpolation_mode, antialias=True), shape)

    def image_area(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return where in a view with a border the image lies: the first row and column, and how many of each."""
        rows, columns = inner_shape(height, width, self.shape)
        return (self.shape[0] - rows) // 2, (self.shape[1] - columns) // 2, rows, columns

    def padded(self, image: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return an image of at most these rows and columns in the middle of as many, uint8 [3, *shape]."""
        view: Tensor = F.pad(image, paddings(image.shape[-2], image.shape[-1], shape), fill=self.mean_color)
        return view

    def resized(self, image: Tensor) -> Tensor:
        """Return a photograph, uint8 [3, H, W], with its shorter side `resize` long: what crops are taken from.

        Where the network sees no square, it is as small as covers `larger_shape`.

        Raises
        ------
        UnreadableImageError
            If the image is so long and thin that resizing its shorter side would fill the memory.
        """
        height, width = image.shape[-2:]
        self.require_proportions(height, width)
        size = self.resized_size(height, width)
        resized: Tensor = F.resize(image, size, interpolation=self.interpolation_mode, antialias=True)
        return resized

    def require_proportions(self, height: int, width: int) -> None:
        """Refuse an image that is so long and thin that resizing its shorter side would fill the memory.

        Raises
        ------
        UnreadableImageError
            With its size.
        """
        if self.resize**2 * max(height, width) > _RESIZED_LIMIT * min(height, width):
            raise UnreadableImageError(f"{width} x {height} pixels are too long and thin to be resized")

    def resized_size(self, height: int, width: int) -> list[int]:
        """Return what `resized` brings an image to, as torchvision takes it: the shorter side, or both."""
        if self.shape[0] == self.shape[1]:
            return [self.resize]
        rows, columns = self.larger_shape
        scale = max(rows / height, columns / width)
        return [max(round(height * scale), rows), max(round(width * scale), columns)]

    @property
    def decoded_side(self) -> int:
        """To how many pixels the shorter side of an image is resized at most, so that it may be decoded smaller."""
        return self.resize if self.shape[0] == self.shape[1] else max(self.larger_shape)

    def normalize(self, images: Tensor) -> Tensor:
        """Return uint8 [b, 3, H, W] as float32 [b, 3, H, W], (x / 255 - mean) / std, on the same device.

        The result is in channels_last, whatever the images are in; those in channels_last take half the time.
        """
        row_scale, row_shift = scale_and_shift(self.mean, self.std, images.shape[3], images.device)
        # by rows of 3 S numbers: with the channels as a dimension of their own, the inner loops would be 3 numbers long
        pixels = images.permute(0, 2, 3, 1)
        rows = pixels.flatten(2).to(torch.float32)
        torch.addcmul(row_shift, rows, row_scale, out=rows)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)

    def with_size(self, image_size: ImageSize) -> Preprocessing:
        """Return the same preprocessing for another image size; the crop keeps its share of the shorter side."""
        shorter = min(shape_of_size(read_size(image_size)))
        return replace(self, image_size=image_size, resize=round(shorter * self.resize / min(self.shape)))

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
