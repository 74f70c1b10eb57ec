"""Stage 1: manifest + backbone + cuts -> caches. The trunk runs once over each image that the caches do not know.

Any number of processes may do this at once, on any machines that see the same cache: each takes the next block of
images that nobody has taken, and does it.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheInputError, CutonceError, DataError, NonFiniteRowsError, WeightsError, listed
from cache.keys import KEY_MEMO, DigestCache
from cache.shard_writer import ShardWriter
from stages.data.image_stream import ImageRequest
from stages.data.images.reading import remarks_in_words
from stages.data.manifest import Manifest
from stages.data.sources.changed_files import file_of
from stages.extraction.extractor import Extractor
from stages.extraction.room import require_room
from stages.extraction.take_over import TakenOver, take_over_rows
from stages.extraction.work_queue import LeasedBlocks, RowRequest, content_defined_blocks, missing_keys
from stages.runtime.distributed import SINGLE_PROCESS, Rank
from stages.runtime.progress import Progress, progress

_POLL_SECONDS = 0.5
"""How often a process that has nothing left to do looks whether the others are done, or dead."""


class ImagesChangedError(DataError):
    """Images changed, or went, after their keys were made and before they were decoded."""


@dataclass(frozen=True)
class Extraction:
    """What stage 1 did: counts of distinct images, time, and what could not be read.

    Attributes
    ----------
    samples, hits, extracted, extracted_by_others : int
        Distinct readable images in the manifest, those already in the caches, those run through the trunk now, and
        those that other processes ran meanwhile.
    skipped : list of (location, reason)
        Images that could not be read.
    seconds : float
        Wall time of this call.
    total_seconds : float
        What extracting these features cost when it was done, now or earlier.
    shares : dict
        Of what limits the extraction, the share of the time it was busy: decode, forward, write.
    remarks : list of str
        What there is to say of the files that this process read, in words.
    """

    backbone: str
    weights: str
    cut: str
    row_shapes: list[tuple[int, ...]]
    views: int
    fingerprints: list[str]
    samples: int
    hits: int
    extracted: int
    extracted_by_others: int
    skipped: list[tuple[str, str]]
    seconds: float
    total_seconds: float
    size_on_disk: int
    shares: dict[str, float]
    remarks: list[str] = field(default_factory=list)

    @property
    def images_per_second(self) -> float:
        """Images through the trunk per second of this call; 0 where there was nothing to do."""
        return self.extracted / self.seconds if self.extracted else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the fields, and the rate, as JSON values; `extracted_by_others` is ``elsewhere`` in the file."""
        stored = {{"extracted_by_others": "elsewhere"}.get(name, name): value for name, value in asdict(self).items()}
        return {**stored, "images_per_second": self.images_per_second}


def extract(
    extractor: Extractor,
    manifest: Manifest,
    rank: Rank = SINGLE_PROCESS,
    shard_bytes: int = 32 << 20,
    shard_seconds: float = 60.0,
) -> Extraction:
    """Bring the caches up to date with the manifest: each unknown image goes through the trunk once.

    What is finished stays, whatever ends the call: rows are on disk shard by shard, and a second call does only what
    is missing. An image that cannot be read is listed with its reason and not tried again under this spec.

    Parameters
    ----------
    rank : Rank
        Which of several processes that torchrun started this is. Each begins at its own share of the images, and
        returns when all are done.
    shard_bytes, shard_seconds : int, float
        Most bytes, and seconds of work, of each cache that are not on disk yet.

    Raises
    ------
    DataError
        If not one image could be read.
    ImagesChangedError
        If some hold other bytes than those that their keys are of, or are gone; all others are done. They have no rows,
        which would be another image's, and none is marked as unreadable: they may be whole the next time.
    CacheError
        If a cache cannot be written, or its disk has no room for what is missing; or one that stands in lacks rows.
    """
    started = time.perf_counter()
    locations, wanted = manifest.distinct_images
    rejected = extractor.unreadable()
    taken_over = take_over_rows(extractor, wanted, locations) if rank.is_main else TakenOver(0, 0)
    rank.barrier()
    blocks, lacking_keys = _pending_blocks(extractor, wanted, rank)
    lacking = len(lacking_keys)
    # what one cache has rejected is tried again where another one, of a new cut, knows nothing of it
    known = sum(key in rejected and key not in lacking_keys for key in wanted)
    if lacking and extractor.stands_in:
        raise CacheInputError(
            f"{lacking} rows are gone that were there a moment ago, and are not computed into a cache of other "
            f"features ({extractor.stands_in}); give the command again"
        )
    meter = StageTimer(extractor)
    changed: dict[str, str] = {}
    if lacking:
        with ExitStack() as stack:
            work = stack.enter_context(LeasedBlocks(extractor, wanted, locations, manifest.keyed_ns))
            writers = CacheWriters(extractor, stack, shard_bytes, shard_seconds, index=rank.world_size == 1)
            bar = stack.enter_context(progress(label="extract", total=lacking, unit="images"))
            _extract_until_complete(work, writers, meter, blocks, bar)
            changed = work.changed
    rank.barrier()
    if changed:
        DigestCache(extractor.options.cache / KEY_MEMO).forget(filter(None, map(file_of, changed)))
        raise _changed_error(changed)
    rejected = extractor.unreadable()
    readable = [key for key in wanted if key not in rejected]
    skipped = skipped_samples(manifest, rejected)
    if not readable:
        example = f"; the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise DataError(f"none of the {len(skipped)} images could be read{example}")
    for cache in extractor.caches if rank.is_main else ():
        cache.mend_spec()
        if rank.world_size > 1:
            cache.build_index()
    newly_complete = lacking - (len(wanted) - len(readable) - known)
    return Extraction(
        backbone=extractor.backbone.name,
        weights=extractor.backbone.weights_source,
        cut=extractor.cut_names,
        row_shapes=[tap.shape for tap in extractor.taps],
        views=extractor.cached_views,
        fingerprints=[cache.spec.fingerprint for cache in extractor.caches],
        samples=len(readable),
        hits=len(wanted) - lacking - known,
        extracted=meter.images,
        extracted_by_others=newly_complete - meter.images,
        skipped=skipped,
        seconds=time.perf_counter() - started,
        total_seconds=extractor.seconds(readable, extractor.cached_views),
        size_on_disk=sum(cache.size_on_disk for cache in extractor.caches),
        shares=meter.shares,
        remarks=[*_taken_over_in_words(taken_over), *remarks_in_words(meter.remarks, extractor.reading)],
    )


