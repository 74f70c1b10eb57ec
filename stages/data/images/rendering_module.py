"""The evaluation view as tensor operations alone, for graphs that leave this library: any size, any batch.

`Preprocessing.render` resizes 8-bit pixels by torch's integer arithmetic, first along rows, then along columns, each
rounded to a whole level. Both are products with a matrix that follows from the sizes alone, and rounding; so here they
are that: matrices whose entries are the very fractions that torch uses, computed in the graph from the shape of the
input. Nothing in a graph then depends on what a runtime calls antialiasing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stages.config.augment_grammar import TTA
from stages.data.images.preprocessing import Preprocessing

_MOST_BITS = 22
"""Bits after the point that torch gives its weights at most (ATen/native/cpu/UpSampleKernel.cpp)."""

_EDGE = 4
"""Rows at either end of an image among which the largest weight is looked for, beside those that are seen."""


class Side(NamedTuple):
    """What becomes of one side of images, float64 [k] each.

    Attributes
    ----------
    length : Tensor
        Pixels that there are.
    resized : Tensor
        To how many they are brought.
    offset : Tensor
        Which of these the view begins with; negative where it begins before the image.
    """

    length: Tensor
    resized: Tensor
    offset: Tensor


def resize_matrix(side: Side, seen: int, positions: Tensor, interpolation: str) -> tuple[Tensor, Tensor]:
    """Return what brings one side of images to that of a view, and where in the view there is an image.

    Parameters
    ----------
    side : Side
    seen : int
        Pixels of the view.
    positions : Tensor, float64 [n]
        0, 1, ..., n - 1, for images that are stored in n pixels, which may be more than they have.
    interpolation : str
        As of a `Preprocessing`.

    Returns
    -------
    matrix : float32 [k, seen, n]
        Multiples of a power of two; rows of 0 where the view shows no image.
    is_image : bool [k, seen]
    """
    rows = torch.arange(seen, dtype=torch.float64)[None] + side.offset[:, None]
    is_image = (rows >= 0) & (rows < side.resized[:, None])
    rows = torch.minimum(rows.clamp_min(0.0), side.resized[:, None] - 1)  # beside the image there is nothing to weigh
    if interpolation.startswith("nearest"):
        return _nearest(side, rows, positions, exact=interpolation == "nearest-exact") * is_image[..., None], is_image
    weights = _weights(side, rows, positions, interpolation) * is_image[..., None]
    # torch scales by the largest weight of all rows; where the image ends, kernels are cut off and weights are larger
    first, last = torch.arange(_EDGE, dtype=torch.float64), side.resized[:, None] - 1
    ends = torch.cat([torch.zeros_like(last) + first, last - first], dim=1)
    ends = torch.minimum(ends.clamp_min(0.0), last)
    at_ends = _weights(side, ends, positions, interpolation)
    largest = torch.maximum(weights.amax(dim=(1, 2)), at_ends.amax(dim=(1, 2)))
    return _quantized(weights, largest).to(torch.float32), is_image


def _weights(side: Side, rows: Tensor, positions: Tensor, interpolation: str) -> Tensor:
    """Return the weights of the pixels, float64 [k, r, n], for rows of the resized image, [k, r]."""
    scale = (side.length / side.resized)[:, None]
    stretch = scale.clamp_min(1.0)
    support = stretch * (2.0 if interpolation == "bicubic" else 1.0)
    center = scale * (rows + 0.5)
    start = torch.floor(center - support + 0.5).clamp_min(0.0)
    stop = torch.minimum(torch.floor(center + support + 0.5), side.length[:, None])
    x = torch.abs((positions - center[..., None] + 0.5) * (1.0 / stretch)[..., None])
    values = _cubic(x) if interpolation == "bicubic" else (1.0 - x).clamp_min(0.0)
    inside = (positions >= start[..., None]) & (positions < stop[..., None])
    values = torch.where(inside, values, torch.zeros_like(values))
    return values / values.sum(dim=2, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    """Return Keys' kernel with a = -0.5, which Pillow and torch's antialiasing use (Keys 1981, equation 15)."""
    near = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, torch.zeros_like(x)))


def _quantized(weights: Tensor, largest: Tensor) -> Tensor:
    """Return weights [k, r, n] rounded to as many bits as 16 have room for, given the largest of each k."""
    bits = torch.arange(_MOST_BITS, dtype=torch.float64)
    fits = torch.floor(0.5 + largest[:, None] * torch.exp2(bits + 1)) < float(1 << 15)
    unit = torch.exp2(fits.to(torch.float64).sum(dim=1))[:, None, None]
    return torch.sign(weights) * torch.floor(torch.abs(weights) * unit + 0.5) / unit


def _nearest(side: Side, rows: Tensor, positions: Tensor, *, exact: bool) -> Tensor:
    """Return 1 at the one pixel that each row takes, float32 [k, r, n]; torch finds it in float32."""
    scale = (side.length.to(torch.float32) / side.resized.to(torch.float32))[:, None]
    places = torch.floor((rows.to(torch.float32) + (0.5 if exact else 0.0)) * scale).to(torch.float64)
    places = torch.minimum(places, side.length[:, None] - 1)
    return (positions == places[..., None]).to(torch.float32)


class RenderingModule(nn.Module):
    """Images of any size as a network sees them: uint8 [b, C, H, W] -> renderings, float32 [b, C, S, S] each.

    Parameters
    ----------
    preprocessing : Preprocessing
        Whose `render` and `normalize` this is.
    tta : str
        Test-time augmentation: what else is rendered, as `TestTimeAugmentation` does.

    Notes
    -----
    Bit for bit the pixels of `Preprocessing.render` on CPUs where torch resizes 8-bit pixels as such (x86 with AVX2,
    ARM), but for a level or so where an image is shrunk more than fourfold, whose sums do not fit into float32.
    Images that `render` refuses, a thousand times longer than wide, are not refused.
    """

    scale: Tensor
    shift: Tensor
    fill: Tensor

    def __init__(self, preprocessing: Preprocessing, tta: TTA = "none") -> None:
        super().__init__()
        self.preprocessing, self.tta = preprocessing, tta
        mean, std = preprocessing.mean, preprocessing.std
        as_color = (1, len(mean), 1, 1)
        self.register_buffer("scale", torch.tensor([1 / (255 * level) for level in std]).view(as_color))
        shift = [-level / deviation for level, deviation in zip(mean, std, strict=True)]
        self.register_buffer("shift", torch.tensor(shift).view(as_color))
        self.register_buffer("fill", torch.tensor(preprocessing.mean_color, dtype=torch.float32).view(as_color))

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        """Return the renderings of a batch, normalized, the evaluation view first.

        Parameters
        ----------
        images : Tensor, uint8 [b, C, H, W]
        sizes : Tensor, int64 [b, 2], optional
            Height and width of each image, which lies in the upper left corner of its H x W; all of it by default.
        """
        return [pixels * self.scale + self.shift for pixels in self.pixels(images, sizes)]

    def pixels(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        """Return the renderings of a batch as levels from 0 to 255, float32 [b, C, S, S] each."""
        rows, columns = (torch.arange(images.shape[dim], dtype=torch.float64) for dim in (2, 3))
        if sizes is None:
            height, width = rows[-1:] + 1, columns[-1:] + 1
        else:
            height, width = sizes[:, 0].to(torch.float64), sizes[:, 1].to(torch.float64)
        levels = images.to(torch.float32)
        views = [self._view(levels, sides, (rows, columns)) for sides in self._sides(height, width)]
        if self.tta == "none":
            return views
        return [*views, *(view.flip(3) for view in views)]

    def _view(self, levels: Tensor, sides: tuple[Side, Side], positions: tuple[Tensor, Tensor]) -> Tensor:
        how, shape = self.preprocessing.interpolation, self.preprocessing.shape
        (by_row, in_rows), (by_column, in_columns) = (
            resize_matrix(side, seen, places, how) for side, seen, places in zip(sides, shape, positions, strict=True)
        )
        levels = _rounded(torch.matmul(levels, by_column.transpose(1, 2)[:, None]))
        levels = _rounded(torch.matmul(by_row[:, None], levels))
        if self.preprocessing.crop_mode == "center":  # black beside the image, which the matrices give
            return levels
        is_image = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
        return torch.where(is_image, levels, self.fill)

    def _sides(self, height: Tensor, width: Tensor) -> Iterator[tuple[Side, Side]]:
        """Yield what becomes of both sides of images for each rendering that is no mirror image."""
        preprocessing, lengths = self.preprocessing, (height, width)
        if preprocessing.crop_mode != "center":
            yield self._whole(lengths, preprocessing.shape, (0, 0))
            if self.tta == "crops":
                larger = preprocessing.larger_shape
                ends = tuple(outer - inner for outer, inner in zip(larger, preprocessing.shape, strict=True))
                for top in (0, ends[0]):
                    for left in (0, ends[1]):
                        yield self._whole(lengths, larger, (top, left))
            return
        resized = self._resized(height, width)
        sides = [
            _crops(length, brought, seen)
            for length, brought, seen in zip(lengths, resized, preprocessing.shape, strict=True)
        ]
        yield sides[0][0], sides[1][0]
        if self.tta == "crops":
            for upper in sides[0][1:]:
                for left_side in sides[1][1:]:
                    yield upper, left_side

    def _resized(self, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """Return `Preprocessing.resized_size`."""
        preprocessing = self.preprocessing
        if preprocessing.shape[0] == preprocessing.shape[1]:
            shorter = torch.minimum(height, width)
            resize = float(preprocessing.resize)
            return torch.floor(resize * height / shorter), torch.floor(resize * width / shorter)
        rows, columns = map(float, preprocessing.larger_shape)
        scale = torch.maximum(rows / height, columns / width)
        return torch.round(height * scale).clamp_min(rows), torch.round(width * scale).clamp_min(columns)

    def _whole(
        self, lengths: tuple[Tensor, Tensor], shape: tuple[int, int], start: tuple[int, ...]
    ) -> tuple[Side, Side]:
        """Return the sides of images as `Preprocessing.whole` brings them to a shape, seen from a place on."""
        height, width = lengths
        rows, columns = (torch.full_like(height, float(length)) for length in shape)
        if self.preprocessing.crop_mode == "border":
            rows, columns = inner_sides(height, width, shape)
        sides = zip(lengths, (rows, columns), shape, start, strict=True)
        top, left = (
            Side(length, inner, start - torch.floor((outer - inner) / 2)) for length, inner, outer, start in sides
        )
        return top, left


def inner_sides(height: Tensor, width: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return `inner_shape` of images of these sides, float64 [k] each."""
    rows, columns = map(float, shape)
    by_rows = height * columns >= width * rows
    inner_rows = torch.where(by_rows, torch.full_like(height, rows), torch.round(height * columns / width))
    inner_columns = torch.where(by_rows, torch.round(width * rows / height), torch.full_like(width, columns))
    return inner_rows.clamp_min(1.0), inner_columns.clamp_min(1.0)


def _crops(length: Tensor, resized: Tensor, seen: int) -> tuple[Side, Side, Side]:
    """Return the middle, the beginning and the end of one side; the middle of all where the view is longer."""
    beyond = resized - seen
    padded = -torch.floor(-beyond / 2)
    middle = torch.where(beyond < 0, padded, torch.round(beyond / 2))
    starts = (
        middle,
        torch.where(beyond < 0, padded, torch.zeros_like(beyond)),
        torch.where(beyond < 0, padded, beyond),
    )
    center, first, last = (Side(length, resized, start) for start in starts)
    return center, first, last


def _rounded(levels: Tensor) -> Tensor:
    return torch.floor(levels + 0.5).clamp(0.0, 255.0)
