"""Files that appear whole or not at all, and what writers that died left behind.

A file is written under a temporary name beside its place, reaches the disk, and is renamed. No locks: they cannot be
relied on over network file systems, and unique names make them unnecessary. Every file that is read back, in a cache
or in a run, is written here.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.errors import CacheError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TEMPORARY = re.compile(r"(?P<host>.+)-(?P<pid>\d{1,9})-[0-9a-f]{16}\.tmp")
_WRITING_SECONDS = 60.0
_ABANDONED_SECONDS = 3600.0


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that other processes see all of it or none, also after a loss of power.

    Raises
    ------
    CacheError
        If there is no room (says how much was needed) or the directory cannot be written. Nothing is left behind.
    """
    with _replacing(path, len(data)) as temporary, temporary.open("wb") as file:
        file.write(data)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name for what wants a path to write to; it becomes `path` when the block ends well.

    When the block ends by an exception, or the process is killed in it, what stood at `path` before stays as it was.
    The name ends with ``.tmp``: say which format is meant where a library would tell it from the ending. What is not a
    file, such as ``/dev/stdout``, is written to directly.

    Raises
    ------
    CacheError
        For an OSError in the block or after it: there is no room, or the directory cannot be written. Nothing is left
        behind. Other exceptions of the block pass through.
    """
    with _replacing(path) as temporary:
        yield temporary


@contextmanager
def _replacing(path: Path, size: int | None = None) -> Iterator[Path]:
    target = Path(os.path.realpath(path))  # a link stays one
    direct = target.exists() and not target.is_file()
    temporary = target.with_name(f"{host_name()}-{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        if direct:
            yield target
        else:
            temporary.touch()
            permissions = temporary.stat().st_mode & 0o777
            yield temporary
            if temporary.stat().st_mode & 0o777 != permissions:  # some libraries let nobody else read what they write
                temporary.chmod(permissions)
            sync(temporary)
            temporary.replace(target)
            sync(target.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise CacheError(_explained(error, path, size)) from error
        raise


def sync(path: Path) -> None:
    """Let a file, or the names in a directory, outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # directories of some network file systems cannot, and need not
            raise
    finally:
        os.close(descriptor)


def existing_part(path: Path) -> Path:
    """Return the path itself where it is there, or the nearest of its parents that is: whose disk it will be on."""
    return next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())


def make_directory(path: Path) -> None:
    """Make `path` and its parents where they are missing, to be written to.

    Raises
    ------
    CacheError
        If it cannot be made, is not a directory, or may not be written to: better now than after a minute's work.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(f"the cache cannot be written: {path}: {error.strerror}; choose another `cache`") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise CacheError(f"the cache cannot be written: {path} is read-only for this user; choose another `cache`")


def stale_temporaries(directory: Path) -> list[Path]:
    """Return the temporary files of writers that are dead.

    A temporary file lives for the seconds one write takes. It is a leftover when its process is no longer there, or,
    where that cannot be told (another machine), when nothing has happened to it for an hour.
    """
    stale = []
    for path in sorted(directory.glob("*.tmp")):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None:
            continue
        with suppress(OSError):  # gone already
            age = time.time() - path.stat().st_mtime
            dead = match["host"] == host_name() and not _is_alive(int(match["pid"]))
            # A minute's grace: another container may share the host's name and not its process numbers.
            if age > _ABANDONED_SECONDS or (dead and age > _WRITING_SECONDS):
                stale.append(path)
    return stale


def remove_stale_temporaries(directory: Path) -> None:
    """Remove the temporary files of writers that are dead; see :func:`stale_temporaries`."""
    for path in stale_temporaries(directory):
        with suppress(OSError):  # gone already, or not ours to remove: what is left harms nobody
            path.unlink()


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing happens where it is gone already.

    Raises
    ------
    CacheError
        If it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(f"{path} cannot be removed: {error.strerror}") from error


def _explained(error: OSError, path: Path, size: int | None) -> str:
    if error.errno not in _NO_ROOM:
        return f"{path} cannot be written: {error.strerror}"
    needed = "" if size is None else f"{size:,} bytes needed, "
    return (
        f"no room for {path}: {needed}{shutil.disk_usage(path.parent).free:,} free on the disk "
        f"({error.strerror}); what was finished is kept: make room and run the same command again"
    )


def host_name() -> str:
    """Return the name of this machine, fit for a file name."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname())[:64] or "host"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
