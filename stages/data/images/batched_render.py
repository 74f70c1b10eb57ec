"""The evaluation view of many images of any sizes at once, on any device, in few operations.

What `Preprocessing.render` does image by image: antialiased resize, then the middle, or all with a border. An image
becomes the same bits whatever images are with it: each pixel of a view is a weighted sum of a few pixels, added in the
same order, and what is there for longer sums of other images has the weight zero. (Products of matrices, which are
quicker still, do not keep that promise: their sums depend on how large the largest image is.)

The weights are those of ``torch.nn.functional.interpolate(antialias=True)``, which on a CPU rounds them to 16 bits: so
a view is `render`'s to within a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stages.data.images.preprocessing import Preprocessing, inner_shape
from stages.runtime.device import uploaded

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
"""Half the width of a filter, in pixels of the larger of both grids."""

_AT_A_TIME = 1 << 26
"""Pixels, padding included, of the images that are rendered at once, times three channels: 200 MB in 8 bits."""


class _Side(NamedTuple):
    """How a side of an image becomes a side of its view.

    Attributes
    ----------
    length : int
        Pixels of the image.
    resized : int
        Pixels that these are resized to.
    first : int
        The resized pixel that is the view's first; negative where the image begins inside the view.
    """

    length: int
    resized: int
    first: int


def render_batch(images: Sequence[Tensor], preprocessing: Preprocessing) -> Tensor:
    """Return the evaluation views, uint8 [b, 3, S, S] in channels_last, of images, uint8 [3, H, W] on one device.

    Raises
    ------
    UnreadableImageError
        If an image is too long and thin, as `Preprocessing.resized`.
    """
    views = [
        _render_padded([images[index] for index in part], preprocessing)
        for part in _parts([(image.shape[-2], image.shape[-1]) for image in images])
    ]
    return views[0] if len(views) == 1 else torch.cat(views)


def resize_batch(images: Sequence[Tensor], shape: tuple[int, int], interpolation: str) -> Tensor:
    """Return all of images, uint8 [3, H, W] on one device, in one size, antialiased: uint8 [b, 3, *shape]."""
    resized = []
    for part in _parts([(image.shape[-2], image.shape[-1]) for image in images]):
        of_part = [images[index] for index in part]
        vertical, horizontal = (
            _Resampling(
                [_Side(image.shape[axis], length, 0) for image in of_part], length, interpolation, images[0].device
            )
            for axis, length in zip((-2, -1), shape, strict=True)
        )
        resized.append(vertical.along(horizontal.along(_stacked(of_part), 3), 2))
    return resized[0] if len(resized) == 1 else torch.cat(resized)


def _parts(sizes: Sequence[tuple[int, int]]) -> list[range]:
    """Return the images that are rendered at once, of which none needs too much room beside the others."""
    parts: list[range] = []
    start = height = width = 0
    for index, (rows, columns) in enumerate(sizes):
        if index > start and max(height, rows) * max(width, columns) * (index + 1 - start) > _AT_A_TIME:
            parts.append(range(start, index))
            start, height, width = index, 0, 0
        height, width = max(height, rows), max(width, columns)
    return [*parts, range(start, len(sizes))]


def _render_padded(images: Sequence[Tensor], preprocessing: Preprocessing) -> Tensor:
    device = images[0].device
    sides = [view_sides(image.shape[-2], image.shape[-1], preprocessing) for image in images]
    stacked = _stacked(images)
    rows, columns = preprocessing.shape
    vertical = _Resampling([side[0] for side in sides], rows, preprocessing.interpolation, device)
    horizontal = _Resampling([side[1] for side in sides], columns, preprocessing.interpolation, device)
    # rows before columns, with whole levels between, as Pillow and torchvision do it
    views = vertical.along(horizontal.along(stacked, 3), 2)
    if not (vertical.covers and horizontal.covers):
        fill = preprocessing.mean_color if preprocessing.crop_mode == "border" else [0] * views.shape[1]
        color = uploaded(torch.tensor(fill, dtype=torch.uint8), device)[:, None, None]
        inside = vertical.inside[:, None, :, None] & horizontal.inside[:, None, None, :]
        views = torch.where(inside, views, color)
    return views.contiguous(memory_format=torch.channels_last)


def _stacked(images: Sequence[Tensor]) -> Tensor:
    """Return images, uint8 [3, H, W], as [b, 3, H, W], padded at the right and below where sizes differ."""
    if len({image.shape for image in images}) == 1:
        return torch.stack(list(images))
    height, width = (max(image.shape[axis] for image in images) for axis in (-2, -1))
    # what is left as it is gets the weight zero
    stacked = images[0].new_empty((len(images), images[0].shape[0], height, width))
    for place, image in enumerate(images):
        stacked[place, :, : image.shape[-2], : image.shape[-1]] = image
    return stacked


def view_sides(height: int, width: int, preprocessing: Preprocessing) -> tuple[_Side, _Side]:
    """Return how rows and columns of an image become those of its evaluation view.

    Raises
    ------
    UnreadableImageError
        If the image is too long and thin to be resized.
    """
    shape = preprocessing.shape
    if preprocessing.crop_mode != "center":
        inner = shape if preprocessing.crop_mode == "squash" else inner_shape(height, width, shape)
        first = [-((outer - side) // 2) for outer, side in zip(shape, inner, strict=True)]
        return _Side(height, inner[0], first[0]), _Side(width, inner[1], first[1])
    preprocessing.require_proportions(height, width)
    size = preprocessing.resized_size(height, width)
    if len(size) == 1:
        # torchvision's: the longer side is cut to whole pixels
        longer = int(size[0] * max(height, width) / min(height, width))
        size = [size[0], longer] if height <= width else [longer, size[0]]
    rows, columns = (
        _Side(length, resized, _crop_start(resized, seen))
        for length, resized, seen in zip((height, width), size, shape, strict=True)
    )
    return rows, columns


def _crop_start(resized: int, seen: int) -> int:
    """Return the first pixel of torchvision's center crop, which pads by the rounded half."""
    return -((seen - resized) // 2) if seen > resized else round((resized - seen) / 2.0)


class _Resampling:
    """Weighted sums along one side of images: which pixels, with which weights.

    Attributes
    ----------
    inside : bool Tensor [b, seen]
        Which pixels of the views lie on their images.
    covers : bool
        Whether all do.
    """

    def __init__(self, sides: Sequence[_Side], seen: int, interpolation: str, device: torch.device) -> None:
        self.covers = all(side.first >= 0 and side.first + seen <= side.resized for side in sides)
        length, resized, first = uploaded(torch.tensor(sides, dtype=torch.float64), device).T[:, :, None]
        number = torch.arange(seen, dtype=torch.float64, device=device) + first
        self.inside = (number >= 0) & (number < resized)
        ratio = length / resized
        if interpolation in ("nearest", "nearest-exact"):
            shift = 0.5 if interpolation == "nearest-exact" else 0.0
            # in 32 bits, as torch does it: what lies on the edge of two pixels falls as there
            starts = ((number + shift).float() * ratio.float()).floor()
            self._take(starts, torch.ones((*starts.shape, 1), dtype=torch.float32, device=device), length)
            return
        width = ratio.clamp(min=1)
        support = _SUPPORT[interpolation] * width
        center = ratio * (number + 0.5)
        starts = (center - support + 0.5).floor().clamp(min=0)
        stops = torch.minimum((center + support + 0.5).floor(), length)
        taps = math.ceil(2 * _SUPPORT[interpolation] * max(max(side.length / side.resized, 1) for side in sides)) + 1
        pixel = starts[..., None] + torch.arange(taps, dtype=torch.float64, device=device)
        distance = ((pixel - center[..., None] + 0.5) / width[..., None]).abs()
        weights = _bilinear(distance) if interpolation == "bilinear" else _bicubic(distance)
        weights = torch.where(pixel < stops[..., None], weights, 0.0)
        # one after the other, so that zeros behind change nothing
        total = weights[..., 0].clone()
        for tap in range(1, taps):
            total += weights[..., tap]
        self._take(starts, (weights / torch.where(total == 0, 1.0, total)[..., None]).float(), length)

    def _take(self, starts: Tensor, weights: Tensor, lengths: Tensor) -> None:
        """Keep the pixels of the sums, int64 [taps, b, seen], and their weights; what lies beside an image weighs 0."""
        taps = torch.arange(weights.shape[2], device=starts.device)
        pixels = (starts.long() + taps[:, None, None]).clamp_(min=0)
        self._taken, self._weights = torch.minimum(pixels, lengths.long() - 1), weights

    def along(self, pixels: Tensor, axis: int) -> Tensor:
        """Return the sums along axis 2 or 3 of pixels, uint8 [b, 3, H, W], that side as long as the view's."""
        shape = list(pixels.shape)
        shape[axis] = self._taken.shape[2]
        sums: Tensor | None = None
        # of a large photograph there are some twenty taps: three launches for each
        for taken, weights in zip(self._taken, self._weights.unbind(2), strict=True):
            gathered = pixels.gather(axis, _across(taken, axis).expand(shape))
            # two steps, as a fused one rounds otherwise on some processors
            weighted = gathered * _across(weights, axis)
            sums = weighted if sums is None else sums.add_(weighted)
        assert sums is not None, "a pixel is made of one at least"
        # halves upwards, as there; what is behind the point is cut off
        return sums.add_(0.5).clamp_(0, 255).to(torch.uint8)


def _across(values: Tensor, axis: int) -> Tensor:
    """Return values [b, n] as [b, 1, n, 1] or [b, 1, 1, n]."""
    return values[:, None, :, None] if axis == 2 else values[:, None, None, :]


def _bilinear(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _bicubic(distance: Tensor) -> Tensor:
    """Return the weights of Keys' cubic convolution with a = -0.5, as torch and Pillow take it for antialiasing."""
    a = -0.5
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
