"""Rows of features that stay in the cache, and are read as something else: what a kernel's linear model sees, say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stages.fitting.feature_rows import Block, StreamedFeatureRows

_READ_SHARE = 8
"""What a block takes, as it is read and as what is made of it, is one in so many of the bytes that rows may take."""


@dataclass(frozen=True)
class MappedRows(StreamedFeatureRows):
    """What a function makes of streamed rows, made again in each pass.

    Attributes
    ----------
    function : callable
        From rows, float32 [b, d], to float32 [b, width]; of each alone.
    width : int
    """

    function: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    width: int

    @classmethod
    def of(
        cls, rows: StreamedFeatureRows, function: Callable[[NDArray[np.float32]], NDArray[np.float32]], width: int
    ) -> MappedRows:
        """Return what the function makes of these rows."""
        return cls(rows.stores, rows.keys, rows.labels, rows.memory_bytes, function, width)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of what is made of a row."""
        return (self.width,)

    @property
    def row_bytes(self) -> int:
        """Bytes of what is made of a row."""
        return np.dtype(np.float32).itemsize * self.width

    @property
    def block_rows(self) -> int:
        """How many rows are read at a time: as they are stored, and in float32, centered and scaled."""
        (numbers,) = super().row_shape
        beside = (self.stores[0].dtype.itemsize + 3 * np.dtype(np.float32).itemsize) * numbers
        fewer = self.memory_bytes // _READ_SHARE // (beside + 3 * self.row_bytes)
        return max(min(super().block_rows, fewer), 1)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return what is made of some rows, float32 [b, width]."""
        return self.function(super().read(indices).astype(np.float32))

    def shuffled(self, batch_rows: int, seed: int) -> Iterator[Block]:
        """Yield what is made of all rows in an order made of `seed`, as rows are shuffled."""
        for indices, rows in super().shuffled(batch_rows, seed):
            yield indices, self.function(rows.astype(np.float32))

    def __add__(self, other: StreamedFeatureRows) -> MappedRows:
        """Return what is made of the rows of both, those of `other` last."""
        both = super().__add__(other)
        return replace(self, keys=both.keys, labels=both.labels)
