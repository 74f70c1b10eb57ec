"""Which classes the values in masks stand for, and masks read as numbers of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import DataError, listed
from stages.data.images.rgb import UnreadableImageError
from stages.data.masks.stored import StoredMask, color_name, packed, stored_mask
from stages.tasks.dense import VOID
from stages.tasks.tiles import Box, split_name

_TABLE_SIZE = 1 << 16
"""Numbers below this are looked up in a table."""

_NAMED = 5
"""Most values that a message names."""


@dataclass(frozen=True)
class MaskClasses:
    """How what is stored in masks becomes numbers of classes.

    Attributes
    ----------
    names : tuple of str
        Of the classes, in the order of their numbers.
    by_color : bool
        Whether colors say which class a pixel is of, and not numbers.
    numbers : tuple of (int, int)
        Each stored value, a packed color where these say it, with its class; 255 for none that is known.
    left_out : tuple of str
        What stands for no class is called, where it has names.
    """

    names: tuple[str, ...]
    by_color: bool
    numbers: tuple[tuple[int, int], ...]
    left_out: tuple[str, ...] = ()

    def of(self, mask: StoredMask) -> NDArray[np.uint8]:
        """Return the number of the class of each pixel, uint8 [H, W], 255 where none is known.

        Raises
        ------
        UnreadableImageError
            If it holds a value that stands for no class, or colors where the others hold numbers.
        """
        values = mask.values
        if self.by_color and not mask.are_colors:
            values = _as_colors(mask)
        elif mask.are_colors and not self.by_color:
            raise UnreadableImageError("it is a color image, and the other masks hold numbers")
        if self.by_color or values.min(initial=0) < 0 or values.max(initial=0) >= _TABLE_SIZE:
            stored, classes = self._sorted
            places = np.minimum(np.searchsorted(stored, values), len(stored) - 1)
            known, found = stored[places] == values, classes[places]
        else:
            table, is_known = self._table
            known, found = is_known[values], table[values]
        if not known.all():
            unknown = [self.word(value) for value in np.unique(values[~known]).tolist()]
            raise UnreadableImageError(f"it holds {listed(unknown, _NAMED)}, which is no class of this data")
        return found

    def word(self, value: int) -> str:
        """Return a stored value as people write it."""
        return color_name(value) if self.by_color else str(value)

    @cached_property
    def colors(self) -> tuple[int, ...] | None:
        """The packed color of each class, the first that stands for it; None where numbers say the class."""
        if not self.by_color:
            return None
        first = {number: value for value, number in reversed(self.numbers)}
        return tuple(first.get(number, 0) for number in range(len(self.names)))

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON has them; `from_json` is the inverse."""
        stored = [[self.word(value) if self.by_color else value, number] for value, number in self.numbers]
        left_out = {"left_out": list(self.left_out)} if self.left_out else {}
        return {"names": list(self.names), "by_color": self.by_color, "stored": stored, **left_out}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> MaskClasses:
        """Return what `to_json` wrote.

        Raises
        ------
        DataError
            If it is something else.
        """
        try:
            by_color = bool(content["by_color"])
            numbers = [
                (int(value[1:], 16) if by_color else int(value), int(number)) for value, number in content["stored"]
            ]
            return cls(tuple(content["names"]), by_color, tuple(numbers), tuple(content.get("left_out", ())))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"these are no classes of masks: {error}") from error

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        stored, classes = (np.array(column, dtype=np.int64) for column in zip(*sorted(self.numbers), strict=True))
        return stored, classes.astype(np.uint8)

    @cached_property
    def _table(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        table, is_known = np.full(_TABLE_SIZE, VOID, dtype=np.uint8), np.zeros(_TABLE_SIZE, dtype=bool)
        for value, number in self.numbers:
            if 0 <= value < _TABLE_SIZE:
                table[value], is_known[value] = number, True
        return table, is_known


def read_mask(location: str, classes: MaskClasses) -> NDArray[np.uint8]:
    """Return the mask at a location, or a tile of one, as numbers of classes, uint8 [H, W], 255 where none is known.

    Raises
    ------
    UnreadableImageError
        A DataError that names the file and the reason: it is not there, no image, or holds what is no class.
    """
    if (tile := split_name(location)) is not None:
        return _tile_of_mask(*tile, classes)
    try:
        return classes.of(stored_mask(location))
    except UnreadableImageError as error:
        raise UnreadableImageError(error.reason, location) from error


def _tile_of_mask(location: str, box: Box, classes: MaskClasses) -> NDArray[np.uint8]:
    """Return a rectangle of a mask, void beyond it."""
    part = read_mask(location, classes)[box.top : box.top + box.height, box.left : box.left + box.width]
    tile = np.full((box.height, box.width), VOID, dtype=np.uint8)
    tile[: part.shape[0], : part.shape[1]] = part
    return tile


def resize_mask(mask: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a mask, uint8 [H, W], in another height and width, each pixel the nearest by its center.

    The centers are those by which maps are resized bilinearly without aligned corners, so that both lie over the same
    places of the image.
    """
    rows, columns = (
        ((np.arange(length) + 0.5) * old / length).astype(np.int64)
        for length, old in zip(shape, mask.shape, strict=True)
    )
    return np.asarray(mask[rows[:, None], columns])


def _as_colors(mask: StoredMask) -> NDArray[np.int64]:
    if not mask.palette:
        return mask.values * packed(1, 1, 1)
    indices, colors = (np.array(column, dtype=np.int64) for column in zip(*sorted(mask.palette.items()), strict=True))
    return colors[np.searchsorted(indices, mask.values)]
