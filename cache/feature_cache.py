"""The feature cache of one spec: a directory of immutable shards that any number of processes may add to.

What is there is found by looking at the shards, every time; nothing else on disk is believed. How a shard is read is
told in :mod:`cache.shard`, how rows become shards in :mod:`cache.shard_writer`, how damaged and unneeded rows go in
:mod:`cache.maintenance`.
"""

from __future__ import annotations

import math
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.atomic_write import (
    existing_part,
    make_directory,
    remove_stale_temporaries,
    stale_temporaries,
    write_atomically,
)
from cache.errors import CacheError, CacheInputError, listed
from cache.gather_rows import read_rows
from cache.json_documents import BrokenDocumentError, read_document, write_document
from cache.keys import KEY_LENGTH
from cache.leases import Leases, pending_rows
from cache.maintenance import (
    CorruptRow,
    KeptRows,
    PruneSummary,
    corrupt_rows,
    rewrite_shards,
    rows_to_keep,
    summarize_prune,
)
from cache.quantized import QUANTIZED, dequantize, row_shape_of
from cache.row_index import pack_key_list, unpack_key
from cache.shard import Compression, RowBatch, Shard, encode_shard, feature_type
from cache.shard_catalog import DAMAGED, SHARDS, ShardCatalog, list_files, quarantine
from cache.shard_writer import ShardLimits, ShardWriter, stored_rows
from cache.shuffled_batches import FeatureBatch, RowAddresses, RowReader, shuffled_batches
from cache.spec import Spec
from cache.virtual_index import index_image

_CLAIMS = "claims"
_REJECTED = "rejected"

_DEQUANTIZED_BYTES = 4 << 20
"""Bytes of rows in 8 bits that are read at a time."""


def _shifted(key_at: Callable[[int], str], start: int, index: int) -> str:
    """Return the key of a row that is read with some others, the first of which is number `start`."""
    return key_at(start + index)


