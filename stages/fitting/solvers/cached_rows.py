"""Rows of features that stay in the cache, for solvers that go through all of them again and again.

They are what `DeviceRows` are, and are read block by block while the last block is computed with: features may be
larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.prefetch import prefetch_map
from stages.fitting.feature_rows import StreamedFeatureRows
from stages.fitting.folds import Selection
from stages.fitting.solvers.device_rows import RESIDENT_SHARE, SOLVER_BYTES, DeviceRows
from stages.runtime.device import free_memory

_HELD_SHARE = 0.5
"""Share of what features may take which chosen rows may; the rest is for blocks that are read, and for the solver."""


@dataclass(frozen=True)
class CachedRows:
    """Rows of a cache, for a device to compute with.

    Attributes
    ----------
    device : torch.device
    rows : StreamedFeatureRows
    places : ndarray of int64 [n]
        Which of them, and in which order.
    """

    device: torch.device
    rows: StreamedFeatureRows
    places: NDArray[np.int64]

    @property
    def solver_bytes(self) -> int:
        """Most bytes that a solver is to keep of its models beside the rows."""
        return min(SOLVER_BYTES, self.rows.memory_bytes)

    @property
    def most_held(self) -> int:
        """How many rows may be in memory."""
        return max(int(_HELD_SHARE * self.rows.memory_bytes) // max(self.rows.row_bytes, 1), 1)

    @property
    def dtype(self) -> torch.dtype:
        """The type that rows are stored in."""
        return torch.from_numpy(np.empty(0, self.rows.stores[0].dtype)).dtype

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        (width,) = self.rows.row_shape
        return width

    def __len__(self) -> int:
        return len(self.places)

    def at(self, selection: Selection) -> AnyDeviceRows:
        """Return some of the rows: those of a slice stay in the cache, others are read into memory."""
        if isinstance(selection, slice):
            return replace(self, places=self.places[selection])
        return replace(self, places=self.places[selection]).held()

    def held(self) -> DeviceRows:
        """Return the rows on the device."""
        resident = torch.empty(len(self), self.width, dtype=self.dtype, device=self.device)
        for part, block in self.blocks(len(self)):
            resident[part].copy_(block)
        return DeviceRows(self.device, resident, ())

    def sample(self, places: NDArray[np.int64]) -> Tensor:
        """Return a copy of some of the rows on the device, as they are stored, [m, d]."""
        return self._read(self.places[places])

    def blocks(self, most: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield all rows in order, up to so many at a time, on the device, and which they are."""
        starts = range(0, len(self), self.rows.block_rows)
        parts = (self.places[start : start + self.rows.block_rows] for start in starts)
        with (
            ThreadPoolExecutor(1, "rows") as thread,
            closing(prefetch_map(self._read, parts, pool=thread, ahead=1)) as blocks,
        ):
            for start, block in zip(starts, blocks, strict=True):
                for first in range(0, len(block), most):
                    part = block[first : first + most]
                    yield slice(start + first, start + first + len(part)), part

    def _read(self, places: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.rows.read(places)).to(self.device)


AnyDeviceRows = DeviceRows | CachedRows


def rows_of_cache(rows: StreamedFeatureRows, device: torch.device) -> AnyDeviceRows:
    """Return rows of a cache for a device: on it, where it is an accelerator whose memory has room for all of them."""
    cached = CachedRows(device, rows, np.arange(len(rows)))
    is_large = len(rows) * rows.row_bytes > RESIDENT_SHARE * free_memory(device)
    return cached if device.type == "cpu" or is_large else cached.held()
