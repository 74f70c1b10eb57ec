"""Rows that lie in two caches under the same keys, read as their means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.feature_cache import FeatureCache
from cache.shuffled_batches import FeatureBatch

_BLOCK_NUMBERS = 8 << 20
"""Numbers of rows that are averaged at a time."""


@dataclass(frozen=True)
class AveragedRows:
    """What is read as a `FeatureCache` is, and gives means of the rows of two.

    Attributes
    ----------
    cache : FeatureCache
        Of which view 0 is read.
    other : FeatureCache
    other_view : int
        The view of the other one that is read.
    """

    cache: FeatureCache
    other: FeatureCache
    other_view: int

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.cache.row_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The storage type."""
        return self.cache.dtype

    def missing(self, keys: Sequence[str], view: int = 0) -> list[str]:
        """Return the keys that lack a row of either and can have one."""
        lacking = {*self.cache.missing(keys, view), *self.other.missing(keys, self.other_view)}
        return [key for key in dict.fromkeys(keys) if key in lacking]

    def read(self, keys: Sequence[str], view: int = 0) -> NDArray[Any]:
        """Return the means for keys, [n, *row_shape] in the storage type; they are taken in float32."""
        return self._averaged(self.cache.read(keys, view), keys)

    def batches(
        self, keys: Sequence[str], batch_rows: int, *, seed: int, memory_bytes: int = 256 << 20
    ) -> Iterator[FeatureBatch]:
        """Yield batches as `FeatureCache.batches` does; rows of the other cache are looked up batch by batch."""
        for indices, rows in self.cache.batches(keys, batch_rows, seed=seed, memory_bytes=memory_bytes):
            yield FeatureBatch(indices, self._averaged(rows, [keys[index] for index in indices]))

    def _averaged(self, rows: NDArray[Any], keys: Sequence[str]) -> NDArray[Any]:
        step = max(_BLOCK_NUMBERS // max(int(np.prod(self.row_shape)), 1), 1)
        for start in range(0, len(keys), step):
            part = slice(start, start + step)
            rows[part] = (rows[part].astype(np.float32) + self.other.read(keys[part], self.other_view)) / 2
        return rows


RowStore = FeatureCache | AveragedRows
"""What rows are read from."""
