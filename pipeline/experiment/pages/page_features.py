"""The cached features that a saved method stands on, found without its network, as rows for a page.

Rows of several cuts, of taps and of mirror images are put together as a head is given them. Where they are of several
depths they are standardized, so that none of these decides alone what is near.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache import FeatureCache, Spec
from cache.averaged_rows import AveragedRows, RowStore
from cache.errors import CacheError
from cache.inventory import find_caches, open_cache
from pipeline.experiment.models.model_card import ModelCard
from stages.data.manifest import Manifest
from stages.extraction.extractor import MIRROR_VIEW, joined_fingerprint
from stages.network.graph.pooling import SPATIAL_DIMS
from stages.network.heads.base import layout_and_channels

_ROWS_AT_ONCE = 512
"""Rows that are read at a time, where maps become vectors."""

_SCALED_BY = 1000
"""Training images by which features of several depths are standardized."""

_FURTHEST = 100.0
"""Deviations from the mean that a number of several depths is taken for at most: one that is next to the same in all of
few training images would have thousands in another, which says nothing, and which 16 bits do not hold."""

_MOST_NUMBERS = 1 << 28
"""Numbers of training images' features that are in memory; of more images every so many-th is compared."""


@dataclass(frozen=True)
class PageFeatures:
    """Cached features of a method of a run, and the samples that they are of.

    Attributes
    ----------
    stores : tuple of FeatureCache or AveragedRows
        One for each cut, in the order of a row, or one of taps.
    manifest : Manifest
    """

    stores: tuple[RowStore, ...]
    manifest: Manifest

    @property
    def words(self) -> str:
        """What they are of."""
        specs = [_evaluation_cache(store).spec for store in self.stores]
        mirrored = ", with mirror images" if isinstance(self.stores[0], AveragedRows) else ""
        standardized = ", standardized" if self.of_depths else ""
        return f"{specs[0].backbone} at {', '.join(spec.cut for spec in specs)}{mirrored}{standardized}"

    @property
    def of_depths(self) -> bool:
        """Whether a row consists of several depths."""
        return len(self.stores) > 1 or _evaluation_cache(self.stores[0]).spec.taps is not None

    @cached_property
    def train(self) -> Manifest:
        """The training images that have features."""
        unreadable = {key for store in self.stores for key in _evaluation_cache(store).unreadable()}
        return self.manifest.select(self.manifest.indices("train")).without_images(unreadable)

    @cached_property
    def every(self) -> int:
        """Every so many-th training image is compared; 1 where all are."""
        return max(-(-len(self.train) * self._width // _MOST_NUMBERS), 1)

    def vectors(self, keys: Sequence[str]) -> NDArray[Any]:
        """Return the features of images, [n, d]; of maps the mean over their places.

        Raises
        ------
        CacheError
            If some have none.
        """
        rows = self._rows(keys)
        if not self.of_depths:
            return rows
        mean, deviation = self._scale
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            rows[part] = np.clip((rows[part].astype(np.float32) - mean) / deviation, -_FURTHEST, _FURTHEST)
        return rows

    @property
    def _width(self) -> int:
        return sum(int(np.prod(store.row_shape)) for store in self.stores)

    @cached_property
    def _scale(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and deviation of each number over some training images; 1 of what is the same in all."""
        keys = self.train.keys
        rows = self._rows(keys[:: max(len(keys) // _SCALED_BY, 1)]).astype(np.float32)
        deviation = rows.std(axis=0)
        return rows.mean(axis=0), np.where(deviation > 0, deviation, np.float32(1))

    def _rows(self, keys: Sequence[str]) -> NDArray[Any]:
        parts = [_vectors(store, keys) for store in self.stores]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def find_features(card: ModelCard, manifest: Path) -> PageFeatures | None:
    """Return the features that a method stands on; None where they are gone, or of samples of several images.

    Parameters
    ----------
    card : ModelCard
        Of a mixture that of its weightiest member.
    manifest : Path
        Of the samples.

    Raises
    ------
    CacheError, DataError
        If a cache or the manifest is damaged.
    """
    if card.features_fingerprint is None or card.samples is not None:
        return None
    root = Path(card.features["cache"])
    path = root / card.features_fingerprint
    stores: tuple[RowStore, ...] | None = None
    if path.is_dir():
        stores = (open_cache(path),)
    elif root.is_dir():
        stores = next(_joined(root, card), None)
    if stores is None or not all(_evaluation_cache(store).shards for store in stores):
        return None
    return PageFeatures(stores, Manifest.load(manifest))


def _joined(root: Path, card: ModelCard) -> Iterator[tuple[RowStore, ...]]:
    """Yield the caches whose fingerprints together have the digest that a card names its features by."""
    caches: list[FeatureCache] = []
    for path in find_caches(root):
        try:
            cache = open_cache(path)
        except CacheError:  # another one's: what is ours is known by its digest
            continue
        if cache.spec.weights == card.weights_digest:
            caches.append(cache)
    taken_of_both = bool(card.features.get("mirror"))
    names = [""] if card.features.get("taps") else [name.strip() for name in card.features["cut"].split(",")]
    plain = [cache for cache in caches if cache.spec.views is None]
    mirrored = {_without_views(cache.spec): cache for cache in caches if _is_mirror(cache.spec)}
    for parts in product(*([cache for cache in plain if _is_called(cache.spec, name)] for name in names)):
        others = [mirrored.get(part.spec.canonical) for part in parts] if taken_of_both else []
        there = [other for other in others if other is not None]
        specs = [cache.spec for cache in (*parts, *there)]
        if len(there) == len(others) and joined_fingerprint(specs) == card.features_fingerprint:
            pairs = zip(parts, there, strict=True)
            yield tuple(AveragedRows(part, other, MIRROR_VIEW) for part, other in pairs) if taken_of_both else parts


def _is_called(spec: Spec, name: str) -> bool:
    """Return whether a cut may be what an option names: itself, or the module that it is the last of."""
    return spec.taps is not None if not name else name == "auto" or f"{spec.cut}.".startswith(f"{name}.")


def _is_mirror(spec: Spec) -> bool:
    return spec.views is not None and spec.views.get("augment") == "mirror"


def _without_views(spec: Spec) -> str:
    return Spec.from_json({**spec.to_json(), "views": None}).canonical


def _evaluation_cache(store: RowStore) -> FeatureCache:
    return store.cache if isinstance(store, AveragedRows) else store


def _vectors(store: RowStore, keys: Sequence[str]) -> NDArray[Any]:
    shape = store.row_shape
    if len(shape) == 1:
        return np.asarray(store.read(list(keys)))
    axes = SPATIAL_DIMS[layout_and_channels("of a page", shape)[0]]
    parts = [
        store.read(list(keys[start : start + _ROWS_AT_ONCE])).astype(np.float32).mean(axis=axes)
        for start in range(0, len(keys), _ROWS_AT_ONCE)
    ]
    return np.concatenate(parts)
