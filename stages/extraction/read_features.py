"""Cached features of a manifest's samples; no network is needed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.averaged_rows import AveragedRows, RowStore
from cache.errors import CacheInputError, UsageError
from stages.data.manifest import Manifest
from stages.extraction.extractor import MIRROR_VIEW, CachedCut, Extractor
from stages.network.aggregate import Aggregate, AggregateKind, fit_aggregate, padded

_BLOCK_BYTES = 32 << 20
"""Features of images that are in memory at a time while they become one row for each sample."""


def read_features(
    extractor: Extractor,
    manifest: Manifest,
    view: int = 0,
    aggregate: Aggregate | None = None,
    blocks: Collection[str] | None = None,
) -> NDArray[np.floating]:
    """Return the cached features of the manifest's samples in its order.

    Parameters
    ----------
    extractor : Extractor
    manifest : Manifest
    view : int
    aggregate : Aggregate, optional
        Makes one row of the images of a sample, where samples have several; by default their mean.
    blocks : collection of str, optional
        Of rows of taps, the names of the blocks that are wanted; see :meth:`TapLayout.depth_sets`. In the order in
        which they stand in a row. The others are never in memory, but for some megabytes while they are checked.

    Returns
    -------
    array [n, *row_shape] in the storage type
        Of samples of several images float32 [n, width].

    Raises
    ------
    CacheInputError
        If some are not in the cache; as `require_cached`.
    UsageError
        If samples have several images, whose features are no vectors, or blocks are wanted that there are not.
    """
    stores = require_cached(extractor, manifest, view)
    if blocks is not None:
        return _read_blocks(extractor, stores[0], manifest, view, blocks)
    if not manifest.images:
        return _read(extractor, stores, manifest.keys, view)
    aggregate = aggregate or Aggregate("mean", places_of(manifest), _width(extractor))
    rows = np.empty((len(manifest), aggregate.width), dtype=np.float32)
    start = 0
    for bags in _bags(extractor, stores, manifest, view, aggregate.places):
        rows[start : start + len(bags)] = aggregate(bags.float()).numpy()
        start += len(bags)
    return rows


def read_bags(
    extractor: Extractor, manifest: Manifest, view: int = 0, places: int | None = None
) -> NDArray[np.floating]:
    """Return the cached features of all images of each sample, [n, F, d + 1] in the storage type.

    The last number is 1 where there is an image; see ``stages.network.aggregate``.

    Parameters
    ----------
    extractor : Extractor
    manifest : Manifest
        Of samples of several images.
    view : int
    places : int, optional
        F; by default as many as the largest sample has.
    """
    stores = require_cached(extractor, manifest, view)
    places = places or places_of(manifest)
    bags = np.empty((len(manifest), places, _width(extractor) + 1), dtype=stores[0].dtype)
    start = 0
    for block in _bags(extractor, stores, manifest, view, places):
        bags[start : start + len(block)] = block.numpy()
        start += len(block)
    return bags


def fitted_aggregate(extractor: Extractor, train: Manifest, kind: AggregateKind, places: int) -> Aggregate:
    """Return what makes one row of the images of a sample, fitted to the training samples where it has to be."""
    stores = require_cached(extractor, train) if kind == "concat" else []
    bags = (block.float() for block in _bags(extractor, stores, train, 0, places))
    return fit_aggregate(kind, places, _width(extractor), bags)


def places_of(manifest: Manifest) -> int:
    """Return as many images as the largest sample has places for."""
    return max(map(len, manifest.images), default=1)


def require_cached(extractor: Extractor, manifest: Manifest, view: int = 0) -> list[RowStore]:
    """Return the caches of a view, one for each cut.

    Raises
    ------
    CacheInputError
        If some of the manifest's images are not in them; says how many, and the command that extracts them.
    """
    stores = [_store(extractor, tap, view) for tap in extractor.taps]
    locations, keys = manifest.distinct_images if manifest.images else (manifest.locations, manifest.keys)
    for tap, store in zip(extractor.taps, stores, strict=True):
        missing = store.missing(keys, view)
        if missing:
            example = locations[keys.index(missing[0])]
            raise CacheInputError(
                f"{len(missing)} of {len(keys)} images have no cached features for {extractor.backbone.name} "
                f"at {tap.name} in {extractor.options.cache} (first: {example}{f', view {view}' if view else ''}); "
                "run `extract` first, with the same `data` and the same options of stage 1 (`backbone`, `cut` or "
                "`taps`, `pool`, `image_size`, `precision`, `views`, `augment`, `mirror`, `cache`)"
            )
    return stores


def _store(extractor: Extractor, tap: CachedCut, view: int) -> RowStore:
    """Return what a view's rows of a tap are read from: with `mirror`, of the evaluation view, two caches at once."""
    if extractor.options.mirror and view == 0:
        return AveragedRows(tap.cache, tap.view_cache, MIRROR_VIEW)
    return tap.cache_of_view(view)