def _changed_error(changed: Mapping[str, str]) -> ImagesChangedError:
    """Return what is said of images that changed or went between their keys and their pixels."""
    described = listed([f"{location}: {reason}" for location, reason in changed.items()], 3, "; ")
    return ImagesChangedError(
        f"{len(changed):,} of the images changed or went before they could be read: {described}. Features of the "
        "others are in the cache: give the command again, which leaves out what cannot be read then"
    )


def _taken_over_in_words(taken_over: TakenOver) -> list[str]:
    if not any(taken_over):
        return []
    anew = f"; {taken_over.changed:,} are read otherwise today and were computed anew" if taken_over.changed else ""
    return [f"features of {taken_over.images:,} images were taken over from version 1 of the decoder{anew}"]


def skipped_samples(manifest: Manifest, rejected: dict[str, str]) -> list[tuple[str, str]]:
    """Return (location, reason) of every image of the manifest that has no feature because it could not be read."""
    images = manifest.distinct_images if manifest.images else (manifest.locations, manifest.keys)
    undecodable = [(location, rejected[key]) for location, key in zip(*images, strict=True) if key in rejected]
    return [*manifest.unreadable, *undecodable]


class CacheWriters:
    """One writer for each cache; they are entered into `stack`, which closes them.

    Attributes
    ----------
    batches : int
        Batches appended.
    """

    def __init__(
        self, extractor: Extractor, stack: ExitStack, shard_bytes: int, shard_seconds: float, *, index: bool
    ) -> None:
        self.batches = 0
        self._writers: dict[tuple[int, bool], ShardWriter] = {}
        for number, tap in enumerate(extractor.taps):
            for augmented in (False, True)[: extractor.cached_views]:
                writer = tap.cache_of_view(augmented).writer(
                    shard_bytes, shard_seconds, index=index, compression=extractor.options.compression
                )
                self._writers[number, augmented] = stack.enter_context(writer)
        self._pending: deque[tuple[int, list[int]]] = deque()
        self._on_disk = 0

    def append(self, wanted: Sequence[RowRequest], rows: Sequence[NDArray[np.generic]], seconds: float) -> None:
        """Append the rows of a batch, one array per tap, each row to the cache that lacks it.

        Every tap is told the time that all took: alone, the deepest would have taken as long.
        """
        views = [next(request.views) for request in wanted]
        for number, tap_rows in enumerate(rows):
            for view in sorted(set(views)):
                indices = [
                    index
                    for index, request in enumerate(wanted)
                    if views[index] == view and (number, view) in request.rows
                ]
                if indices:
                    self._writers[number, view > 0].append(
                        [wanted[index].key for index in indices],
                        tap_rows if len(indices) == len(wanted) else tap_rows[indices],
                        seconds=seconds * len(indices) / len(wanted),
                        view=view,
                    )
        self.batches += 1
        self._pending.append((self.batches, [writer.appended for writer in self._writers.values()]))

    def flush(self) -> None:
        """Put all that was appended into the caches."""
        for writer in self._writers.values():
            writer.flush()

    @property
    def pending_rows(self) -> list[int]:
        """For each tap, rows of view 0 that were appended and are not on disk yet."""
        return [writer.appended - writer.written for (_, augmented), writer in self._writers.items() if not augmented]

    @property
    def on_disk(self) -> int:
        """Number of batches, from the first on, that are in the caches for good."""
        written_rows = [writer.written for writer in self._writers.values()]
        while self._pending and all(
            appended_rows >= pending_rows
            for appended_rows, pending_rows in zip(written_rows, self._pending[0][1], strict=True)
        ):
            self._on_disk, _ = self._pending.popleft()
        return self._on_disk


