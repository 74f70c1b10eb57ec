"""The feature cache of one spec: a directory of immutable shards that any number of processes may add to.

What is there is found by looking at the shards, every time; nothing else on disk is believed. How a shard is read is
told in :mod:`cache.shard`, how rows become shards in :mod:`cache.writer`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.catalog import SHARDS, Catalog, list_files, set_aside
from cache.documents import BrokenDocumentError, read_document, write_document
from cache.errors import CacheError
from cache.gather import gather
from cache.index import index_image
from cache.lookup import pack_key_list, unpack_key
from cache.publish import make_directory, publish, remove_leftovers
from cache.shard import Shard, feature_type, open_shard
from cache.spec import Spec
from cache.writer import Writer

_REJECTED = "rejected"


class Damage(NamedTuple):
    """A row whose bytes are not the ones that were written."""

    shard: str
    row: int
    key: str
    view: int


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
    notes : list of str
        What was found wrong, and what was done about it, in words for the user.
    """

    def __init__(self, root: Path | str, spec: Spec) -> None:
        self.root = Path(root)
        self.spec = spec
        self.path = self.root / spec.fingerprint
        self.notes: list[str] = []
        self._catalog = Catalog()

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureCache, (self.root, self.spec)

    def __len__(self) -> int:
        """Return the number of different (key, view) rows."""
        return len(self._current().lookup.words)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored numbers."""
        return feature_type(self.spec.dtype)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row.

        Raises
        ------
        CacheError
            If the cache is still empty.
        """
        shards = self._current().shards
        if not shards:
            raise CacheError(f"{self.path} holds no features yet; extract some first")
        return shards[0].row_shape

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

    def missing(self, keys: Iterable[str], view: int = 0) -> list[str]:
        """Return the keys that have no row yet and were not rejected, in the order asked, each once."""
        wanted = list(dict.fromkeys(keys))
        found = self._current().lookup.find(pack_key_list(wanted), view)
        rejected = self.rejected()
        return [wanted[index] for index in np.flatnonzero(found < 0).tolist() if wanted[index] not in rejected]

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
            places = catalog.lookup.find(packed, view)
            if not catalog.shards or (places < 0).any():
                continue
            target = self._target(catalog.shards[0], len(keys), out)
            with suppress(FileNotFoundError):  # another process has rewritten a shard: look again
                self._gather(catalog, places, keys, target)
                return target
        absent = [keys[index] for index in np.flatnonzero(places < 0).tolist()]
        if absent or not catalog.shards:
            raise CacheError(
                f"{len(absent)} of {len(keys)} samples have no features (view {view}) in {self.path}: "
                f"{_listed(absent)}; extract them first"
            )
        raise CacheError(f"shards of {self.path} vanished while they were read; try again")

    def seconds(self, keys: Iterable[str], view: int = 0) -> float:
        """Return what computing the rows of these keys cost, each key once: its share of its shard's time."""
        catalog = self._current()
        places = catalog.lookup.find(pack_key_list(list(dict.fromkeys(keys))), view)
        shares = np.array([shard.seconds / shard.rows for shard in catalog.shards], dtype=np.float64)
        return float(shares[catalog.lookup.shards[places[places >= 0]]].sum())

    def writer(self, shard_bytes: int = 64 << 20, shard_seconds: float = 60.0) -> Writer:
        """Return a writer, to be used in a ``with`` statement; see :class:`cache.writer.Writer`.

        Raises
        ------
        CacheError
            If the cache cannot be written to.
        """
        self._prepare()
        shards = self._current().shards
        return Writer(
            self.spec,
            shards[0].row_shape if shards else None,
            publish=lambda image: publish(self.path / SHARDS / f"{_unique_name()}.h5", image),
            finish=self._try_to_build_index,
            shard_bytes=shard_bytes,
            shard_seconds=shard_seconds,
        )

    def reject(self, reasons: Mapping[str, str]) -> None:
        """Remember, for good, why these keys can never have a row under this spec."""
        pack_key_list(list(reasons))
        known = self.rejected()
        new = {key: reason for key, reason in reasons.items() if key not in known}
        if new:
            self._prepare()
            write_document(self.path / _REJECTED / f"{_unique_name()}.json", "rejections", reasons=new)

    def rejected(self) -> dict[str, str]:
        """Return the rejected keys with the reasons."""
        reasons: dict[str, str] = {}
        for name in list_files(self.path / _REJECTED, ".json"):
            path = self.path / _REJECTED / name
            try:
                found = read_document(path, "rejections", "reasons")
            except FileNotFoundError:
                continue
            except BrokenDocumentError as error:
                set_aside(path, self.path, str(error), self._note)
                continue
            reasons.update((key, str(reason)) for key, reason in found.items())
        return reasons

    def verify(self, progress: Callable[[Sequence[Shard]], Iterable[Shard]] | None = None) -> list[Damage]:
        """Read every row of every shard and return those that are damaged.

        Shards that are damaged as a whole are set aside when they are opened, and told in :attr:`notes`.
        """
        shards = self._current().shards
        return [damage for shard in (progress(shards) if progress else shards) for damage in self._damages(shard)]

    def repair(self) -> list[Damage]:
        """Drop damaged rows, so that :meth:`missing` asks for them again; return what was dropped.

        The sound rows of a shard with damage are written to a new shard, then the old one is moved to ``damaged/``.
        """
        dropped = []
        for shard in self._current().shards:
            damages = list(self._damages(shard))
            if damages:
                self._copy_sound_rows(shard)
                reason = f"{shard.path} had {len(damages)} damaged rows (the others were kept)"
                set_aside(shard.path, self.path, reason, self._note)
                dropped += damages
        if dropped:
            self.build_index()
        return dropped

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
                publish(self.path / "index.h5", index_image(self._catalog.shards, self.spec.fingerprint))
            else:
                (self.path / "index.h5").unlink(missing_ok=True)

    def _current(self) -> Catalog:
        """Return the catalog of what is there now."""
        if not self._catalog.names:
            self._spec_is_recorded()  # refuses a cache of another version
        self._catalog = self._catalog.updated(self.path, self.spec, self._note)
        return self._catalog

    def _catalogs(self) -> Iterator[Catalog]:
        """Yield the catalog at hand, and after it the one of what is there now."""
        yield self._catalog
        yield self._current()

    def _gather(self, catalog: Catalog, places: NDArray[np.intp], keys: Sequence[str], target: NDArray[Any]) -> None:
        damaged = gather(catalog.shards, catalog.lookup.shards[places], catalog.lookup.rows[places], target)
        if damaged:
            named = [f"row {one.row} of {one.shard.path} ({keys[one.position]})" for one in damaged]
            raise CacheError(
                f"{len(damaged)} of {len(keys)} rows are damaged on disk: {_listed(named)}; drop them with "
                "FeatureCache.repair(), which keeps the others, and extract again"
            )

    def _target(self, shard: Shard, rows: int, out: NDArray[Any] | None) -> NDArray[Any]:
        shape = (rows, *shard.row_shape)
        if out is None:
            return np.empty(shape, dtype=shard.dtype)
        if out.shape != shape or out.dtype != shard.dtype or not (out.flags.c_contiguous and out.flags.writeable):
            raise CacheError(f"out has to be a contiguous {shard.dtype} array {shape}, not {out.dtype} {out.shape}")
        return out

    def _damages(self, shard: Shard) -> Iterator[Damage]:
        rows = [start + int(row) for start, _, damaged in shard.stretches() for row in damaged]
        if rows:
            _, table = open_shard(shard.path, self.spec)
            for row in rows:
                yield Damage(shard.path.name, row, unpack_key(table.keys[row]), int(table.views[row]))

    def _copy_sound_rows(self, shard: Shard) -> None:
        _, table = open_shard(shard.path, self.spec)
        with self.writer() as writer:
            for start, stretch, damaged in shard.stretches():
                sound = np.delete(np.arange(len(stretch)), damaged)
                for view in np.unique(table.views[start + sound]):
                    chosen = sound[table.views[start + sound] == view]
                    writer.append(
                        [unpack_key(key) for key in table.keys[start + chosen]],
                        stretch[chosen].view(shard.dtype).reshape(len(chosen), *shard.row_shape),
                        seconds=shard.seconds * len(chosen) / shard.rows,
                        view=int(view),
                    )

    def _prepare(self) -> None:
        """Make the directories, record the spec, and clean up after dead writers."""
        for directory in (self.path, self.path / SHARDS, self.path / _REJECTED):
            make_directory(directory)
            remove_leftovers(directory)
        if not self._spec_is_recorded():
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
        if text not in self.notes:
            self.notes.append(text)


def _unique_name() -> str:
    """Return a name that sorts by time and is nobody else's."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%f}-{secrets.token_hex(8)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
