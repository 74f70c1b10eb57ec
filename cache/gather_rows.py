"""Rows from many shards into one array, in the order asked: sorted reads of whole stretches, never row by row.

HDF5's own selection of scattered rows costs 20 to 100 times a plain read; here neighbouring rows are read in one
piece, picked out in memory, and several pieces are read and checked at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.shard import Shard

_PIECE_BYTES = 1 << 22
_GAP_BYTES = 1 << 16
"""Unwanted bytes between two wanted rows that are cheaper to read than to jump over."""
_MOST_THREADS = 8
_THREADS = min(_MOST_THREADS, os.cpu_count() or 1)
LEAST_SCRATCH_BYTES = 2 * _PIECE_BYTES
"""Memory that one thread takes besides the array that is read into: where rows are picked out of a piece, it is there
twice for a moment."""


def scratch_bytes(memory_bytes: int) -> int:
    """Return how many bytes of an allowance reading may take besides the rows: a quarter, within what it has a use for.

    It does not hang on how many cores there are: on any machine the same allowance holds the same rows.
    """
    return min(max(memory_bytes // 4, LEAST_SCRATCH_BYTES), _MOST_THREADS * LEAST_SCRATCH_BYTES)


class DamagedRow(NamedTuple):
    """A row that was asked for and is not what was written."""

    shard: Shard
    row: int
    position: int
    """Where in the request it stands."""


class _ReadSpan(NamedTuple):
    """Neighbouring rows of one shard and their positions in the result."""

    shard: Shard
    rows: NDArray[np.int32]
    positions: NDArray[np.intp]


def read_rows(
    shards: Sequence[Shard],
    shard_numbers: NDArray[np.int32],
    rows: NDArray[np.int32],
    out: NDArray[Any],
    scratch: int | None = None,
) -> list[DamagedRow]:
    """Read rows of shards into `out`, in the order asked.

    Parameters
    ----------
    shards : sequence of Shard
    shard_numbers, rows : int32 arrays [n]
        Where each row stands; a row may be asked for twice.
    out : array [n, *row_shape]
        Contiguous, of the shards' type.
    scratch : int, optional
        Bytes that may be taken besides; as many as there are threads for, if left out.

    Returns
    -------
    list of DamagedRow
        Rows of `out` that must not be used.

    Raises
    ------
    FileNotFoundError
        If a shard is no longer there.
    CacheError
        If a shard cannot be read.
    """
    if not len(rows):
        return []
    target = out.reshape(len(rows), -1).view(np.uint8)
    pieces = list(_pieces(shards, shard_numbers, rows, target.shape[1]))
    count = _THREADS if scratch is None else max(min(_THREADS, scratch // LEAST_SCRATCH_BYTES), 1)
    if len(pieces) == 1 or count == 1 or target.nbytes < _PIECE_BYTES:
        outcomes = [_read_piece(piece, target) for piece in pieces]
    else:
        with ThreadPoolExecutor(count) as threads:
            outcomes = list(threads.map(lambda piece: _read_piece(piece, target), pieces))
    return [damaged for outcome in outcomes for damaged in outcome]


def _pieces(
    shards: Sequence[Shard], shard_numbers: NDArray[np.int32], rows: NDArray[np.int32], row_bytes: int
) -> Iterator[_ReadSpan]:
    """Sort the request by place and cut it at other shards, at wide gaps, and where pieces get big.

    Rows that can only be read together come into one piece, so that they are read once.
    """
    chunk_rows = np.array([shard.storage.chunk_rows for shard in shards], np.int64)[shard_numbers]
    chunks = rows // chunk_rows
    order = np.argsort((shard_numbers.astype(np.int64) << 32) + rows)
    numbers, chunks, chunk_bytes = shard_numbers[order], chunks[order], chunk_rows[order] * row_bytes
    block = chunks // np.maximum(1, _PIECE_BYTES // chunk_bytes)
    gap = (np.diff(chunks) - 1) * chunk_bytes[1:]
    cut = (numbers[1:] != numbers[:-1]) | (block[1:] != block[:-1]) | (gap > _GAP_BYTES)
    bounds = [0, *(np.flatnonzero(cut) + 1).tolist(), len(order)]
    for start, stop in pairwise(bounds):
        positions = order[start:stop]
        yield _ReadSpan(shards[numbers[start]], rows[positions], positions)


def _read_piece(piece: _ReadSpan, target: NDArray[np.uint8]) -> list[DamagedRow]:
    """Read a piece straight into its place where its rows are neighbours there as well, else by way of a copy."""
    shard, rows, positions = piece
    first, count = int(rows[0]), int(rows[-1]) - int(rows[0]) + 1
    all_wanted = count == len(rows) and bool((np.diff(rows) == 1).all())
    if all_wanted and bool((np.diff(positions) == 1).all()):
        damaged = shard.read(first, target[positions[0] : positions[0] + count])
    else:
        stretch = np.empty((count, target.shape[1]), dtype=np.uint8)
        damaged = shard.read(first, stretch)
        target[positions] = stretch if all_wanted else stretch[rows - first]
    damaged_rows = np.flatnonzero(np.isin(rows - first, damaged)) if len(damaged) else damaged
    return [DamagedRow(shard, int(rows[index]), int(positions[index])) for index in damaged_rows]
