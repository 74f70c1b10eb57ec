"""Looking after shards that are there: which rows are damaged, which are no longer needed, and shards without them.

When that is done, and what becomes of a shard with damage, is the cache's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.atomic_write import remove
from cache.row_index import RowIndex, pack_key_list, unpack_key
from cache.shard import Compression, Shard, open_shard
from cache.shard_writer import ShardWriter
from cache.spec import Spec

KeptRows = Mapping[Shard, NDArray[np.bool_]]
"""Shards, and which of their rows are to be kept."""


class CorruptRow(NamedTuple):
    """A row whose bytes are not the ones that were written."""

    shard: str
    row: int
    key: str
    view: int


class PruneSummary(NamedTuple):
    """Rows that nobody asks for.

    Attributes
    ----------
    rows : int
        All views counted, and a row that is stored twice twice.
    size : int
        About what they take on disk, in bytes.
    """

    rows: int
    size: int


def corrupt_rows(shard: Shard, spec: Spec) -> Iterator[CorruptRow]:
    """Read every row of a shard, and yield those that are damaged."""
    with suppress(FileNotFoundError):  # another process has rewritten it, and looked at every row for that
        rows = [start + int(row) for start, _, damaged in shard.stretches() for row in damaged]
        if rows:
            _, table = open_shard(shard.path, spec)
            for row in rows:
                yield CorruptRow(shard.path.name, row, unpack_key(table.keys[row]), int(table.views[row]))


def rows_to_keep(shards: Iterable[Shard], spec: Spec, needed: Iterable[str]) -> KeptRows:
    """Return the shards that hold rows of other keys than the needed, and which of their rows are needed."""
    wanted = pack_key_list(list(needed))
    lookup = RowIndex.empty().merged([(wanted, np.zeros(len(wanted), np.int32))], first=0)
    kept_rows = {}
    for shard in shards:
        with suppress(FileNotFoundError):
            _, table = open_shard(shard.path, spec)
            kept = lookup.positions_of(table.keys, view=0) >= 0
            if not kept.all():
                kept_rows[shard] = kept
    return kept_rows


def summarize_prune(kept_rows: KeptRows) -> PruneSummary:
    """Return what goes when only these rows of these shards are kept."""
    rows = size = 0
    for shard, kept in kept_rows.items():
        with suppress(FileNotFoundError):
            size += round(shard.path.stat().st_size * (1 - float(kept.mean())))
            rows += shard.rows - int(kept.sum())
    return PruneSummary(rows, size)


def rewrite_shards(
    kept_rows: KeptRows,
    spec: Spec,
    open_writer: Callable[[Compression], ShardWriter],
    set_aside: Callable[[Path, str], Any],
) -> None:
    """Replace each shard by one with its kept rows, as far as they are sound.

    A new shard is on disk before the old one goes. Those with the least to keep come first, to make room on a full
    disk.

    Parameters
    ----------
    open_writer : callable
        Makes the writer of the new shards.
    set_aside : callable
        Takes the path of a shard that had damage among the rows to keep, and the reason; others are removed.
    """
    if not kept_rows:
        return
    packed = sorted({shard.compression for shard in kept_rows} - {"none"})
    with open_writer(packed[0] if packed else "none") as writer:  # or they might need more room than before
        for shard, kept in sorted(kept_rows.items(), key=lambda item: int(item[1].sum())):
            with suppress(FileNotFoundError):  # another process was quicker
                damaged = _copy(shard, spec, kept, writer) if kept.any() else 0
                writer.flush()
                if damaged:
                    set_aside(shard.path, f"{shard.path} had {damaged} damaged rows (the others were kept)")
                else:
                    remove(shard.path)


def _copy(shard: Shard, spec: Spec, kept: NDArray[np.bool_], writer: ShardWriter) -> int:
    """Append the kept rows of a shard that are sound, and return how many are not."""
    _, table = open_shard(shard.path, spec)
    not_sound = 0
    for start, stretch, damaged in shard.stretches():
        keep = kept[start : start + len(stretch)].copy()
        not_sound += int(keep[damaged].sum())
        keep[damaged] = False
        views = table.views[start : start + len(stretch)]
        for view in np.unique(views[keep]):
            rows = np.flatnonzero(keep & (views == view))
            writer.append(
                [unpack_key(key) for key in table.keys[start + rows]],
                stretch[rows].view(shard.dtype).reshape(len(rows), *shard.row_shape),
                seconds=shard.seconds * len(rows) / shard.rows,
                view=int(view),
            )
    return not_sound
