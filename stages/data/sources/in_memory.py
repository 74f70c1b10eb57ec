"""Images that are in memory already: arrays, tensors and Pillow's images, each behind a location of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stages.data.images.rgb import DECODE_ERRORS, UnreadableImageError, as_rgb

Pixels = NDArray[np.uint8] | Tensor | Image.Image
"""uint8 array [H, W, 3] or [H, W] (grey), uint8 tensor [3, H, W] or [1, H, W], or an image of Pillow."""


class InMemoryImage(str):
    """The location of an image that has no file: a name for messages, which carries the pixels.

    A string, so that it stands in a manifest like every other location and goes with it wherever that goes: through
    queues of requests, and into the processes of a data loader.

    Parameters
    ----------
    name : str
        What messages call the image.
    pixels : Pixels
        Kept as they are, not copied.
    """

    __slots__ = ("pixels",)

    pixels: Pixels

    def __new__(cls, name: str, pixels: Pixels) -> InMemoryImage:  # noqa: D102
        location = super().__new__(cls, name)
        location.pixels = pixels
        return location

    def __reduce__(self) -> tuple[Any, ...]:
        return InMemoryImage, (str(self), self.pixels)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image as it is read."""
        height, width = self.read().shape[-2:]
        return int(height), int(width)

    def read(self) -> Tensor:
        """Return the image, uint8 [3, H, W], in memory as the decoders leave it: the channels of a pixel together.

        Raises
        ------
        UnreadableImageError
            If Pillow opened a file that is damaged.
        """
        if isinstance(self.pixels, Image.Image):
            try:
                return as_rgb(self.pixels.copy())  # which turns what it is given upright
            except DECODE_ERRORS as error:
                raise UnreadableImageError(str(error) or type(error).__name__, str(self)) from error
        pixels = self.pixels
        array = pixels.detach().cpu().permute(1, 2, 0).numpy() if isinstance(pixels, Tensor) else pixels
        if array.ndim == 2 or array.shape[2] == 1:
            array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
        # torch shares the memory of contiguous arrays, and complains about those that it must not write to
        array = np.ascontiguousarray(array)
        return torch.from_numpy(array if array.flags.writeable else array.copy()).permute(2, 0, 1)