class StageTimer:
    """What an extraction spends its time on.

    Attributes
    ----------
    images : int
        Images that are done.
    remarks : Counter
        How many of them had each remark that is made while files are read.
    shares : dict
        How busy each stage was since the start, from 0 to 1; the busiest limits the others.
    """

    def __init__(self, extractor: Extractor) -> None:
        self.images = 0
        self.remarks: Counter[str] = Counter()
        self._started = time.perf_counter()
        self._seconds = {"decode": 0.0, "forward": 0.0, "write": 0.0}

    def add(self, busy: Mapping[str, float]) -> None:
        """Add the seconds that stages were busy."""
        for stage, seconds in busy.items():
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @property
    def shares(self) -> dict[str, float]:
        """How busy each stage was."""
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        return {stage: seconds / elapsed for stage, seconds in self._seconds.items()}

    @property
    def limit(self) -> str:
        """The busiest stage, in words."""
        stage, share = max(self.shares.items(), key=lambda item: item[1])
        return f"limited by {stage} ({share:.0%} busy)"


def _pending_blocks(extractor: Extractor, keys: Sequence[str], rank: Rank) -> tuple[list[range], set[str]]:
    """Return the blocks that lack something, and which images lack it; what they lack finds room on the disk.

    They begin with this process's share; the rest it helps with later.
    """
    lacking, rows_of_tap = missing_keys(extractor, keys)
    if rank.is_main:
        require_room(extractor, rows_of_tap)
    unfinished = [block for block in content_defined_blocks(keys) if any(keys[index] in lacking for index in block)]
    first = len(unfinished) * rank.index // rank.world_size
    return unfinished[first:] + unfinished[:first], lacking


def _extract_until_complete(
    work: LeasedBlocks, writers: CacheWriters, meter: StageTimer, blocks: Sequence[range], bar: Progress
) -> None:
    """Do the blocks that are free, until those of other processes are done too, or their processes dead."""
    assert bar.total is not None
    while blocks:
        rest: list[range] = []
        _extract_blocks(work, writers, meter, work.requests(blocks, rest), bar)
        writers.flush()
        work.release(writers.on_disk)
        lacking, _ = missing_keys(work.extractor, [key for block in rest for key in work.keys_of(block)])
        # what others have done of all that was lacking counts as done
        bar.update(max(bar.total - len(lacking) - bar.done, 0))
        blocks = [block for block in rest if not lacking.isdisjoint(work.keys_of(block))]
        if blocks:
            time.sleep(_POLL_SECONDS)


def _extract_blocks(
    work: LeasedBlocks, writers: CacheWriters, meter: StageTimer, requests: Iterable[ImageRequest], bar: Progress
) -> None:
    """Decode, compute and write what is requested, all at the same time."""
    started = time.perf_counter()
    for batch in work.extractor.computed(requests):
        for request, reason in batch.failures:
            work.fail(request, reason)
        kept, rows = work.unchanged(batch.indices), batch.rows
        if len(kept) < len(batch.indices):
            rows = [of_tap[kept] for of_tap in rows]
        wanted = [work.wanted(batch.indices[place]) for place in kept]
        computed = time.perf_counter()
        try:
            writers.append(wanted, rows, computed - started)
        except NonFiniteRowsError as error:
            raise _explained(error, work) from error
        started = time.perf_counter()
        meter.add({**batch.busy, "write": started - computed})
        finished = work.finish(batch.finished, writers.batches)
        meter.images += finished - len(batch.failures)
        meter.remarks.update(batch.remarks)
        work.release(writers.on_disk)
        work.tell_pending(writers.pending_rows)
        bar.update(finished, skipped=len(batch.failures), remark=meter.limit)


def _explained(error: NonFiniteRowsError, work: LeasedBlocks) -> CutonceError:
    """Return what is wrong with rows that cannot be stored, by the names of the images and of the weights."""
    backbone = work.extractor.backbone
    locations = work.locations_of(error.keys)
    images = f"{len(locations)} images: {listed(locations)}"
    told = f"{backbone.name} gave NaN or infinity for {images}; they are not stored"
    weights = backbone.non_finite_weights()
    if weights:
        return WeightsError(
            f"{told}. In its weights ({backbone.weights_source}), NaN or infinity stands in {listed(weights)}; give "
            "others with `weights`"
        )
    if error.overflow:
        dtype = work.extractor.taps[0].cache.dtype.name
        return CacheInputError(
            f"{backbone.name} gave numbers beyond {np.finfo(dtype).max:.5g}, where {dtype} ends, for {images}; store "
            "them with `storage_dtype` float32"
        )
    precision = work.extractor.arithmetic
    helps = "" if precision == "fp32" else f": {precision} may be what ends too early, so try `precision` fp32"
    return CutonceError(f"{told}. Its weights ({backbone.weights_source}) are finite{helps}")
