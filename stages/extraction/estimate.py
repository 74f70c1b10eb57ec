"""What an extraction will take, measured on some of its images before anything is paid."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from cache.errors import DataError
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor
from stages.extraction.room import row_bytes
from stages.extraction.work_queue import missing_rows

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
        Renderings per second, decoding and all, without writing.
    limits : dict
        By the names of stages, the renderings a second that each could do if the others took no time.
    batch_size : int
    taps : list of CutEstimate
    """

    images: int
    renderings: int
    per_second: float
    limits: dict[str, float]
    batch_size: int
    taps: list[CutEstimate]

    @property
    def seconds(self) -> float:
        """Wall time of the whole extraction."""
        return self.renderings / self.per_second if self.renderings else 0.0


def estimate(extractor: Extractor, manifest: Manifest, batches: int = _BATCHES) -> Estimate:
    """Run some of the images that are missing, spread over the manifest, and write nothing.

    Where nothing is missing, some of all images are run, so that the rates are told in any case.

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
    requests = (extractor.request(location_of[key], key, views) for key in sampled_keys)
    renderings = 0
    busy: dict[str, float] = {}
    started = last_finished = time.perf_counter()
    for batch in extractor.computed(requests):
        last_finished = time.perf_counter()
        if batch.finished <= warm_up < len(sampled_keys):
            started = last_finished
            continue
        renderings += len(batch.indices)
        for stage, seconds in batch.busy.items():
            busy[stage] = busy.get(stage, 0.0) + seconds
    if not renderings:
        raise DataError(f"none of {len(sampled_keys)} images chosen for the estimate could be read")
    taps = []
    for number, tap in enumerate(extractor.taps):
        rows = sum((number, view) in lack.rows for lack in lacking.values() for view in views)
        taps.append(CutEstimate(tap.name, tap.shape, rows, rows * row_bytes(tap)))
    return Estimate(
        images=len(lacking),
        renderings=sum(len(lack.views) for lack in lacking.values()),
        per_second=renderings / (last_finished - started),
        limits={stage: renderings / max(seconds, 1e-9) for stage, seconds in busy.items()},
        batch_size=extractor.batch_size,
        taps=taps,
    )


def _evenly_spaced(keys: Sequence[str], count: int) -> list[str]:
    """Return so many of the keys, from all over the list."""
    step = max(len(keys) // count, 1)
    return list(keys[::step][:count])
