"""Tiles of an image of any size: where they lie, and how maps of tiles become one of the image.

An image larger than what a network sees at once is not shrunk but cut into tiles that overlap, a sliding window. Where
tiles overlap, their logits are averaged (as U-Net's overlap-tile strategy, Ronneberger et al. 2015, section 2, puts one
tile beside the next, and nnU-Net, Isensee et al. 2021, "Inference", averages them). Arithmetic alone: cutting pixels is
``stages.data``'s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cache.errors import UsageError

_NAME = re.compile(r"tile:(\d+),(\d+),(\d+),(\d+):(.+)", re.DOTALL)

_VALUES_AT_ONCE = 1 << 24
"""Most logits at an image's own size that are held at once where only the best class of each pixel is asked for."""


class Box(NamedTuple):
    """A rectangle of an image, in pixels; it may reach beyond the image at the bottom and on the right."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles.

    Attributes
    ----------
    height, width : int
        Of a tile, in pixels.
    overlap : int
        Pixels that neighbors share at least.

    Raises
    ------
    UsageError
        If tiles would not get anywhere.
    """

    height: int
    width: int
    overlap: int

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < min(self.height, self.width):
            raise UsageError(
                f"`overlap` {self.overlap} must be from 0 to less than the shorter side of a tile, which is "
                f"{min(self.height, self.width)}"
            )

    def boxes(self, height: int, width: int) -> list[Box]:
        """Return the tiles of an image, row by row: as few as overlap so much, spread evenly, the outer ones flush.

        Along a side that is shorter than a tile there is one, which reaches beyond the image.
        """
        return [
            Box(top, left, self.height, self.width)
            for top in self._starts(height, self.height)
            for left in self._starts(width, self.width)
        ]

    def _starts(self, length: int, tile: int) -> list[int]:
        if length <= tile:
            return [0]
        steps = math.ceil((length - tile) / (tile - self.overlap))
        return [step * (length - tile) // steps for step in range(steps + 1)]


def name_of_tile(location: str, box: Box) -> str:
    """Return what a tile of the image, or of the mask, at a location is called."""
    return f"tile:{box.top},{box.left},{box.height},{box.width}:{location}"


def split_name(name: str) -> tuple[str, Box] | None:
    """Return the location of what a name says a tile of, and where it lies; None where it is no tile's name."""
    found = _NAME.fullmatch(name)
    return None if found is None else (found[5], Box(*(int(found[number]) for number in range(1, 5))))


def merge_tiles(logits: Tensor, boxes: Sequence[Box], shape: tuple[int, int]) -> Tensor:
    """Return the logits of an image, [C, H, W], from those of its tiles, [n, C, h, w], means where tiles overlap.

    Each tile's map is brought bilinearly to the size of its box (half-pixel centers), whatever its stride; what reaches
    beyond the image is cut off.

    Parameters
    ----------
    logits : float [n, C, h, w]
    boxes : sequence of Box
        One for each tile; together they cover the image.
    shape : (int, int)
        H and W.
    """
    total = logits.new_zeros((logits.shape[1], *shape))
    count = logits.new_zeros(shape)
    for tile, box in zip(logits, boxes, strict=True):
        full = F.interpolate(tile[None], (box.height, box.width), mode="bilinear", align_corners=False)[0]
        rows, columns = min(box.height, shape[0] - box.top), min(box.width, shape[1] - box.left)
        place = (..., slice(box.top, box.top + rows), slice(box.left, box.left + columns))
        total[place] += full[:, :rows, :columns]
        count[place] += 1
    return total / count


def most_probable(logits: Tensor, boxes: Sequence[Box], shape: tuple[int, int]) -> Tensor:
    """Return the class of the highest merged logit of every pixel, uint8 [H, W]; of equal ones the first.

    The same as the argmax of `merge_tiles`, in a memory that is flat in the number of classes.

    Parameters
    ----------
    logits, boxes, shape
        As for `merge_tiles`.
    """
    best = torch.full(shape, -math.inf, device=logits.device)
    classes = torch.zeros(shape, dtype=torch.uint8, device=logits.device)
    for first, merged in _some_classes(logits, boxes, shape):
        highest, number = merged.max(dim=0)
        better = highest > best
        best = torch.where(better, highest, best)
        classes = torch.where(better, (number + first).to(torch.uint8), classes)
    return classes


def _some_classes(logits: Tensor, boxes: Sequence[Box], shape: tuple[int, int]) -> Iterator[tuple[int, Tensor]]:
    """Yield the merged logits of some classes after the other, each part behind the number of its first class."""
    at_once = max(_VALUES_AT_ONCE // math.prod(shape), 1)
    for first in range(0, logits.shape[1], at_once):
        yield first, merge_tiles(logits[:, first : first + at_once].float(), boxes, shape)