class FeatureCache:
    """The rows of one spec, asked for by key.

    Nothing is created on disk before the first write. Holds no open files, so it may be forked and pickled.

    Parameters
    ----------
    root : Path
        Directory of caches; this one is ``root / spec.fingerprint``.
    spec : Spec

    Attributes
    ----------
    path : Path
        Directory of this cache.
    warnings : list of str
        What was found wrong, and what was done about it, in words for the user.
    """

    def __init__(self, root: Path | str, spec: Spec) -> None:
        self.root = Path(root)
        self.spec = spec
        self.path = self.root / spec.fingerprint
        self.warnings: list[str] = []
        self._catalog = ShardCatalog()
        self._reasons: dict[str, str] = {}
        self._read_rejections: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureCache, (self.root, self.spec)

    def __len__(self) -> int:
        """Return the number of different (key, view) rows."""
        return len(self._current().lookup.mixed_high)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers that are read."""
        return feature_type("float16" if self._is_quantized else self.spec.dtype)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row.

        Raises
        ------
        CacheInputError
            If the cache is still empty.
        """
        shards = self._current().shards
        if not shards:
            raise CacheInputError(f"{self.path} holds no features yet; extract some first")
        return row_shape_of(shards[0].row_shape) if self._is_quantized else shards[0].row_shape

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The sound shards that are there now."""
        return self._current().shards

    @property
    def views(self) -> dict[int, int]:
        """How many rows there are of each view."""
        views, counts = np.unique(self._current().lookup.views, return_counts=True)
        return dict(zip(views.tolist(), counts.tolist(), strict=True))

    @property
    def damaged(self) -> list[Path]:
        """Files that could not be trusted and were moved out of the way."""
        return [self.path / DAMAGED / name for name in list_files(self.path / DAMAGED, "")]

    @property
    def leftovers(self) -> list[Path]:
        """Temporary files of writers that are dead; the next writer removes them."""
        return [path for directory in self._directories for path in stale_temporaries(directory)]

    @property
    def size_on_disk(self) -> int:
        """Bytes of all files of the cache."""
        size = 0
        for path in self.path.rglob("*"):
            with suppress(FileNotFoundError):
                size += path.lstat().st_size if path.is_file() else 0
        return size

    def refresh(self) -> None:
        """Take notice of shards that other processes have added or removed.

        Only :meth:`read` works from what was last seen, as long as it finds all it is asked for; everything else
        looks again by itself.
        """
        self._current()

    def keys(self, view: int = 0) -> list[str]:
        """Return the keys that have a row, in the order in which the rows are stored: the quickest to read."""
        return [unpack_key(key) for key in self._current().lookup.keys(view)]

    def missing(self, keys: Iterable[str], view: int = 0) -> list[str]:
        """Return the keys that have no row yet and were not rejected, in the order asked, each once."""
        wanted = list(dict.fromkeys(keys))
        positions = self._current().lookup.positions_of(pack_key_list(wanted), view)
        rejected = self.unreadable()
        return [wanted[index] for index in np.flatnonzero(positions < 0).tolist() if wanted[index] not in rejected]

    def read(self, keys: Sequence[str], view: int = 0, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the rows of keys, every byte checked.

        Parameters
        ----------
        keys : sequence of str
            In any order; a key may stand there twice.
        view : int
        out : array [n, *row_shape], optional
            Contiguous, of the storage type, to read into instead of a new array.

        Returns
        -------
        array [n, *row_shape]
            In the order asked, in the storage type.

        Raises
        ------
        CacheError
            If keys have no row (names them), or rows are damaged on disk (names shard, row and key); `out` then holds
            nothing of use.
        """
        packed = pack_key_list(keys)
        for catalog in self._catalogs():
            positions = catalog.lookup.positions_of(packed, view)
            if not catalog.shards or (positions < 0).any():
                continue
            target = self._target(self._shape_in(catalog), len(keys), out)
            with suppress(FileNotFoundError):  # another process has rewritten a shard: look again
                self._read_into(catalog, positions, keys.__getitem__, target)
                return target
        self._require(catalog, keys, positions, view)
        raise CacheError(f"shards of {self.path} vanished while they were read; try again")

    def batches(
        self, keys: Sequence[str], batch_rows: int, *, seed: int, memory_bytes: int = 256 << 20, view: int = 0
    ) -> Iterator[FeatureBatch]:
        """Return the rows of keys in shuffled batches, each row once, in bounded memory, every byte checked.

        What is random: the rows are divided where they are stored into stretches of up to a megabyte; the stretches
        are put in random order and dealt out in pools, as many rows as the memory holds; each pool is shuffled
        uniformly and served while a thread reads the next. So rows that stand together on disk come in the same pool
        of a pass, or in two that follow each other, and any row may come with any other. What fits into one pool (a
        little under half of the memory allowed) comes in an order that is uniformly random.

        The order depends on the seed, the request and where the rows are stored; nothing else, timing above all. For
        the next pass, give another seed.

        Parameters
        ----------
        keys : sequence of str
            In any order.
        batch_rows : int
            Rows of a batch; the last one may have fewer.
        seed : int
        memory_bytes : int
            Most bytes taken for rows: two pools, two batches, and what reading takes. Besides, 20 bytes a key, and 90
            while this call lasts.
        view : int

        Returns
        -------
        iterator of Batch
            (positions int64 [b], rows [b, *row_shape]): which of the keys, and their rows in the storage type, in
            arrays of their own.

        Raises
        ------
        CacheError
            If keys have no row, or the memory does not hold a few batches; and while iterating, as :meth:`read`.
        """
        catalog = self._current()
        entries = catalog.lookup.positions_of(pack_key_list(keys), view)
        self._require(catalog, keys, entries, view)

        def read(positions: NDArray[np.intp], out: NDArray[Any], scratch: int) -> NDArray[Any]:
            with suppress(FileNotFoundError):  # another process has rewritten a shard: ask for the keys
                self._read_into(catalog, entries[positions], lambda index: keys[positions[index]], out, scratch)
                return out
            return self.read([keys[index] for index in positions.tolist()], view, out)

        return shuffled_batches(
            RowAddresses(catalog.lookup.shards[entries], catalog.lookup.rows[entries]),
            RowReader(self._shape_in(catalog), self.dtype, read),
            batch_rows=batch_rows,
            seed=seed,
            memory_bytes=memory_bytes,
        )

    def compute_seconds(self, keys: Iterable[str], view: int = 0) -> float:
        """Return what computing the rows of these keys cost, each key once: its share of its shard's time."""
        catalog = self._current()
        positions = catalog.lookup.positions_of(pack_key_list(list(dict.fromkeys(keys))), view)
        shares = np.array([shard.seconds / shard.rows for shard in catalog.shards], dtype=np.float64)
        return float(shares[catalog.lookup.shards[positions[positions >= 0]]].sum())

    def writer(
        self,
        shard_bytes: int = 32 << 20,
        shard_seconds: float = 60.0,
        *,
        index: bool = True,
        compression: Compression = "none",
    ) -> ShardWriter:
        """Return a writer, to be used in a ``with`` statement; see :class:`cache.shard_writer.ShardWriter`.

        Parameters
        ----------
        shard_bytes, shard_seconds : int, float
            Most bytes and seconds of work that are not on disk yet.
        index : bool
            Whether the index is made anew at the end; one of many processes that work together is enough.
        compression : str
            How the shards of this writer are stored: none, gzip, or another cache format; a cache may hold several.

        Raises
        ------
        CacheError
            If the cache cannot be written to.
        """
        self._prepare()
        catalog = self._current()
        return ShardWriter(
            self.spec,
            self._shape_in(catalog) if catalog.shards else None,
            publish=lambda image: write_atomically(self.path / SHARDS / f"{_unique_name()}.h5", image),
            finish=self._try_to_build_index if index else lambda: None,
            limits=ShardLimits(shard_bytes, shard_seconds),
            compression=compression,
        )

    def seconds_to_write(self, features: NDArray[Any], *, compression: Compression = "none") -> float:
        """Return what one shard of such rows takes to be made and brought to the disk; nothing of it is left.

        It is written into a folder of its own, where the cache is or would be, and removed.

        Parameters
        ----------
        features : float array [n, *row_shape]
        compression : str
            As of :meth:`writer`.

        Raises
        ------
        CacheError
            If it cannot be written there, or some rows are not finite in the storage type.
        """
        place = existing_part(self.path)
        keys = [f"{number:0{KEY_LENGTH}x}" for number in range(len(features))]
        try:
            folder = tempfile.TemporaryDirectory(prefix=".trial-", dir=place)
        except OSError as error:
            raise CacheError(f"the cache cannot be written: {place}: {error.strerror}") from error
        with folder:
            target = Path(folder.name, "rows.h5")
            started = time.perf_counter()
            pieces = [RowBatch(keys, 0, stored_rows(self.spec, keys, features))]
            write_atomically(target, encode_shard(self.spec, pieces, 0.0, compression))
            return time.perf_counter() - started

    def leases(self) -> Leases:
        """Return what processes that fill this cache at once share their work by; see :class:`cache.leases.Leases`.

        Raises
        ------
        CacheError
            If the cache cannot be written to.
        """
        self._prepare()
        return Leases(self.path / _CLAIMS)

    @property
    def pending_rows(self) -> int:
        """Rows that running extractions have made and not yet put on disk, as far as they have told."""
        return pending_rows(self.path / _CLAIMS)

    def mark_unreadable(self, reasons: Mapping[str, str]) -> None:
        """Remember, for good, why these keys can never have a row under this spec."""
        pack_key_list(list(reasons))
        known = self.unreadable()
        additions = {key: reason for key, reason in reasons.items() if key not in known}
        if additions:
            self._prepare()
            write_document(self.path / _REJECTED / f"{_unique_name()}.json", "rejections", reasons=additions)

    def unreadable(self) -> Mapping[str, str]:
        """Return the rejected keys with the reasons."""
        names = list_files(self.path / _REJECTED, ".json")
        if not self._read_rejections <= set(names):
            self._read_rejections, self._reasons = set(), {}
        for name in (name for name in names if name not in self._read_rejections):
            path = self.path / _REJECTED / name
            try:
                reasons = read_document(path, "rejections", "reasons")
            except FileNotFoundError:
                continue
            except BrokenDocumentError as error:
                quarantine(path, self.path, str(error), self._note)
                continue
            self._read_rejections.add(name)
            self._reasons.update((key, str(reason)) for key, reason in reasons.items())
        return MappingProxyType(self._reasons)

    def verify(self, progress: Callable[[Sequence[Shard]], Iterable[Shard]] | None = None) -> list[CorruptRow]:
        """Read every row of every shard and return those that are damaged.

        Shards that are damaged as a whole are set aside when they are opened, and told in :attr:`warnings`.
        """
        shards = self._current().shards
        return [
            damage for shard in (progress(shards) if progress else shards) for damage in corrupt_rows(shard, self.spec)
        ]

    def repair(self, progress: Callable[[Sequence[Shard]], Iterable[Shard]] | None = None) -> list[CorruptRow]:
        """Drop damaged rows, so that :meth:`missing` asks for them again; return what was dropped.

        The sound rows of a shard with damage are written to a new shard, then the old one is moved to ``damaged/``.

        Raises
        ------
        CacheError
            If there is damage, and the cache cannot be written to.
        """
        damages = self.verify(progress)
        names = {damage.shard for damage in damages}
        broken = [shard for shard in self._catalog.shards if shard.path.name in names]
        self._rewrite({shard: np.ones(shard.rows, dtype=np.bool_) for shard in broken})
        return damages

    def plan_prune(self, needed: Iterable[str]) -> PruneSummary:
        """Return what :meth:`prune` would drop."""
        return summarize_prune(rows_to_keep(self._current().shards, self.spec, needed))

    def prune(self, needed: Iterable[str]) -> PruneSummary:
        """Drop the rows, of all views, of every key that is not among the needed; return what was dropped.

        The kept rows of a shard are written to a new one before the old one is removed: this may be stopped at any
        moment, and others may read and write meanwhile. It takes no more room than a shard.

        Raises
        ------
        CacheError
            If the cache cannot be written to.
        """
        kept_rows = rows_to_keep(self._current().shards, self.spec, needed)
        dropped = summarize_prune(kept_rows)
        self._rewrite(kept_rows)
        return dropped

    def _rewrite(self, kept_rows: KeptRows) -> None:
        rewrite_shards(
            kept_rows,
            self.spec,
            lambda compression: self.writer(compression=compression),
            lambda path, reason: quarantine(path, self.path, reason, self._note),
        )

    def build_index(self) -> None:
        """Make ``index.h5`` anew from the shards, so that any HDF5 tool sees them as one array.

        Raises
        ------
        CacheError
            If it cannot be written.
        """
        names: frozenset[str] | None = None
        while names != self._current().names:  # again, if another process has added a shard meanwhile
            names = self._catalog.names
            if self._catalog.shards:
                write_atomically(self.path / "index.h5", index_image(self._catalog.shards, self.spec.fingerprint))
            else:
                (self.path / "index.h5").unlink(missing_ok=True)

    def _current(self) -> ShardCatalog:
        """Return the catalog of what is there now."""
        if not self._catalog.names:
            self._spec_is_recorded()  # refuses a cache of another version
        self._catalog = self._catalog.refreshed(self.path, self.spec, self._note)
        # Rows that another process has moved to a new shard since the shards were listed are in none of these: again.
        while not self._catalog.names <= set(list_files(self.path / SHARDS, ".h5")):
            self._catalog = self._catalog.refreshed(self.path, self.spec, self._note)
        return self._catalog

    def _catalogs(self) -> Iterator[ShardCatalog]:
        """Yield the catalog at hand, then the one of what is there now, again as long as shards of it go away."""
        yield self._catalog
        catalog = self._current()
        yield catalog
        while not catalog.names <= self._current().names:
            catalog = self._catalog
            yield catalog

    def _require(self, catalog: ShardCatalog, keys: Sequence[str], positions: NDArray[np.intp], view: int) -> None:
        """Raise :class:`CacheInputError` unless every key has a place in the catalog."""
        missing = [keys[index] for index in np.flatnonzero(positions < 0).tolist()]
        if missing or not catalog.shards:
            raise CacheInputError(
                f"{len(missing)} of {len(keys)} samples have no features (view {view}) in {self.path}: "
                f"{listed(missing)}; extract them first"
            )

    def _gather(
        self,
        catalog: ShardCatalog,
        positions: NDArray[np.intp],
        key_at: Callable[[int], str],
        target: NDArray[Any],
        scratch: int | None,
    ) -> None:
        lookup = catalog.lookup
        damaged = read_rows(catalog.shards, lookup.shards[positions], lookup.rows[positions], target, scratch)
        if damaged:
            descriptions = [f"row {row.row} of {row.shard.path} ({key_at(row.position)})" for row in damaged]
            raise CacheError(
                f"{len(damaged)} of {len(positions)} rows are damaged on disk: {listed(descriptions)}; drop them with "
                "`cache verify `repair`` (FeatureCache.repair), which keeps the others, and extract again"
            )

    @property
    def _is_quantized(self) -> bool:
        return self.spec.dtype == QUANTIZED

    def _shape_in(self, catalog: ShardCatalog) -> tuple[int, ...]:
        """Return the shape of a row as it is read."""
        stored = catalog.shards[0].row_shape
        return row_shape_of(stored) if self._is_quantized else stored

    def _read_into(
        self,
        catalog: ShardCatalog,
        positions: NDArray[np.intp],
        key_at: Callable[[int], str],
        target: NDArray[Any],
        scratch: int | None = None,
    ) -> None:
        """Fill `target` with rows as they are read, a few at a time where that takes another array."""
        if not self._is_quantized:
            self._gather(catalog, positions, key_at, target, scratch)
            return
        shape = catalog.shards[0].row_shape
        step = max(_DEQUANTIZED_BYTES // math.prod(shape), 1)
        for start in range(0, len(target), step):
            part = positions[start : start + step]
            stored = np.empty((len(part), *shape), np.uint8)
            self._gather(catalog, part, partial(_shifted, key_at, start), stored, scratch)
            target[start : start + step] = dequantize(stored)

    def _target(self, row_shape: tuple[int, ...], rows: int, out: NDArray[Any] | None) -> NDArray[Any]:
        shape, dtype = (rows, *row_shape), self.dtype
        if out is None:
            return np.empty(shape, dtype=dtype)
        if out.shape != shape or out.dtype != dtype or not (out.flags.c_contiguous and out.flags.writeable):
            raise CacheInputError(f"out has to be a contiguous {dtype} array {shape}, not {out.dtype} {out.shape}")
        return out

    @property
    def _directories(self) -> tuple[Path, ...]:
        return self.path, self.path / SHARDS, self.path / _REJECTED

    def _prepare(self) -> None:
        """Make the directories, record the spec, and clean up after dead writers."""
        for directory in self._directories:
            make_directory(directory)
            remove_stale_temporaries(directory)
        if not self._spec_is_recorded():
            self._record_spec()

    def mend_spec(self) -> None:
        """Write ``spec.json`` again where rows are there and it is gone or damaged: it is what others know a cache by.

        Where it cannot be written, the rows are read all the same.

        Raises
        ------
        CacheError
            If it says that the cache is of another version.
        """
        if self.shards and not self._spec_is_recorded():
            with suppress(CacheError):
                self._record_spec()

    def _record_spec(self) -> None:
        write_document(self.path / "spec.json", "feature-cache", spec=self.spec.to_json())

    def _spec_is_recorded(self) -> bool:
        """Return whether ``spec.json`` is there and right.

        Raises
        ------
        CacheError
            If it says that the cache is of another version.
        """
        with suppress(FileNotFoundError, BrokenDocumentError):
            return read_document(self.path / "spec.json", "feature-cache", "spec") == self.spec.to_json()
        return False

    def _try_to_build_index(self) -> None:
        try:
            self.build_index()
        except CacheError as error:
            self._note(f"index.h5 was not made, which only other programs miss: {error}")

    def _note(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def _unique_name() -> str:
    """Return a name that sorts by time and is nobody else's."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%f}-{secrets.token_hex(8)}"
