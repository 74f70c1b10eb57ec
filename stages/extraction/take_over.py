"""Rows that version 1 of the decoder computed, for images that are read as it read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cache import FeatureCache, Spec
from stages.data.sources.version_1 import is_read_as_in_version_1
from stages.extraction.extractor import Extractor
from stages.runtime.progress import progress

_ROWS = 4096
"""Rows that are in memory at a time."""


class TakenOver(NamedTuple):
    """What became of the images of which the caches of version 1 have rows that today's lacked.

    Attributes
    ----------
    images : int
        Whose rows were copied.
    changed : int
        Which are read otherwise today, and are computed anew.
    """

    images: int
    changed: int


def take_over_rows(extractor: Extractor, keys: Sequence[str], locations: Sequence[str]) -> TakenOver:
    """Copy what the caches of version 1 have of images that are read as before into today's.

    Parameters
    ----------
    extractor
        Its caches get the rows.
    keys, locations : sequence of str
        Of the images, each key once.
    """
    location_of: dict[str, str] = {}
    same: dict[str, bool] = {}
    for today, before, view in _pairs(extractor):
        lacking = today.missing(keys, view)
        unknown = set(before.missing(lacking, view)) | before.unreadable().keys()
        there = [key for key in lacking if key not in unknown]
        if not there:
            continue
        location_of = location_of or dict(zip(keys, locations, strict=True))
        new = [key for key in there if key not in same]
        same |= {key: is_read_as_in_version_1(location_of[key]) for key in progress(new, label="look", unit="files")}
        _copy(before, today, [key for key in there if same[key]], view, extractor.options.compression)
    return TakenOver(sum(same.values()), len(same) - sum(same.values()))


def has_rows_of_version_1(extractor: Extractor, keys: Sequence[str]) -> bool:
    """Return whether the caches of version 1 hold the same rows as today's of all these images, bit for bit.

    What was trained on the ones was then trained on the others.
    """
    pairs = list(_pairs(extractor))
    if len(pairs) < len(extractor.taps) * extractor.cached_views:
        return False
    return all(_are_equal(today, before, keys, view) for today, before, view in pairs)


def version_1_serves(extractor: Extractor, keys: Sequence[str], evaluated: Sequence[str] = ()) -> bool:
    """Return whether the caches of version 1 have all that today's lack of these images, to be taken over.

    Parameters
    ----------
    extractor : Extractor
    keys, evaluated : sequence of str
        Of images of which all cached views are wanted, and of which the evaluation view is.
    """
    pairs = list(_pairs(extractor))
    if len(pairs) < len(extractor.taps) * extractor.cached_views:
        return False
    return not any(
        before.missing(today.missing([*keys, *(() if view else evaluated)], view), view)
        for today, before, view in pairs
    )


def _are_equal(today: FeatureCache, before: FeatureCache, keys: Sequence[str], view: int) -> bool:
    if today.missing(keys, view) or before.missing(keys, view) or before.unreadable().keys() & set(keys):
        return False
    parts = (keys[start : start + _ROWS] for start in range(0, len(keys), _ROWS))
    return all(np.array_equal(today.read(part, view), before.read(part, view)) for part in parts)


def _pairs(extractor: Extractor) -> Iterator[tuple[FeatureCache, FeatureCache, int]]:
    """Yield each cache of today, the one of version 1 that held the same if there is one, and a view of theirs."""
    decoder = extractor.reading.decoder_of_version_1
    for tap in extractor.taps if decoder is not None else ():
        for view in range(extractor.cached_views):
            today = tap.cache_of_view(view)
            before = FeatureCache(today.root, Spec.from_json({**today.spec.to_json(), "decoder": decoder}))
            if before.path.is_dir():
                yield today, before, view


def _copy(source: FeatureCache, target: FeatureCache, keys: Sequence[str], view: int, compression: str) -> None:
    if not keys:
        return
    with target.writer(compression=compression) as writer:
        for start in range(0, len(keys), _ROWS):
            part = keys[start : start + _ROWS]
            writer.append(part, source.read(part, view), seconds=source.compute_seconds(part, view), view=view)
