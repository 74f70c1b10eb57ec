"""Cached features as a torch ``Dataset``: for training loops that are the user's own."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cache import FeatureCache
from cache.errors import CacheInputError, UsageError
from stages.config.data import SPLITS
from stages.data.manifest import Manifest


class CachedDataset(Dataset[tuple[Any, Any]]):
    """The cached features of a manifest's samples, with their targets.

    A batch is one sorted read where the loader asks for it as a whole, as ``DataLoader`` does. No file stays open, so
    it may be pickled, and used by the workers of a loader whether they are forked or spawned.

    Parameters
    ----------
    cache : FeatureCache
    manifest : Manifest
        Samples that stage 1 found unreadable are left out.
    split : {"train", "val", "test"}, optional
        Which samples; all by default.
    view : int or None
        Which rendering of each sample; None draws one of all that are cached, anew each time an item is asked for, from
        torch's random state, which a loader seeds differently in each worker and epoch.
    transform : callable, optional
        Of the features, a float32 tensor [*row_shape].
    target_transform : callable, optional
        Of the target, a tensor as the manifest's task loads it: int64 [] for one class a sample.

    Attributes
    ----------
    manifest : Manifest
        The samples, in the order of the items.
    class_names : tuple of str
        In the order of their numbers; none where the task has no classes.
    views : tuple of int
        Those that are drawn from.

    Raises
    ------
    ValueError
        If there is no such split, the view is no number, or the cache or the manifest is a path: says what opens it.
    CacheInputError
        If samples have no row in this view; says how many.
    """

    def __init__(
        self,
        cache: FeatureCache,
        manifest: Manifest,
        split: str | None = None,
        view: int | None = 0,
        transform: Callable[[Tensor], Any] | None = None,
        target_transform: Callable[[Tensor], Any] | None = None,
    ) -> None:
        if split is not None and split not in SPLITS:
            raise UsageError(f"split has to be one of {', '.join(map(repr, SPLITS))} or None for all, not {split!r}")
        if view is not None and not isinstance(view, (int, np.integer)):
            raise UsageError(f"view has to be the number of a view, or None to draw from all, not {view!r}")
        if not isinstance(cache, FeatureCache):
            raise UsageError(
                f"cache has to be a FeatureCache, not {cache!r}: cache.open_cache opens the folder of one, and "
                "cache.find_caches lists those in a folder"
            )
        if not isinstance(manifest, Manifest):
            raise UsageError(
                f"manifest has to be a Manifest, not {manifest!r}: Manifest.load (stages.data.manifest) reads the "
                "manifest.csv of a run, and load_manifest makes one of a DataConfig"
            )
        manifest = manifest.by_image()
        rejected = cache.unreadable()
        indices = range(len(manifest)) if split is None else manifest.indices(split).tolist()
        self.cache = cache
        self.manifest = manifest.select([index for index in indices if manifest.keys[index] not in rejected])
        self.class_names = manifest.class_names
        self.views = (view,) if view is not None else self._complete_views()
        self.transform = transform
        self.target_transform = target_transform
        missing = len(cache.missing(self.manifest.keys, self.views[0])) if self.views else len(self.manifest)
        if missing:
            view_text = f"view {view}" if view is not None else "any one view"
            raise CacheInputError(
                f"{missing} of {len(self.manifest)} samples have no row ({view_text}) in {cache.path}"
            )

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return (features, target) of one sample."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Any, Any]]:
        """Return (features, target) of some samples, read at once."""
        positions = np.array([self._place(index) for index in indices], dtype=np.int64)
        drawn = (
            torch.randint(len(self.views), (len(positions),)).numpy()
            if len(self.views) > 1
            else np.zeros(len(positions))
        )
        items: list[tuple[Any, Any]] = [(None, None)] * len(positions)
        for number in np.unique(drawn):
            items_of_view = np.flatnonzero(drawn == number)
            for item, row in zip(
                items_of_view, self._read(positions[items_of_view], self.views[int(number)]), strict=True
            ):
                target = torch.tensor(self.manifest.targets[positions[item]])
                items[item] = (
                    self.transform(row) if self.transform else row,
                    self.target_transform(target) if self.target_transform else target,
                )
        return items

    def _read(self, positions: NDArray[np.int64], view: int) -> Tensor:
        rows = self.cache.read([self.manifest.keys[position] for position in positions], view)
        return torch.from_numpy(rows).float()

    def _place(self, index: int) -> int:
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"index {index} is out of range: there are {len(self)} samples")
        return position % len(self)

    def _complete_views(self) -> tuple[int, ...]:
        """Return the views of which every sample has a row."""
        return tuple(view for view in sorted(self.cache.views) if not self.cache.missing(self.manifest.keys, view))
