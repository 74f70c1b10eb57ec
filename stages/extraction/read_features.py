"""Cached features of a manifest's samples; no network is needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cache import FeatureCache
from cache.errors import CacheInputError
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor


def read_features(extractor: Extractor, manifest: Manifest, view: int = 0) -> NDArray[np.floating]:
    """Return the cached features, [n, *row_shape] in the storage type, of the manifest's samples in its order.

    Raises
    ------
    CacheInputError
        If some are not in the cache; as `require_cached`.
    """
    stores = require_cached(extractor, manifest, view)
    if len(stores) == 1:
        return np.asarray(stores[0].read(manifest.keys, view))
    joined = np.empty((len(manifest.keys), *extractor.row_shape), dtype=stores[0].dtype)
    start = 0
    for tap, store in zip(extractor.taps, stores, strict=True):
        joined[:, start : start + tap.shape[0]] = store.read(manifest.keys, view)
        start += tap.shape[0]
    return joined


def require_cached(extractor: Extractor, manifest: Manifest, view: int = 0) -> list[FeatureCache]:
    """Return the caches of a view, one for each cut.

    Raises
    ------
    CacheInputError
        If some of the manifest's samples are not in them; says how many, and the command that extracts them.
    """
    stores = [tap.cache_of_view(view) for tap in extractor.taps]
    for tap, store in zip(extractor.taps, stores, strict=True):
        missing = store.missing(manifest.keys, view)
        if missing:
            example = manifest.locations[manifest.keys.index(missing[0])]
            raise CacheInputError(
                f"{len(missing)} of {len(manifest.keys)} images have no cached features for {extractor.backbone.name} "
                f"at {tap.cut.name} in {extractor.options.cache} (first: {example}{f', view {view}' if view else ''}); "
                "run `extract` first, with the same `data` and the same options of stage 1 (`backbone`, `cut`, `pool`, "
                "`image_size`, `precision`, `views`, `augment`, `cache`)"
            )
    return stores


def drop_unreadable(extractor: Extractor, manifest: Manifest) -> Manifest:
    """Return the manifest without the samples stage 1 found unreadable."""
    rejected = extractor.unreadable()
    return manifest.select([index for index, key in enumerate(manifest.keys) if key not in rejected])
