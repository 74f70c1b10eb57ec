"""Shuffled minibatches of rows that need not fit into memory: read in stretches, mixed in pools.

Knows where rows stand and how to mix them; finding and reading them is the cache's matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheInputError
from cache.gather_rows import scratch_bytes
from cache.prefetch import prefetch_map
from cache.shard_layout import chunk_rows

_STRETCH_CHUNKS = 4


class FeatureBatch(NamedTuple):
    """Some of the rows that were asked for."""

    positions: NDArray[np.int64]
    """[b]: which of the request they are."""
    rows: NDArray[Any]
    """[b, *row_shape], storage type."""


class RowAddresses(NamedTuple):
    """Where the rows of a request stand."""

    shards: NDArray[np.int32]
    rows: NDArray[np.int32]


class RowReader(NamedTuple):
    """What rows are like, and how they are read."""

    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[NDArray[np.intp], NDArray[Any], int], NDArray[Any]]
    """Given positions [n] in the request, an array [n, *row_shape] and the bytes that may be taken besides, reads the
    rows into the array and returns it."""


def shuffled_batches(
    addresses: RowAddresses,
    reader: RowReader,
    *,
    batch_rows: int,
    seed: int,
    memory_bytes: int,
) -> Iterator[FeatureBatch]:
    """Return an iterator over the rows of a request; see :meth:`cache.feature_cache.FeatureCache.batches`.

    Raises
    ------
    CacheInputError
        If `batch_rows` is not positive, or the memory allowance too small for such batches.
    """
    row_bytes = math.prod(reader.row_shape) * reader.dtype.itemsize
    if batch_rows < 1:
        raise CacheInputError(f"batches need at least one row, not {batch_rows}")
    scratch = scratch_bytes(memory_bytes)
    min_bytes = scratch_bytes(0) + 4 * batch_rows * row_bytes
    if scratch + 4 * batch_rows * row_bytes > memory_bytes:
        scratch = scratch_bytes(0)  # large batches leave less
    if memory_bytes < min_bytes:
        raise CacheInputError(
            f"{memory_bytes:,} bytes of memory are not enough to shuffle batches of {batch_rows} rows of "
            f"{row_bytes:,} bytes; allow at least {min_bytes:,}"
        )
    # Two pools, a batch that is being used and one that is being made, and what reading takes.
    pool_rows = ((memory_bytes - scratch) // (2 * row_bytes * batch_rows) - 1) * batch_rows
    generator = np.random.default_rng(seed)
    pools = _pools(addresses, _STRETCH_CHUNKS * chunk_rows(row_bytes), pool_rows, generator)
    buffers = [np.empty((len(pools[0]), *reader.row_shape), reader.dtype) for _ in pools[:2]]
    return _iterate_pools(pools, buffers, reader, batch_rows, generator, scratch)


def _pools(
    addresses: RowAddresses, stretch_rows: int, pool_rows: int, generator: np.random.Generator
) -> list[NDArray[np.intp]]:
    """Deal the request out in pools: stretches in random order, the rows of each pool in the order of storage."""
    stored = np.lexsort((addresses.rows, addresses.shards))
    shards, stretches = addresses.shards[stored], addresses.rows[stored] // stretch_rows
    bounds = np.flatnonzero((shards[1:] != shards[:-1]) | (stretches[1:] != stretches[:-1])) + 1
    parts = np.split(np.arange(len(stored)), bounds)
    order = np.concatenate([parts[index] for index in generator.permutation(len(parts))])
    return [stored[np.sort(order[start : start + pool_rows])] for start in range(0, len(order), pool_rows)]


def _iterate_pools(
    pools: Sequence[NDArray[np.intp]],
    buffers: Sequence[NDArray[Any]],
    reader: RowReader,
    batch_rows: int,
    generator: np.random.Generator,
    scratch: int,
) -> Iterator[FeatureBatch]:
    """Yield batches from one pool after the other, while the next one is read into the other buffer."""

    def read_pool(number: int) -> NDArray[Any]:
        return reader.read(pools[number], buffers[number % 2][: len(pools[number])], scratch)

    with (
        ThreadPoolExecutor(1) as thread,
        closing(prefetch_map(read_pool, range(len(pools)), pool=thread, ahead=1)) as rows_of_pools,
    ):
        for pool, rows in zip(pools, rows_of_pools, strict=True):
            mixed = generator.permutation(len(pool))
            for start in range(0, len(mixed), batch_rows):
                batch = mixed[start : start + batch_rows]
                yield FeatureBatch(pool[batch], rows[batch])
