"""What a head is trained on: rows of features with their labels, in memory or streamed from the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.averaged_rows import RowStore
from cache.errors import CacheInputError, DataError, UsageError, listed
from cache.finite import finite_rows
from stages.config.head_registry import names_where
from stages.tasks.base import Task

BLOCK_BYTES = 32 << 20
"""Features that are taken up at a time where all are gone through in order."""

BATCH_ROWS = 1024
"""Rows that a head is asked about at a time."""

LARGEST = 1e12
"""Feature up to which the sums of squares of a million rows, and products of these, are numbers of 32 bits."""

Block = tuple[NDArray[np.int64], NDArray[Any]]
"""Places [b] of rows in the split, and the rows [b, *row_shape]."""

ViewBlock = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]
"""Places [b] of rows in the split, the view that each is of, 0 the evaluation view, and the rows [b, *row_shape]."""


@dataclass(frozen=True)
class FeatureRows:
    """Features [n, ...] (float16 or float32) and labels of one split, in memory.

    Attributes
    ----------
    labels : ndarray [n, ...]
        Targets as the task has them: int64 [n] for one class a sample, floats [n, out_features] for several labels or
        numbers, nan where one is not known.
    augmented : sequence of ndarray
        Features of the same shape of other views of the same samples. Heads that train in epochs are shown one of all
        views of each sample at a time; closed fits see the evaluation view alone.
    groups : ndarray of int64 [n], optional
        Samples with the same number (one patient, one product) stay together in cross-validation.
    """

    features: NDArray[Any]
    labels: NDArray[Any]
    augmented: Sequence[NDArray[Any]] = ()
    groups: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self.features.shape[1:])

    def blocks(self) -> Iterator[Block]:
        """Yield all rows in order, some megabytes at a time."""
        step = max(BLOCK_BYTES // max(self.features[:1].nbytes, 1), 1)
        for start in range(0, len(self), step):
            yield np.arange(start, min(start + step, len(self))), self.features[start : start + step]

    def __add__(self, other: FeatureRows) -> FeatureRows:
        """Return the rows of both, those of `other` last; one without augmented views is shown as it is."""
        views = max(len(self.augmented), len(other.augmented))
        augmented_pairs = zip(*(part.augmented or [part.features] * views for part in (self, other)), strict=True)
        groups = None
        if self.groups is not None and other.groups is not None:
            groups = np.concatenate([self.groups, other.groups])
        return FeatureRows(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.labels, other.labels]),
            [np.concatenate(parts) for parts in augmented_pairs],
            groups,
        )

    def at(self, indices: NDArray[np.int64]) -> FeatureRows:
        """Return some of the rows."""
        groups = None if self.groups is None else self.groups[indices]
        views = [augmented[indices] for augmented in self.augmented]
        return FeatureRows(self.features[indices], self.labels[indices], views, groups)

    def shuffled(
        self, batch_rows: int, seed: int, *, balanced: bool = False, among: NDArray[np.int64] | None = None
    ) -> Iterator[Block]:
        """Yield as many rows as there are, in an order made of `seed`, of each the view that is its turn.

        Each row comes once; or, `balanced`, drawn with replacement so that all classes are as likely. Where some are
        named, they are drawn `among` these.
        """
        for picked, _, rows in self.shuffled_views(batch_rows, seed, balanced=balanced, among=among):
            yield picked, rows

    def shuffled_views(
        self, batch_rows: int, seed: int, *, balanced: bool = False, among: NDArray[np.int64] | None = None
    ) -> Iterator[ViewBlock]:
        """Yield what `shuffled` does, and between places and rows which view of each sample a row is of."""
        generator = np.random.default_rng(seed)
        places = np.arange(len(self)) if among is None else among
        labels = self.labels[places]
        order = generator.permutation(len(places))
        if balanced:
            counts = np.bincount(labels)
            chances = 1 / (np.count_nonzero(counts) * counts[labels])
            order = generator.choice(len(places), len(places), p=chances / chances.sum())
        order = places[order]
        views = generator.integers(1 + len(self.augmented), size=len(self))
        for start in range(0, len(order), batch_rows):
            picked = order[start : start + batch_rows]
            yield picked, views[picked], self.take(picked, views[picked])

    def take(self, indices: NDArray[np.int64], views: NDArray[np.int64]) -> NDArray[Any]:
        """Return some rows, of each the view asked for."""
        features: NDArray[Any] = self.features[indices]
        for view, augmented in enumerate(self.augmented, 1):
            in_view = views == view
            features[in_view] = augmented[indices[in_view]]
        return features


@dataclass(frozen=True)
class StreamedFeatureRows:
    """Rows of one split that stay in the cache and are read when they are needed, in bounded memory.

    Attributes
    ----------
    stores : sequence of FeatureCache or AveragedRows
        The rows of a sample in all of them, joined, are its features.
    keys : sequence of str
    labels : ndarray [n, ...]
    memory_bytes : int
        Most bytes that rows take while they are shuffled.
    """

    stores: Sequence[RowStore]
    keys: Sequence[str]
    labels: NDArray[Any]
    memory_bytes: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        shapes = [store.row_shape for store in self.stores]
        return shapes[0] if len(shapes) == 1 else (sum(math.prod(shape) for shape in shapes),)

    @property
    def row_bytes(self) -> int:
        """What a row takes in the storage type."""
        return math.prod(self.row_shape) * self.stores[0].dtype.itemsize

    @property
    def block_rows(self) -> int:
        """How many rows are read at a time: some megabytes, or an eighth of what they may take if that is less."""
        return max(min(BLOCK_BYTES, self.memory_bytes // 8) // max(self.row_bytes, 1), 1)

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return some rows, [b, *row_shape] in the storage type."""
        keys = [self.keys[index] for index in indices]
        return _joined([store.read(keys) for store in self.stores])

    def blocks(self) -> Iterator[Block]:
        """Yield all rows in order, `block_rows` at a time."""
        for start in range(0, len(self), self.block_rows):
            indices = np.arange(start, min(start + self.block_rows, len(self)))
            yield indices, self.read(indices)

    def shuffled(self, batch_rows: int, seed: int) -> Iterator[Block]:
        """Yield all rows in an order made of `seed`; how mixed it is, `FeatureCache.batches` says.

        Raises
        ------
        UsageError
            If they may not take as much as mixing them needs.
        """
        first, *rest = self.stores
        try:
            batches = first.batches(self.keys, batch_rows, seed=seed, memory_bytes=self.memory_bytes)
        except CacheInputError as error:
            raise UsageError(f"`max_memory_gb` {self.memory_bytes / 1e9:g}: {error} bytes") from error
        for indices, rows in batches:
            keys = [self.keys[index] for index in indices] if rest else []
            yield indices, _joined([rows, *(store.read(keys) for store in rest)])

    def __add__(self, other: StreamedFeatureRows) -> StreamedFeatureRows:
        """Return the rows of both, those of `other` last."""
        labels = np.concatenate([self.labels, other.labels])
        return StreamedFeatureRows(self.stores, [*self.keys, *other.keys], labels, self.memory_bytes)


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


