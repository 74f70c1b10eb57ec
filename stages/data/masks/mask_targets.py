"""Masks by the numbers of their samples: whole, or thinned to the size of a map within a bounded memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stages.data.masks.mask_classes import MaskClasses, read_mask, resize_mask
from stages.data.masks.survey import image_shape
from stages.tasks.tiles import split_name

_THREADS = 4
"""Most masks that are read at once: reading is decoding, which needs a core."""

_AT_ONCE = 32
"""Most whole masks that are held while they are thinned."""

_UNKNOWN = 0
"""Height of a mask that was never read."""


class MaskViews(Protocol):
    """How masks lie in the views in which their images are seen."""

    @property
    def count(self) -> int:
        """How many views there are of an image, the evaluation view, 0, among them."""

    def rendered(self, place: int, mask: NDArray[np.uint8], view: int) -> NDArray[np.uint8]:
        """Return the mask of a sample, uint8 [H, W], as its image is seen in a view."""

    def seen(self, logits: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return the part of logits of the evaluation view, [classes, h, w], that a mask of this shape lies over."""


class MaskTargets:
    """The masks of samples, read when they are asked for.

    Thinned masks are kept, in one size at a time, as long as they fit into the memory allowed; what does not fit is
    read again in each pass. Whole masks are never kept.

    Parameters
    ----------
    locations : sequence of str
        Where the mask of each sample is.
    classes : MaskClasses
    memory_bytes : int
        How much thinned masks may take together.
    views : MaskViews, optional
        How masks lie in views; by default each lies over all of the one view that there is.
    """

    def __init__(
        self, locations: Sequence[str], classes: MaskClasses, memory_bytes: int, views: MaskViews | None = None
    ) -> None:
        self.locations = list(locations)
        self.classes = classes
        self._views = views
        self._memory_bytes = memory_bytes
        self._shapes = np.zeros((len(self.locations), 2), dtype=np.int64)
        self._thinned_shape = (0, 0)
        self._thinned = np.empty((0, 0, 0), dtype=np.uint8)
        self._renderings = len(self.locations) * (1 if views is None else views.count)
        self._row_of: NDArray[np.int64] = np.full(self._renderings, -1, dtype=np.int64)
        self._num_rows = 0

    def __len__(self) -> int:
        return len(self.locations)

    def full(self, places: Sequence[int] | NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """Return the masks of these samples as they are stored, uint8 [H, W] each, 255 where no class is known.

        Raises
        ------
        UnreadableImageError
            If one cannot be read.
        """
        numbers = [int(place) for place in places]
        with ThreadPoolExecutor(max(min(_THREADS, os.cpu_count() or 1, len(numbers)), 1)) as threads:
            masks = list(threads.map(lambda number: read_mask(self.locations[number], self.classes), numbers))
        for number, mask in zip(numbers, masks, strict=True):
            self._shapes[number] = mask.shape
        return masks

    def shapes(self, places: Sequence[int] | NDArray[np.int64]) -> list[tuple[int, int]]:
        """Return height and width of the masks of these samples, from their headers where they were never read.

        Raises
        ------
        UnreadableImageError
            If one cannot be read.
        """
        numbers = np.asarray(places, dtype=np.int64)
        for number in np.unique(numbers[self._shapes[numbers, 0] == _UNKNOWN]).tolist():
            location = self.locations[number]
            tile = split_name(location)
            shape = image_shape(location) if tile is None else (tile[1].height, tile[1].width)
            self._shapes[number] = shape or self.full([number])[0].shape
        return [(int(height), int(width)) for height, width in self._shapes[numbers]]

    def thinned(
        self,
        places: Sequence[int] | NDArray[np.int64],
        shape: tuple[int, int],
        views: NDArray[np.int64] | None = None,
    ) -> NDArray[np.uint8]:
        """Return the masks of these samples in one size, by nearest: uint8 [b, h, w].

        Parameters
        ----------
        places
        shape
            Height and width.
        views : int64 [b], optional
            In which view each is wanted; by default 0.

        Raises
        ------
        UnreadableImageError
            If one cannot be read.
        """
        numbers = np.asarray(places, dtype=np.int64)
        if views is not None:  # renderings are numbered view after view
            numbers = numbers + len(self.locations) * views
        self._begin(shape)
        wanted = np.unique(numbers[self._row_of[numbers] < 0])
        fresh: dict[int, NDArray[np.uint8]] = {}
        for start in range(0, len(wanted), _AT_ONCE):  # whole masks of a large batch would fill the memory
            some = wanted[start : start + _AT_ONCE]
            masks = self.full(some % len(self.locations))
            for number, mask in zip(some.tolist(), masks, strict=True):
                view, place = divmod(number, len(self.locations))
                rendered = mask if self._views is None else self._views.rendered(place, mask, view)
                fresh[number] = resize_mask(rendered, shape)
        for number, mask in fresh.items():
            if self._num_rows < len(self._thinned):
                self._thinned[self._num_rows], self._row_of[number] = mask, self._num_rows
                self._num_rows += 1
        thinned = np.empty((len(numbers), *shape), dtype=np.uint8)
        rows = self._row_of[numbers]
        kept = rows >= 0
        thinned[kept] = self._thinned[rows[kept]]
        for place in np.flatnonzero(~kept):
            thinned[place] = fresh[int(numbers[place])]
        return thinned

    def seen(self, logits: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return the part of logits of the evaluation view, [classes, h, w], that a mask of this shape lies over."""
        return logits if self._views is None else self._views.seen(logits, shape)

    def _begin(self, shape: tuple[int, int]) -> None:
        """Make room for masks of this size, if those that are kept are of another."""
        if shape == self._thinned_shape:
            return
        rows = min(self._renderings, self._memory_bytes // max(shape[0] * shape[1], 1))
        self._thinned_shape, self._num_rows = shape, 0
        self._thinned = np.empty((rows, *shape), dtype=np.uint8)
        self._row_of[:] = -1
