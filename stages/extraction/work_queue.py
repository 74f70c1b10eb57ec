"""Which images are still to do, and which of them this process does, where several fill the same caches at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from types import TracebackType
from typing import NamedTuple

from stages.data.image_stream import ImageRequest
from stages.data.sources.changed_files import holds_key
from stages.extraction.extractor import Extractor


class MissingRows(NamedTuple):
    """What an image lacks.

    Attributes
    ----------
    views : tuple of int
        Views that some tap has no row of.
    rows : frozenset of (tap, view)
        By the numbers of both.
    """

    views: tuple[int, ...]
    rows: frozenset[tuple[int, int]]


def missing_keys(extractor: Extractor, keys: Sequence[str]) -> tuple[set[str], list[int]]:
    """Return the keys of the images that lack something, and how many rows each tap lacks, of all views."""
    lacking: set[str] = set()
    rows_of_tap = [0] * len(extractor.taps)
    for number, tap in enumerate(extractor.taps):
        for view in range(extractor.cached_views):
            missing = tap.cache_of_view(view).missing(keys, view)
            lacking.update(missing)
            rows_of_tap[number] += len(missing)
    return lacking, rows_of_tap


def missing_rows(extractor: Extractor, keys: Sequence[str]) -> dict[str, MissingRows]:
    """Return what each of these images lacks, of those that lack something, in the order given."""
    rows: dict[str, set[tuple[int, int]]] = {}
    for number, tap in enumerate(extractor.taps):
        for view in range(extractor.cached_views):
            for key in tap.cache_of_view(view).missing(keys, view):
                rows.setdefault(key, set()).add((number, view))
    return {
        key: MissingRows(tuple(sorted({view for _, view in rows[key]})), frozenset(rows[key]))
        for key in keys
        if key in rows
    }


def content_defined_blocks(keys: Sequence[str]) -> list[range]:
    """Return the places in a list of keys of the blocks that processes share work by, of 16 to 512 keys on average.

    A block ends at a key that says so itself. So processes whose lists differ by some images, because one saw a folder
    a little later, agree about all blocks but those in which these stand.
    """
    average = 1 << min(max((len(keys) // 256).bit_length(), 4), 9)
    ends = [position for position, key in enumerate(keys, 1) if int(key[:8], 16) % average == 0]
    return [range(start, stop) for start, stop in pairwise([0, *ends, len(keys)]) if start < stop]


class RowRequest(NamedTuple):
    """What a request is for.

    Attributes
    ----------
    key : str
    rows : frozenset of (tap, view)
        What of it belongs into the caches, by the numbers of tap and view.
    views : iterator of int
        The view of each rendering, as they come.
    location : str
        Where the image is.
    """

    key: str
    rows: frozenset[tuple[int, int]]
    views: Iterator[int]
    location: str


class LeasedBlocks:
    """The blocks this process has taken and not yet put into the caches; use it in a ``with`` statement.

    A block is given back when every row of it is on disk, so whoever finds it free finds its rows too.

    Parameters
    ----------
    extractor : Extractor
    keys, locations : sequence of str
        Of every image.
    keyed_ns : int
        When they had these keys, in nanoseconds; 0 where that is not known.

    Attributes
    ----------
    unreadable : dict
        Keys of images that could not be read, with the reasons, that the caches have not been told yet.
    changed : dict
        Locations of what does not hold, now, the bytes that its key is of, with the reasons, of those that could not be
        read what was wrong: of the images with these keys that says nothing, and the caches are not told.
    """

    def __init__(self, extractor: Extractor, keys: Sequence[str], locations: Sequence[str], keyed_ns: int = 0) -> None:
        self.extractor = extractor
        self.unreadable: dict[str, str] = {}
        self.changed: dict[str, str] = {}
        self._keys = keys
        self._locations = locations
        self._keyed_ns = keyed_ns
        self._requested: dict[int, RowRequest] = {}
        self._requests = 0
        self._finished = 0
        self._open: deque[tuple[str, int]] = deque()
        self._ready: deque[tuple[str, int]] = deque()
        self._stack = ExitStack()

    def __enter__(self) -> LeasedBlocks:
        # in one order, so that two processes with the same cuts never hold one half of a block each
        caches = [tap.cache for tap in self.extractor.taps]
        self._order = sorted(range(len(caches)), key=lambda number: caches[number].spec.fingerprint)
        self._leases = [self._stack.enter_context(caches[number].leases()) for number in self._order]
        self._stack.callback(self._flush_unreadable)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def requests(self, blocks: Sequence[range], rest: list[range]) -> Iterator[ImageRequest]:
        """Yield requests for what the free blocks lack, taking each when it is needed; put the others in `rest`.

        Requests are numbered from 0 each time: all that were yielded the time before have to be finished.
        """
        self._requests = self._finished = 0
        for block in blocks:
            name = self._keys[block[-1]]
            if not self._take(name):
                rest.append(block)
                continue
            # only now: another process may have finished it just before
            lacking = missing_rows(self.extractor, self.keys_of(block))
            if not lacking:
                self._release([name])
                continue
            self._open.append((name, self._requests + len(lacking)))
            for index in block:
                key = self._keys[index]
                if key in lacking:
                    location = self._locations[index]
                    wanted = RowRequest(key, lacking[key].rows, iter(lacking[key].views), location)
                    self._requested[self._requests] = wanted
                    self._requests += 1
                    yield self.extractor.request(location, key, lacking[key].views)

    def tell_pending(self, rows_of_tap: Sequence[int]) -> None:
        """Let other processes know how many rows of each tap are made and not yet on disk."""
        for number, leases in zip(self._order, self._leases, strict=True):
            leases.pending_rows = rows_of_tap[number]

    def keys_of(self, block: range) -> Sequence[str]:
        """Return the keys of a block."""
        return self._keys[block.start : block.stop]

    def locations_of(self, keys: Sequence[str]) -> list[str]:
        """Return where the images with these keys are."""
        wanted = set(keys)
        return [location for key, location in zip(self._keys, self._locations, strict=True) if key in wanted]

    def wanted(self, request: int) -> RowRequest:
        """Return what a request that is not finished is for."""
        return self._requested[request]

    def fail(self, request: int, reason: str) -> None:
        """Take notice that what a request is for could not be read."""
        key, location = self._requested[request].key, self._requested[request].location
        if holds_key(location, key):
            self.unreadable[key] = reason
        else:
            self.changed[location] = reason

    def unchanged(self, requests: Sequence[int]) -> list[int]:
        """Return the places of the requests whose images still have the keys that their rows would be stored under.

        Asked when all that was read of them has been read.
        """
        asked = [self._requested[request] for request in requests]
        for location, key in dict.fromkeys((one.location, one.key) for one in asked):
            if location not in self.changed and not holds_key(location, key, self._keyed_ns):
                self.changed[location] = "it holds other bytes than those that its key is of"
        return [place for place, one in enumerate(asked) if one.location not in self.changed]

    def finish(self, requests: int, batches: int) -> int:
        """Take notice that the first so many requests are done in so many batches; return how many are new in that."""
        newly_finished = range(self._finished, requests)
        for request in newly_finished:
            del self._requested[request]
        self._finished = requests
        while self._open and self._open[0][1] <= requests:
            self._ready.append((self._open.popleft()[0], batches))
        return len(newly_finished)

    def release(self, batches: int) -> None:
        """Give back every block that was done within the first so many batches, all of whose rows are on disk."""
        names = []
        while self._ready and self._ready[0][1] <= batches:
            names.append(self._ready.popleft()[0])
        if names:
            self._flush_unreadable()
            self._release(names)

    def _take(self, name: str) -> bool:
        for number, leases in enumerate(self._leases):
            if not leases.acquire(name):
                for acquired in self._leases[:number]:
                    acquired.release([name])
                return False
        return True

    def _release(self, names: Sequence[str]) -> None:
        for leases in self._leases:
            leases.release(names)

    def _flush_unreadable(self) -> None:
        if self.unreadable:
            for cache in self.extractor.caches:
                cache.mark_unreadable(self.unreadable)
            self.unreadable = {}
