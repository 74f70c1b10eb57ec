"""A data set of cached rows, in a module of its own: workers that are spawned import it, and little else."""

from collections.abc import Sequence

import numpy as np

from cache import FeatureCache


class CachedRows:
    """Rows of a cache by the numbers of their keys, a batch at a time, for a DataLoader."""

    def __init__(self, cache: FeatureCache, keys: Sequence[str]) -> None:
        self.cache = cache
        self.keys = keys

    def __getitems__(self, numbers: Sequence[int]) -> list[np.ndarray]:
        return list(self.cache.read([self.keys[number] for number in numbers]))
