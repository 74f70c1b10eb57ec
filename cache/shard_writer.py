"""The way into the cache: rows are collected and become a shard when there are enough of them, or after a while.

A shard is made and written by a thread while the next one is collected. What makes a shard, and what is in it, is told
in :mod:`cache.shard`; where it goes, the caller says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheInputError, NonFiniteRowsError, listed
from cache.finite import finite_rows
from cache.formats import require_writable
from cache.kept import keep
from cache.quantized import QUANTIZED, quantize, stored_shape
from cache.row_index import check_view, pack_key_list
from cache.shard import Compression, RowBatch, encode_shard, feature_type
from cache.spec import Spec


class ShardLimits(NamedTuple):
    """How much may wait in memory, and so how much a crash costs at most.

    Attributes
    ----------
    shard_bytes : int
        Most bytes of rows that are in memory and not yet on disk. Half of it makes a shard, so that one can be written
        while the next is collected.
    shard_seconds : float
        Most seconds a row waits in memory, in the same way; a disk that cannot keep up holds the caller back.
    """

    shard_bytes: int
    shard_seconds: float


class ShardWriter:
    """Collects rows and publishes them shard by shard; use it in a ``with`` statement.

    However the block ends, by an exception or by Ctrl-C, all rows appended until then are in the cache after it.

    Parameters
    ----------
    spec : Spec
    row_shape : tuple of int or None
        Shape of the rows that are in the cache already.
    publish : callable
        Puts the bytes of a shard into the cache.
    finish : callable
        Called once at the end.
    limits : ShardLimits
    compression : str
        How shards are stored; see :func:`cache.shard.encode_shard`.

    Raises
    ------
    UsageError
        If there is no such way of storing them.
    """

    def __init__(
        self,
        spec: Spec,
        row_shape: tuple[int, ...] | None,
        publish: Callable[[bytes], None],
        finish: Callable[[], None],
        limits: ShardLimits,
        compression: Compression = "none",
    ) -> None:
        self._spec = spec
        self._row_shape = row_shape
        self._publish = publish
        self._finish = finish
        self._shard_bytes = max(1, limits.shard_bytes // 2)
        self._shard_seconds = limits.shard_seconds / 2
        require_writable(compression)
        self._compression = compression
        self._pieces: list[RowBatch] = []
        self._seconds = 0.0
        self._oldest = 0.0
        self._thread = ThreadPoolExecutor(1, "shards")
        self._writing: Future[None] | None = None
        self._appended = 0
        self._handed_over = 0
        self._written = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
        finally:
            self._thread.shutdown()
            self._finish()

    @property
    def appended(self) -> int:
        """Number of rows that were appended."""
        return self._appended

    @property
    def written(self) -> int:
        """Number of rows, in the order they were appended, that are in the cache for good."""
        if self._writing is None or (self._writing.done() and self._writing.exception() is None):
            self._written = self._handed_over
        return self._written

    def append(self, keys: Sequence[str], features: NDArray[Any], *, seconds: float = 0.0, view: int = 0) -> None:
        """Add rows.

        Parameters
        ----------
        keys : sequence of str
            One per row.
        features : float array [n, *row_shape]
            Converted to the storage type and copied.
        seconds : float
            What computing these rows cost; answered by :meth:`cache.feature_cache.FeatureCache.seconds`.
        view : int
            Which rendering of the samples these are; 0 is the clean one.

        Raises
        ------
        CacheError
            If keys and rows do not match, the rows have another shape than those in the cache, or some are not finite
            in the storage type (names their keys; none of these rows is added); or if a shard cannot be written.
        """
        rows = self._checked(keys, np.asarray(features), view)
        step = max(1, self._shard_bytes // max(1, rows[:1].nbytes))
        for start in range(0, len(rows), step):
            stop = min(start + step, len(rows))
            if not self._pieces:
                self._oldest = time.monotonic()
            self._pieces.append(RowBatch(list(keys[start:stop]), view, rows[start:stop]))
            self._appended += stop - start
            self._seconds += seconds * (stop - start) / len(rows)
            size = sum(piece.features.nbytes for piece in self._pieces)
            if size >= self._shard_bytes or time.monotonic() - self._oldest >= self._shard_seconds:
                self._submit()

    def flush(self) -> None:
        """Put all rows appended so far into the cache, and return when they are there.

        Raises
        ------
        CacheError
            If a shard cannot be written.
        """
        self._submit()
        self._wait()

    def _checked(self, keys: Sequence[str], features: NDArray[Any], view: int) -> NDArray[Any]:
        pack_key_list(keys)
        check_view(view)
        if features.ndim < 2 or len(features) != len(keys) or 0 in features.shape[1:]:
            raise CacheInputError(f"{len(keys)} keys need features [{len(keys)}, ...], not {list(features.shape)}")
        if self._spec.dtype == QUANTIZED:
            stored_shape(features.shape[1:])  # what is no map is refused
        if self._row_shape is None and len(features):
            self._row_shape = features.shape[1:]
        if self._row_shape is not None and features.shape[1:] != self._row_shape:
            raise CacheInputError(
                f"features of the shape {features.shape[1:]} do not belong to a cache of {self._row_shape}; "
                "the same spec always gives the same shape, so something the features depend on is missing in the spec"
            )
        return stored_rows(self._spec, keys, features)

    def _submit(self) -> None:
        """Let the thread make a shard of what was collected, when it is done with the one before."""
        self._wait()
        if not self._pieces:
            return
        pieces, seconds = self._pieces, self._seconds
        self._handed_over += sum(len(piece.keys) for piece in pieces)
        self._pieces, self._seconds = [], 0.0
        self._writing = self._thread.submit(self._write, pieces, seconds)

    def _write(self, pieces: list[RowBatch], seconds: float) -> None:
        rows = sum(len(piece.keys) for piece in pieces)  # which encoding empties
        self._publish(encode_shard(self._spec, pieces, seconds, self._compression))
        keep("row of features", rows)

    def _wait(self) -> None:
        """Wait until no shard is being written; rows of one that could not be written are lost, and that is told."""
        if self._writing is None:
            return
        try:
            self._writing.result()
        except BaseException:
            if self._writing.done() and self._writing.exception() is not None:  # it failed; nobody pressed Ctrl-C
                self._writing, self._handed_over = None, self._written
                self._pieces = []  # leaving the block must not fail once more
            raise
        self._writing, self._written = None, self._handed_over


def stored_rows(spec: Spec, keys: Sequence[str], features: NDArray[Any]) -> NDArray[Any]:
    """Return rows as a shard of a cache holds them.

    Raises
    ------
    CacheInputError
        If some are not finite in the storage type; names their keys.
    """
    dtype = _storage_type(spec)
    with np.errstate(over="ignore"):
        rows = features.astype(dtype, order="C")
    finite = finite_rows(rows)
    if not finite.all():
        raise _not_finite(keys, features, finite, dtype.name)
    return quantize(rows) if spec.dtype == QUANTIZED else rows


def _storage_type(spec: Spec) -> np.dtype[Any]:
    """Return the type of rows on their way to the disk: what is quantized is checked as what it is read as."""
    return feature_type("float16" if spec.dtype == QUANTIZED else spec.dtype)


def _not_finite(
    keys: Sequence[str], features: NDArray[Any], finite: NDArray[np.bool_], dtype: str
) -> NonFiniteRowsError:
    bad_rows = np.flatnonzero(~finite).tolist()
    bad_keys = [keys[index] for index in bad_rows]
    samples = f"{len(bad_rows)} samples: {listed(bad_keys)}"
    if np.isnan(features[bad_rows]).any() or dtype == "float32":
        message = f"the network gave NaN or infinity for {samples}; they are not stored"
        return NonFiniteRowsError(message, bad_keys, overflow=False)
    message = (
        f"the network gave numbers beyond {np.finfo(dtype).max:.5g}, where {dtype} ends, for {samples}; store them "
        "with `storage_dtype` float32"
    )
    return NonFiniteRowsError(message, bad_keys, overflow=True)
