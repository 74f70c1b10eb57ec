"""Where the row of a key stands, for millions of keys: sorted arrays and binary search, 28 bytes a row.

Knows arrays only; what is at the place it names is the shards' matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheInputError
from cache.keys import KEY_LENGTH

_VIEW_STEP = 0x9E3779B97F4A7C15


def pack_keys(digits: bytes | str) -> NDArray[np.uint64]:
    """Return joined keys, 32 hex digits each, as an array [n, 2] of their high and low 64 bits.

    Raises
    ------
    ValueError
        If there is anything but hex digits, or an incomplete key.
    """
    packed = bytes.fromhex(digits if isinstance(digits, str) else digits.decode("ascii"))
    if len(packed) * 2 != len(digits) or len(digits) % KEY_LENGTH:
        raise ValueError("keys are 32 hex digits each")
    return _halves(packed)


def pack_key_list(keys: Sequence[str]) -> NDArray[np.uint64]:
    """Return a list of keys as an array [n, 2].

    Raises
    ------
    CacheInputError
        If one is not a key; names it.
    """
    lines = "\n".join(keys)  # looks at each string once: a million of them are not in the processor's cache
    with suppress(ValueError):
        packed = bytes.fromhex(lines)  # passes over white space, so that it has to be seen where that is
        if len(packed) * 2 == len(keys) * KEY_LENGTH and lines[KEY_LENGTH :: KEY_LENGTH + 1] == "\n" * (len(keys) - 1):
            return _halves(packed)
    bad_key = next(key for key in keys if not _is_key(key))
    raise CacheInputError(f"{bad_key!r} is not a key: keys are 32 hex digits, as key_of_bytes makes them")


def _halves(packed: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(packed, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def check_view(view: int) -> None:
    """Raise :class:`CacheInputError` unless `view` is a number views can have."""
    if not 0 <= view < 1 << 31:
        raise CacheInputError(f"{view} is not a view; views count from 0")


def unpack_key(packed: NDArray[np.uint64]) -> str:
    """Return one key, [2], as its 32 hex digits."""
    return f"{int(packed[0]):016x}{int(packed[1]):016x}"


class RowIndex(NamedTuple):
    """Places of (key, view), each once, sorted.

    Attributes
    ----------
    mixed_high, low : uint64 arrays [n]
        The key's high half mixed with the view, which rows are sorted by, and its low half.
    views, shards, rows : int32 arrays [n]
        The view, and where it is: number of the shard, and row in it.
    """

    mixed_high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    views: NDArray[np.int32]
    shards: NDArray[np.int32]
    rows: NDArray[np.int32]

    @classmethod
    def empty(cls) -> RowIndex:
        """Return a lookup that finds nothing."""
        wide, narrow = np.empty(0, np.uint64), np.empty(0, np.int32)
        return cls(wide, wide, narrow, narrow, narrow)

    def merged(self, tables: Sequence[tuple[NDArray[np.uint64], NDArray[np.int32]]], first: int) -> RowIndex:
        """Return a lookup that finds the rows of more shards, too; of rows there twice, the first.

        Parameters
        ----------
        tables : sequence of (keys [n, 2], views [n])
            One per shard.
        first : int
            Number of the first of these shards.
        """
        columns: list[tuple[NDArray[Any], ...]] = [self]
        for shard, (keys, views) in enumerate(tables, first):
            addresses = np.full(len(views), shard, np.int32), np.arange(len(views), dtype=np.int32)
            columns.append((_mix(keys[:, 0], views), keys[:, 1], views, *addresses))
        mixed, lows, views, shards, rows = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        order = np.argsort(mixed, kind="stable")
        if (mixed[order[1:]] == mixed[order[:-1]]).any():
            order = np.lexsort((views, lows, mixed))  # stable: the first of equal rows stays first
            previous, following = order[:-1], order[1:]
            is_first = np.ones(len(order), dtype=bool)
            is_first[1:] = (
                (mixed[following] != mixed[previous])
                | (lows[following] != lows[previous])
                | (views[following] != views[previous])
            )
            order = order[is_first]
        return RowIndex(mixed[order], lows[order], views[order], shards[order], rows[order])

    def keys(self, view: int) -> NDArray[np.uint64]:
        """Return the keys, [n, 2], that have a row of this view, in the order of shards and rows."""
        rows = np.flatnonzero(self.views == view)
        rows = rows[np.lexsort((self.rows[rows], self.shards[rows]))]
        highs = _mix(self.mixed_high[rows], self.views[rows])  # mixing twice gives back what was mixed
        return np.stack([highs, self.low[rows]], axis=1)

    def positions_of(self, keys: NDArray[np.uint64], view: int) -> NDArray[np.intp]:
        """Return for each key [n, 2] its position in the arrays, or -1.

        Binary search for the first half, then on past the entries that only share it: other views mixed to the same
        word, or keys that were made to collide. Searched for in sorted order, because one search then ends where the
        next one begins, and finds its memory in the processor's cache.
        """
        check_view(view)
        mixed = _mix(keys[:, 0], np.array([view], np.int32))
        order = np.argsort(mixed)
        mixed, lows = mixed[order], keys[order, 1]
        position = np.searchsorted(self.mixed_high, mixed)
        hits = np.full(len(keys), -1, dtype=np.intp)
        pending = np.flatnonzero(position < len(self.mixed_high))
        while len(pending):
            candidate = position[pending]
            same_mixed = self.mixed_high[candidate] == mixed[pending]
            hit = same_mixed & (self.low[candidate] == lows[pending]) & (self.views[candidate] == view)
            hits[pending[hit]] = candidate[hit]
            pending = pending[same_mixed & ~hit]
            position[pending] += 1
            pending = pending[position[pending] < len(self.mixed_high)]
        positions = np.empty(len(keys), dtype=np.intp)
        positions[order] = hits
        return positions


def _mix(highs: NDArray[np.uint64], views: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Spread the views of one key over the order, so that finding one of many takes one step."""
    return highs ^ (views.astype(np.uint64) * np.uint64(_VIEW_STEP))


def _is_key(key: str) -> bool:
    try:
        return len(key) == KEY_LENGTH and len(pack_keys(key)) == 1
    except ValueError:
        return False
