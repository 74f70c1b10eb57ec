"""What an extraction will take, measured on some of its images before anything is paid."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheError, DataError
from stages.data.image_stream import ImageRequest
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor
from stages.extraction.room import row_bytes
from stages.extraction.work_queue import missing_rows

_SHARD_BYTES = 16 << 20
"""Of the rows that are written on trial, for each cut; a shard is as large where there are so many."""

_BATCHES = 6
"""How many batches are timed, per thread that computes; one more comes before, for the libraries to get ready."""


@dataclass(frozen=True)
class CutEstimate:
    """What one cut will add to its caches.

    Attributes
    ----------
    cut : str
    shape : tuple of int
        Of one row.
    rows, size : int
        Rows that are missing, of all views, and the bytes they take on the disk, uncompressed.
    """

    cut: str
    shape: tuple[int, ...]
    rows: int
    size: int


@dataclass(frozen=True)
class Estimate:
    """What an extraction will take.

    Attributes
    ----------
    images : int
        Images that lack something.
    renderings : int
        Passes through the trunk they need.
    per_second : float
        Renderings per second, with decoding, writing and all.
    limits : dict
        By the names of stages, the renderings a second that each could do if the others took no time.
    batch_size : int
    taps : list of CutEstimate
    not_writable : str
        Why ``write`` is not among the limits: rows cannot be written there. Empty where they can.
    """

    images: int
    renderings: int
    per_second: float
    limits: dict[str, float]
    batch_size: int
    taps: list[CutEstimate]
    not_writable: str = ""

    @property
    def seconds(self) -> float:
        """Wall time of the whole extraction."""
        return self.renderings / self.per_second if self.renderings else 0.0


def estimate(extractor: Extractor, manifest: Manifest, batches: int = _BATCHES) -> Estimate:
    """Run some of the images that are missing, spread over the manifest, and keep no features.

    What they give is written once, as the disk may be what limits, and removed. Where nothing is missing, some of all
    images are run, so that the rates are told in any case.

    Parameters
    ----------
    extractor : Extractor
    manifest : Manifest
    batches : int
        How many are timed, per thread that computes.

    Raises
    ------
    DataError
        If not one of the chosen images can be read.
    """
    locations, keys = manifest.distinct_images
    lacking = missing_rows(extractor, keys)
    location_of = dict(zip(keys, locations, strict=True))
    views = range(extractor.cached_views)
    computing = extractor.threads if extractor.device.type == "cpu" else 1
    warm_up = computing * extractor.batch_size
    sampled_keys = _evenly_spaced(list(lacking) or keys, warm_up * (1 + max(batches // len(views), 1)))
    cached = _evenly_spaced([key for key in keys if key not in lacking], len(sampled_keys))
    # where what comes after the first batches is damaged these count too; where all that is missing is, what is cached
    choices = (sampled_keys, warm_up if warm_up < len(sampled_keys) else 0), (sampled_keys, 0), (cached, 0)
    tried = (
        _timed(extractor, (extractor.request(location_of[key], key, views) for key in chosen), uncounted)
        for chosen, uncounted in choices
    )
    timed = next((found for found in tried if found.renderings), None)
    if timed is None:
        raise DataError(f"none of {len(sampled_keys)} images chosen for the estimate could be read")
    renderings, busy, rows_of_tap = timed.renderings, timed.busy, timed.rows_of_tap
    per_second = renderings / timed.seconds
    limits = {stage: renderings / max(seconds, 1e-9) for stage, seconds in busy.items()}
    not_writable = ""
    try:
        limits["write"] = 1 / _seconds_to_write(extractor, rows_of_tap)
    except CacheError as error:
        not_writable = str(error)
    taps = []
    for number, tap in enumerate(extractor.taps):
        rows = sum((number, view) in lack.rows for lack in lacking.values() for view in views)
        taps.append(CutEstimate(tap.name, tap.shape, rows, rows * row_bytes(tap)))
    return Estimate(
        images=len(lacking),
        renderings=sum(len(lack.views) for lack in lacking.values()),
        per_second=min(per_second, limits.get("write", per_second)),  # the writer works beside all else
        limits=limits,
        batch_size=extractor.batch_size,
        taps=taps,
        not_writable=not_writable,
    )


@dataclass
class _Timed:
    """What some images took.

    Attributes
    ----------
    rows_of_tap : list of list of array
        For each tap, rows of some batches.
    renderings : int
    seconds : float
    busy : dict
        By the names of stages, seconds of work.
    """

    rows_of_tap: list[list[NDArray[Any]]]
    renderings: int = 0
    seconds: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)


def _timed(extractor: Extractor, requests: Iterable[ImageRequest], warm_up: int) -> _Timed:
    """Run images, and time those that come after so many."""
    timed = _Timed([[] for _ in extractor.taps])
    started = time.perf_counter()
    for batch in extractor.computed(requests):
        finished = time.perf_counter()
        if batch.finished <= warm_up:
            started = finished
            continue
        timed.seconds = finished - started
        timed.renderings += len(batch.indices)
        for kept, of_batch in zip(timed.rows_of_tap, batch.rows, strict=False):  # none where no image could be read
            if sum(part.nbytes for part in kept) < _SHARD_BYTES:
                kept.append(of_batch)
        for stage, seconds in batch.busy.items():
            timed.busy[stage] = timed.busy.get(stage, 0.0) + seconds
    return timed


def _seconds_to_write(extractor: Extractor, rows_of_tap: Sequence[Sequence[NDArray[Any]]]) -> float:
    """Return what it takes to bring a row of every tap to the disk, in shards as large as those of a long run."""
    seconds = 0.0
    for tap, parts in zip(extractor.taps, rows_of_tap, strict=True):
        some = np.concatenate(parts)
        many = np.resize(some, (max(_SHARD_BYTES // row_bytes(tap), 1), *some.shape[1:]))
        seconds += tap.cache.seconds_to_write(many, compression=extractor.options.compression) / len(many)
    return seconds


def _evenly_spaced(keys: Sequence[str], count: int) -> list[str]:
    """Return so many of the keys, from all over the list."""
    step = max(len(keys) // count, 1)
    return list(keys[::step][:count])