AnyFeatureRows = FeatureRows | StreamedFeatureRows


def concat(train: AnyFeatureRows, val: AnyFeatureRows) -> AnyFeatureRows:
    """Return the rows of both splits, those of validation last."""
    if isinstance(train, FeatureRows):
        assert isinstance(val, FeatureRows)
        return train + val
    assert isinstance(val, StreamedFeatureRows)
    return train + val


def in_batches(rows: AnyFeatureRows) -> Iterator[Block]:
    """Yield all rows in order, as many at a time as a head is asked about."""
    for indices, block in rows.blocks():
        for start in range(0, len(indices), BATCH_ROWS):
            yield indices[start : start + BATCH_ROWS], block[start : start + BATCH_ROWS]


def require_learnable(train: AnyFeatureRows, val: AnyFeatureRows, task: Task) -> None:
    """Refuse rows that no head can be trained on.

    Raises
    ------
    DataError
        If a split is empty, train holds a single stratum where the task has strata, or a number is NaN or infinite, or
        so large that its square is of no use; names the rows.
    """
    if not len(train) or not len(val):
        empty_split = "train" if not len(train) else "validation"
        raise DataError(
            f"the {empty_split} split holds no readable image; give more images, or other `val_size` and `test_size` "
            "shares"
        )
    strata = task.strata(train.labels)
    # parts of the range of few numbers may be one, though the numbers differ
    if strata is not None and len(np.unique(strata if strata.ndim > 1 else train.labels)) < 2:
        raise DataError("the train split holds a single class; a classifier needs at least two")
    for name, rows in (("train", train), ("validation", val)):
        if isinstance(rows, StreamedFeatureRows):
            continue  # the cache took no row that is not finite, and checks every byte it reads
        bad_rows = [int(index) for indices, block in rows.blocks() for index in indices[~finite_rows(block)]]
        if bad_rows:
            raise DataError(
                f"NaN or infinite features in rows {listed(list(map(str, bad_rows)), 10)} of the {name} split; "
                "leave them out"
            )
        if rows.features.dtype == np.float16:
            continue
        large = [
            int(index)
            for indices, block in rows.blocks()
            if block.size and max(block.max(), -block.min()) > LARGEST
            for index in indices[np.abs(block).reshape(len(block), -1).max(axis=1) > LARGEST]
        ]
        if large:
            raise DataError(
                f"features beyond {LARGEST:g} in rows {listed(list(map(str, large)), 10)} of the {name} split, whose "
                "squares cannot be summed in 32 bits; scale all features down, or leave these rows out"
            )


def require_in_memory(name: str, rows: AnyFeatureRows) -> None:
    """Refuse rows that are streamed, for a head that cannot take them so.

    Raises
    ------
    UsageError
        That says which heads can.
    """
    if isinstance(rows, StreamedFeatureRows):
        able = names_where(lambda kind: kind.streams and kind.rows not in ("bag", "maps"))
        raise UsageError(
            f"`head` {name} needs all features in memory, and they are larger than `max_memory_gb` allows; allow "
            f"more, or take a head that streams them: {able}"
        )
