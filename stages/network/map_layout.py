"""Feature maps of several cuts in one row of numbers, and how they come out of it again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cache.errors import UsageError
from stages.network.graph.cuts import Cut, Layout

MapShape = tuple[int, int, int]
"""Channels, height and width."""

_FEWEST_LABELS = 48
"""On the longer side of a mask that is thinned: what is small would be in no label."""


@dataclass(frozen=True)
class MapLayout:
    """The maps that stand one after the other in a row, as the network gives them.

    Attributes
    ----------
    shapes : tuple of (channels, height, width)
        Of each map, in the order of the row.
    stored : tuple of str
        How the numbers of each lie: ``nchw``, ``nhwc``, or ``tokens``, place by place after those that belong to none.
        By default all are ``nchw``.
    prefix_tokens : tuple of int
        How many numbers of each map's width stand before its first place: class and register tokens. By default none.
    """

    shapes: tuple[MapShape, ...]
    stored: tuple[Layout, ...] = ()
    prefix_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", tuple(tuple(shape) for shape in self.shapes))
        object.__setattr__(self, "stored", tuple(self.stored) or ("nchw",) * len(self.shapes))
        object.__setattr__(self, "prefix_tokens", tuple(self.prefix_tokens) or (0,) * len(self.shapes))

    @classmethod
    def of_cuts(cls, cuts: Sequence[Cut], image_shape: tuple[int, int]) -> MapLayout:
        """Return the layout of the unpooled outputs of cuts, for images of a height and a width.

        Raises
        ------
        UsageError
            If the output of a cut has no places: says which.
        """
        return cls(
            tuple(_map_shape(cut, image_shape) for cut in cuts),
            tuple(cut.layout for cut in cuts),
            tuple(cut.prefix_tokens if cut.layout == "tokens" else 0 for cut in cuts),
        )

    @property
    def sizes(self) -> list[int]:
        """How many numbers of a row belong to each map."""
        return [
            channels * (height * width + prefix)
            for (channels, height, width), prefix in zip(self.shapes, self.prefix_tokens, strict=True)
        ]

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return sum(self.sizes)

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each map."""
        return tuple(shape[0] for shape in self.shapes)

    @property
    def finest(self) -> tuple[int, int]:
        """Height and width of the map with most places."""
        return max((shape[1:] for shape in self.shapes), key=math.prod)

    def label_size(self, scale: int = 1) -> tuple[int, int]:
        """Return the height and width that masks are thinned to for the loss of a head on these maps.

        So many times the size of the finest, and where that is coarse, twice, four times, ... as much.
        """
        height, width = self.finest
        while scale * max(height, width) < _FEWEST_LABELS:
            scale *= 2
        return scale * height, scale * width

    @property
    def middle(self) -> int:
        """Which map is the middle one by the number of its places; of an even number the coarser of the two."""
        order = sorted(range(len(self.shapes)), key=lambda index: -math.prod(self.shapes[index][1:]))
        return order[len(order) // 2]

    def split(self, rows: Tensor) -> list[Tensor]:
        """Return the maps of rows [b, width], each [b, channels, height, width]; rows may have any further shape."""
        parts = torch.split(rows.flatten(1), self.sizes, dim=1)
        return [self._as_map(part, index) for index, part in enumerate(parts)]

    def vectors(self, rows: Tensor) -> Tensor:
        """Return the mean of each map over its places, side by side, [b, sum of channels]."""
        return torch.cat([maps.mean(dim=(2, 3)) for maps in self.split(rows)], dim=1)

    def to_json(self) -> dict[str, Any]:
        """Return the layout as JSON values; `from_json` is the inverse."""
        return {
            "shapes": [[*shape] for shape in self.shapes],
            "stored": [*self.stored],
            "prefix_tokens": [*self.prefix_tokens],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> MapLayout:
        """Return the layout that `to_json` described; an unknown entry raises TypeError."""
        return cls(**content)

    def _as_map(self, part: Tensor, index: int) -> Tensor:
        channels, height, width = self.shapes[index]
        if self.stored[index] == "nchw":
            return part.reshape(-1, channels, height, width)
        places = part[:, self.prefix_tokens[index] * channels :]
        return places.reshape(-1, height, width, channels).permute(0, 3, 1, 2)


def _map_shape(cut: Cut, image_shape: tuple[int, int]) -> MapShape:
    if cut.layout == "nchw":
        channels, height, width = cut.shape
        return channels, height, width
    if cut.layout == "nhwc":
        height, width, channels = cut.shape
        return channels, height, width
    if cut.layout == "tokens":
        places = cut.shape[0] - cut.prefix_tokens
        height = round(math.sqrt(places * image_shape[0] / image_shape[1]))
        if height and places % height == 0:
            return cut.shape[1], height, places // height
    raise UsageError(
        f"`cut` {cut.name} gives {cut.layout} of shape {[*cut.shape]}, which is no map: a class for each pixel needs "
        "places, and `list-cuts` shows which cuts have any"
    )
