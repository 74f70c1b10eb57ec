"""Rows of images and of their mirror images, which lie in two caches, read as their means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.feature_cache import FeatureCache
from cache.shuffled_batches import FeatureBatch

MIRROR_VIEW = 1
"""The view under which mirror images are cached, where features are taken of both."""

_BLOCK_NUMBERS = 8 << 20
"""Numbers of rows that are averaged at a time."""


@dataclass(frozen=True)
class MirroredRows:
    """What is read as a `FeatureCache` is, of the evaluation view, and gives means over mirror images.

    Attributes
    ----------
    cache : FeatureCache
        The rows of images.
    mirrored : FeatureCache
        Those of their mirror images.
    """

    cache: FeatureCache
    mirrored: FeatureCache

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
        lacking = {*self.cache.missing(keys, view), *self.mirrored.missing(keys, MIRROR_VIEW)}
        return [key for key in dict.fromkeys(keys) if key in lacking]

    def read(self, keys: Sequence[str], view: int = 0) -> NDArray[Any]:
        """Return the rows of keys, [n, *row_shape] in the storage type; means are taken in float32."""
        return self._averaged(self.cache.read(keys, view), keys)

    def batches(
        self, keys: Sequence[str], batch_rows: int, *, seed: int, memory_bytes: int = 256 << 20
    ) -> Iterator[FeatureBatch]:
        """Yield batches as `FeatureCache.batches` does; the rows of mirror images are looked up one by one."""
        for indices, rows in self.cache.batches(keys, batch_rows, seed=seed, memory_bytes=memory_bytes):
            yield FeatureBatch(indices, self._averaged(rows, [keys[index] for index in indices]))

    def _averaged(self, rows: NDArray[Any], keys: Sequence[str]) -> NDArray[Any]:
        step = max(_BLOCK_NUMBERS // max(int(np.prod(self.row_shape)), 1), 1)
        for start in range(0, len(keys), step):
            part = slice(start, start + step)
            rows[part] = (rows[part].astype(np.float32) + self.mirrored.read(keys[part], MIRROR_VIEW)) / 2
        return rows


RowStore = FeatureCache | MirroredRows
"""What rows are read from."""
