"""Keys: the identity of a sample is the digest of its bytes, so a renamed or copied file is the same sample.

A memo remembers the keys of files that have not changed since they were hashed. What the bytes mean is not known here.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from itertools import chain
from pathlib import Path
from typing import NamedTuple

KEY_LENGTH = 32

_BLOCK_BYTES = 1 << 20
_BATCH = 512
_THREADS = min(8, os.cpu_count() or 1)
_AT_ONCE = 16
"""Files that a thread is given at a time: to hand over one takes as long as to hash a small one."""

_CLOCK_NS = 2_000_000_000
"""Coarsest clock of a file system in use (FAT: 2 s). A file changed more recently than this could be changed again
without its time of modification showing it."""

_TABLE = """
CREATE TABLE IF NOT EXISTS keys_1 (
    path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, key TEXT
) WITHOUT ROWID
"""

_RECALL = "SELECT size, mtime_ns, ctime_ns, key FROM keys_1 WHERE path = ?"


def key_of_bytes(data: bytes) -> str:
    """Return the key of a sample with these bytes: the first 32 hex digits of their SHA-256."""
    return hashlib.sha256(data).hexdigest()[:KEY_LENGTH]


def key_of_file(path: str | os.PathLike[str]) -> str:
    """Return the key of a file's bytes, read block by block.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    return _hash(path)[0]


def is_older(path: str | os.PathLike[str], moment_ns: int) -> bool:
    """Return whether a file's times say that nothing has changed it since a moment, in nanoseconds; they may not know.

    Raises
    ------
    OSError
        If it is not there.
    """
    status = os.stat(path)  # noqa: PTH116 (asked for every image, and a Path takes as long again)
    return max(status.st_mtime_ns, status.st_ctime_ns) < moment_ns - _CLOCK_NS


KEY_MEMO = "keys.sqlite"
"""Where the keys of files are remembered, beside the caches."""