def drop_unreadable(extractor: Extractor, manifest: Manifest) -> Manifest:
    """Return the manifest without the images stage 1 found unreadable, and without samples that have no other."""
    return manifest.without_images(extractor.unreadable())


def _read(extractor: Extractor, stores: Sequence[RowStore], keys: Sequence[str], view: int) -> NDArray[np.floating]:
    """Return the rows of images, those of several cuts joined."""
    if len(stores) == 1:
        return np.asarray(stores[0].read(keys, view))
    joined = np.empty((len(keys), extractor.row_numbers), dtype=stores[0].dtype)
    start = 0
    for tap, store in zip(extractor.taps, stores, strict=True):
        numbers = math.prod(tap.shape)
        joined[:, start : start + numbers] = store.read(keys, view).reshape(len(keys), numbers)
        start += numbers
    return joined


def _read_blocks(
    extractor: Extractor, store: RowStore, manifest: Manifest, view: int, blocks: Collection[str]
) -> NDArray[np.floating]:
    """Return some blocks of the rows of images: rows are read whole, for their checksums, some megabytes at a time."""
    layout = extractor.tap_layout
    if layout is None or manifest.images:
        raise UsageError("blocks are read of rows of `taps`, each of one image")
    slices = layout.slices
    parts = [slices[block.name] for block in layout.select(blocks).blocks]
    rows = np.empty((len(manifest), sum(part.stop - part.start for part in parts)), dtype=store.dtype)
    step = max(_BLOCK_BYTES // (layout.width * store.dtype.itemsize), 1)
    for start in range(0, len(manifest), step):
        whole = store.read(manifest.keys[start : start + step], view)
        np.concatenate([whole[:, part] for part in parts], axis=1, out=rows[start : start + step])
    return rows


def _bags(
    extractor: Extractor, stores: Sequence[RowStore], manifest: Manifest, view: int, places: int
) -> Iterator[Tensor]:
    """Yield the bags of some samples after the others, some megabytes at a time."""
    width = _width(extractor)
    step = max(_BLOCK_BYTES // (places * width * 4), 1)
    for start in range(0, len(manifest), step):
        samples = manifest.images[start : start + step]
        there = [(place, image.key) for views in samples for place, image in enumerate(views) if image is not None]
        sizes = [sum(image is not None for image in views) for views in samples]
        rows = torch.from_numpy(_read(extractor, stores, [key for _, key in there], view))
        yield padded(rows, sizes, [place for place, _ in there], places)


def _width(extractor: Extractor) -> int:
    """Return the width of the features of an image, of samples that have several."""
    if len(extractor.row_shape) != 1:
        raise UsageError(
            f"samples of several images need vectors, and the rows are {[*extractor.row_shape]}: choose a `pool`: avg, "
            "max or avgmax"
        )
    return extractor.row_shape[0]
