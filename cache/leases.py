"""Who is working on what: processes that fill one cache at once take pieces of work, so that none is done twice.

Claims save work and nothing else depends on them: where they cannot be made, or one is lost, rows are computed twice
and stored twice, and one of them is served. A claim is a hard link to a file of its owner's, which appears whole or not
at all on network file systems too, and whose time every beat of its owner renews for all of the owner's claims at once.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

from cache.atomic_write import host_name, make_directory, remove_stale_temporaries, write_atomically
from cache.errors import CacheError

_BEAT_SECONDS = 10.0
_IDENTITY_WORDS = 4
_SILENT_SECONDS = 60.0
"""An owner that has been silent for so long is taken for dead."""
_OWNER = ".owner"
_CLAIM = ".claim"
_TAKEOVER = ".takeover"
_PENDING = ".pending"


class Leases:
    """The pieces of work that this process has taken; use it in a ``with`` statement, which gives them back at its end.

    Parameters
    ----------
    directory : Path
        Where all processes that share the work keep their claims; made where it is missing.

    Attributes
    ----------
    supported : bool
        Whether claims can be made here at all. Some file systems have no hard links; then everything is granted.
    pending_rows : int
        Rows that this process has made and that are not on disk yet; other processes are told at every beat.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.supported = True
        self.pending_rows = 0
        self._owner_file = directory / f"{secrets.token_hex(8)}{_OWNER}"
        self._pending_file = self._owner_file.with_suffix(_PENDING)
        self._held: set[str] = set()
        self._end = threading.Event()
        self._beating = threading.Thread(target=self._heartbeat, name="claims", daemon=True)

    def __enter__(self) -> Leases:
        make_directory(self.directory)
        remove_stale_temporaries(self.directory)
        write_atomically(self._owner_file, _identity().encode("ascii"))
        self._remove_stale()
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._beating.join()
        self.release(list(self._held))
        for path in (self._owner_file, self._pending_file):
            with suppress(OSError):
                path.unlink()

    def acquire(self, name: str) -> bool:
        """Try to take a piece of work; return whether it is this process's now.

        What a dead process had taken is free. After a grant, look at what is done before doing it: another process may
        have finished and released it just before.

        Parameters
        ----------
        name : str
            The same in every process; fit for a file name.
        """
        claim = self.directory / f"{name}{_CLAIM}"
        if not self.supported or name in self._held:
            return True
        try:
            os.link(self._owner_file, claim)
        except FileExistsError:
            if not self._seize_stale(claim):
                return False
        except OSError:
            self.supported = False
            return True
        self._held.add(name)
        return True

    def release(self, names: Iterable[str]) -> None:
        """Give pieces of work back, done or not."""
        for name in names:
            self._held.discard(name)
            with suppress(OSError):  # taken over meanwhile, or the disk is gone: it will be found stale
                (self.directory / f"{name}{_CLAIM}").unlink()

    def _heartbeat(self) -> None:
        while not self._end.wait(_BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self._owner_file)
            with suppress(CacheError):
                self.tell_pending_rows()

    def tell_pending_rows(self) -> None:
        """Tell other processes how many rows are not on disk yet."""
        if self.pending_rows or self._pending_file.exists():
            write_atomically(self._pending_file, f"{_identity()} {self.pending_rows}".encode("ascii"))

    def _remove_stale(self) -> None:
        for path in self.directory.iterdir():
            is_left_over = self._seize_stale if path.suffix == _CLAIM else self._is_stale
            if path.suffix in (_OWNER, _CLAIM, _TAKEOVER, _PENDING) and is_left_over(path):
                with suppress(OSError):  # another process was quicker
                    path.unlink()

    def _seize_stale(self, claim: Path) -> bool:
        """Make a dead process's claim one of this process; return whether it is now.

        Of the processes that find it stale, one at a time makes a file beside it, looks again, and puts that file in
        its place: to the others it never looks free, and nobody replaces a claim that was taken over just before.
        """
        if not self._is_stale(claim):
            return False
        replacement = claim.with_suffix(_TAKEOVER)
        try:
            os.link(self._owner_file, replacement)
        except OSError:
            if self._is_stale(replacement):  # its process died just then: the next try will succeed
                replacement.unlink(missing_ok=True)
            return False
        if self._is_stale(claim):
            replacement.replace(claim)
            return True
        replacement.unlink()
        return False

    def _is_stale(self, path: Path) -> bool:
        """Return whether the process that made a file here is dead, as far as can be known."""
        try:
            # both times were set by the clock of the file system, so the clocks of the machines do not matter
            silent = self._owner_file.stat().st_mtime - path.stat().st_mtime > _SILENT_SECONDS
            return silent or _is_dead(path.read_text(encoding="ascii", errors="replace"))
        except OSError:
            return False  # released just now, or not readable


def _identity() -> str:
    """Return what tells this process from all others: machine, process namespace, number, and time of its start."""
    return f"{host_name()} {_namespace()} {os.getpid()} {psutil.Process().create_time():.0f}"


def pending_rows(directory: Path) -> int:
    """Return how many rows the processes that share their work in a directory have made and not yet put on disk.

    As of the last beat of each. What a dead process had made is lost and does not count.
    """
    rows = 0
    for path in directory.glob(f"*{_PENDING}"):
        with suppress(OSError, ValueError, IndexError):  # its process has just ended, or it is not what it is called
            text = path.read_text(encoding="ascii")
            if time.time() - path.stat().st_mtime <= _SILENT_SECONDS and not _is_dead(text):
                rows += int(text.split()[_IDENTITY_WORDS])
    return rows


def _is_dead(identity: str) -> bool:
    """Return whether a process of this machine is gone; of others, and of unreadable ones, that is not known."""
    fields = identity.split()[:_IDENTITY_WORDS]
    if len(fields) < _IDENTITY_WORDS or fields[:2] != [host_name(), _namespace()]:
        return False
    try:
        process = psutil.Process(int(fields[2]))
        # the number may have been given to another process; the time of the start is known to a second or two
        number_reused = abs(process.create_time() - int(fields[3])) > 3
        return number_reused or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError):
        return False


def _namespace() -> str:
    """Return the name of the process namespace: containers may share a host's name and not its process numbers."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "-"