class DigestCache:
    """Keys of files, remembered between runs by absolute path, size and times of modification.

    Parameters
    ----------
    path : Path or None
        SQLite file of the memo, made when there is something to remember; None remembers nothing.

    Attributes
    ----------
    note : str or None
        Why keys could not be remembered, if so, in words for the user. The keys themselves are right all the same.
    asked_ns : int
        When keys were first asked for, in nanoseconds: files that are older than that have the keys that they got.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        self.note: str | None = None
        self.asked_ns = 0

    def keys(
        self, paths: Sequence[str], progress: Callable[[Sequence[str]], Iterable[str]] | None = None
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Return the keys of files, and why some have none.

        Parameters
        ----------
        paths : sequence of str
            Files; names with any bytes in them are fine.
        progress : callable, optional
            Wraps the sequence of paths while it is worked through, as ``tqdm`` does.

        Returns
        -------
        keys : dict of path to key
        unreadable : dict of path to reason
        """
        self.asked_ns = self.asked_ns or time.time_ns()
        keys: dict[str, str] = {}
        unreadable: dict[str, str] = {}
        with self._open() or nullcontext() as database:
            outcomes = self._outcomes(paths, database)
            for path, (key, reason) in zip(progress(paths) if progress else paths, outcomes, strict=True):
                if key:
                    keys[path] = key
                else:
                    unreadable[path] = reason
        return keys, unreadable

    def forget(self, paths: Iterable[str]) -> None:
        """Have the keys of these files made anew the next time: they could not be read when that was tried."""
        if self.path is None or not self.path.exists():
            return
        rows = [(os.fsencode(Path(path).absolute()),) for path in paths]
        with self._open() or nullcontext() as database:
            try:
                if database is not None:
                    with database:
                        database.executemany("DELETE FROM keys_1 WHERE path = ?", rows)
            except sqlite3.Error as error:
                self._disable(error)

    def _outcomes(self, paths: Sequence[str], database: sqlite3.Connection | None) -> Iterator[tuple[str, str]]:
        """Yield (key, '') or ('', reason) for each path: remembered, or hashed by a few threads, some paths ahead."""
        with ThreadPoolExecutor(_THREADS) as threads:
            begun: _Begun | None = None
            for start in range(0, len(paths), _BATCH):
                batch = [_stat(path) for path in paths[start : start + _BATCH]]
                remembered = [self._recall(database, entry) for entry in batch]
                unknown = [entry for entry, key in zip(batch, remembered, strict=True) if not key]
                at_once = [unknown[start : start + _AT_ONCE] for start in range(0, len(unknown), _AT_ONCE)]
                hashed = chain.from_iterable(threads.map(_hash_entries, at_once))
                if begun is not None:
                    yield from self._outcomes_of(begun, database)
                begun = _Begun(batch, remembered, hashed)
            if begun is not None:
                yield from self._outcomes_of(begun, database)

    def _outcomes_of(self, begun: _Begun, database: sqlite3.Connection | None) -> Iterator[tuple[str, str]]:
        """Yield what came of a batch, and remember it."""
        hashed_entries = []
        for entry, key in zip(begun.batch, begun.remembered, strict=True):
            if key:
                yield key, ""
                continue
            outcome = next(begun.hashed)
            if outcome.mtime_trusted:
                hashed_entries.append((*entry.identity, outcome.key))
            yield outcome.key, outcome.reason
        self._remember(database, hashed_entries)

    def _open(self) -> closing[sqlite3.Connection] | None:
        if self.path is None:
            return None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self.path, timeout=30)
        except (OSError, sqlite3.Error) as error:
            self._disable(error)
            return None
        try:
            database.execute(_TABLE)
        except sqlite3.Error as error:
            database.close()
            self._disable(error)
            return None
        return closing(database)

    def _recall(self, database: sqlite3.Connection | None, entry: _Entry) -> str:
        if database is None or entry.reason:
            return ""
        path, *times = entry.identity
        try:
            row = database.execute(_RECALL, (path,)).fetchone()
        except sqlite3.Error as error:
            self._disable(error)
            return ""
        return str(row[3]) if row and list(row[:3]) == times else ""

    def _remember(self, database: sqlite3.Connection | None, rows: list[tuple[bytes, int, int, int, str]]) -> None:
        if database is None or not rows:
            return
        try:
            with database:
                database.executemany("INSERT OR REPLACE INTO keys_1 VALUES (?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            self._disable(error)

    def _disable(self, error: Exception) -> None:
        self.note = f"the keys of files are not remembered for the next run: {self.path}: {error}"


class _Identity(NamedTuple):
    """What tells whether a file is still the one that was hashed.

    The time of the last status change is there because an editor can put the time of modification back, but not it.
    """

    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int


class _Entry(NamedTuple):
    path: str
    identity: _Identity
    reason: str


class _Outcome(NamedTuple):
    key: str
    reason: str
    mtime_trusted: bool
    """Whether the file had been still for long enough, before and while it was read, for its times to be trusted."""


class _Begun(NamedTuple):
    """A batch of files: the keys that are remembered, '' where none is, and what comes of hashing the others."""

    batch: list[_Entry]
    remembered: list[str]
    hashed: Iterator[_Outcome]


def _stat(path: str) -> _Entry:
    no_identity = _Identity(b"", 0, 0, 0)
    try:
        status = os.stat(path)  # noqa: PTH116 (asked for every image, and a Path takes as long again)
        absolute = os.fsencode(Path(path).absolute())
    except (OSError, ValueError) as error:
        return _Entry(path, no_identity, _reason(path, error))
    if stat.S_ISDIR(status.st_mode):
        return _Entry(path, no_identity, "is a directory, not a file")
    if not stat.S_ISREG(status.st_mode):
        return _Entry(path, no_identity, "not a regular file")
    return _Entry(path, _Identity(absolute, *_times(status)), "")


def _hash_entries(entries: Sequence[_Entry]) -> list[_Outcome]:
    return [_hash_entry(entry) for entry in entries]


def _hash_entry(entry: _Entry) -> _Outcome:
    if entry.reason:
        return _Outcome("", entry.reason, mtime_trusted=False)
    _, *expected_times = entry.identity
    newest_trusted = time.time_ns() - _CLOCK_NS
    try:
        key, status = _hash(entry.path)
    except OSError as error:
        return _Outcome("", _reason(entry.path, error), mtime_trusted=False)
    unchanged = expected_times == list(_times(status))
    return _Outcome(key, "", mtime_trusted=unchanged and max(expected_times[1:]) < newest_trusted)


def _hash(path: str | os.PathLike[str]) -> tuple[str, os.stat_result]:
    """Return the key of a file and its status after the last byte was read."""
    digest = hashlib.sha256()
    with Path(path).open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
        return digest.hexdigest()[:KEY_LENGTH], os.fstat(file.fileno())


def _times(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _reason(path: str, error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError) and Path(path).is_symlink():
        return "a link to a file that does not exist"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
