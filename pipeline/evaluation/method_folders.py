"""The folders of methods in a run: a folder is put in its place when all of it is written, and not before.

A method is written into a folder beside those of the seeds, where no list of methods looks. A folder takes the place of
another one in two steps, and who is killed between them leaves none. Whoever looks for methods next, to read or to
write, puts the former one back.

Commands that write methods of one run at once do so one after the other: the folder of the run is locked meanwhile.

A file of a method is never written to, but replaced: so two methods that have the same model may have one file of it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.atomic_write import atomic_path, sync
from cache.errors import CacheError, DataError
from cache.kept import keep_file
from pipeline.evaluation.folder_lock import locked
from pipeline.run_layout import RESULT, fresh_dir, methods_with, replaced_dir, replaced_from

_TAKEN = {errno.ENOTEMPTY, errno.EEXIST}


def files_of_methods(run: Path, name: str) -> list[Path]:
    """Return the files of that name in the folders of the methods, in the order of their paths.

    Raises
    ------
    DataError
        If a method was about to be replaced when a command was killed, and cannot be put back.
    """
    listed: list[Path] | None = None
    while True:
        for directory in replaced_from(run):
            put_back(directory)
        before, listed = listed, methods_with(run, name)
        if listed == before:  # twice, since one may just then have been replaced
            return listed


def put_back(directory: Path) -> None:
    """Put a method back that a command was about to replace when it was killed, if there is one.

    Raises
    ------
    DataError
        If it cannot be moved.
    """
    replaced = replaced_dir(directory)
    if directory.exists() or not replaced.exists():
        return
    try:
        replaced.rename(directory)
    except OSError as error:
        if directory.exists() or not replaced.exists():  # it was about to be replaced by a command that is at work
            return
        raise DataError(
            f"a command was killed when it was about to replace {directory}: rename {replaced} to that, which this "
            f"user cannot ({error.strerror})"
        ) from error


def folder_identity(directory: Path) -> tuple[int, int] | None:
    """Return what tells the folder of a method from the one that takes its place; None where no method stands."""
    put_back(directory)
    try:
        status = directory.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


@contextmanager
def made_whole(directory: Path) -> Iterator[Path]:
    """Have a method written into a folder beside that of the seed, which takes the place of `directory` in the end.

    Until then what stands there stays, whatever ends this: it may be the method that the run says to take. Everything
    of a method is written so, in one block; what stands in `directory` and is not written anew is gone afterwards.

    Raises
    ------
    DataError
        If what an earlier command has left cannot be put back.
    CacheError
        If the folder cannot be put in its place.
    """
    fresh, replaced = fresh_dir(directory), replaced_dir(directory)
    with locked(fresh.parent):
        put_back(directory)
        for leftover in (fresh, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            fresh.mkdir(parents=True)
            yield fresh
            _take_place(fresh, directory, replaced)
        except BaseException as error:
            shutil.rmtree(fresh, ignore_errors=True)
            with suppress(DataError):
                put_back(directory)
            if isinstance(error, OSError):
                raise CacheError(f"{directory} cannot be written: {error.strerror}") from error
            raise
        with suppress(OSError):
            replaced.rename(fresh)  # half of it is never put back, whoever is killed while it is removed
        shutil.rmtree(fresh, ignore_errors=True)
    if (directory / RESULT).exists():
        keep_file("result", directory / RESULT)


def remove_method(directory: Path) -> None:
    """Take a method out of the run, if it is there: at once, so that nobody sees a part of it.

    Raises
    ------
    CacheError
        If the folder cannot be moved.
    """
    fresh = fresh_dir(directory)
    with locked(fresh.parent):
        put_back(directory)
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            directory.rename(fresh)
        except FileNotFoundError:
            return
        except OSError as error:
            raise CacheError(f"{directory} cannot be taken away: {error.strerror}") from error
        sync(directory.parent)
        shutil.rmtree(fresh, ignore_errors=True)


def share_file(file: Path, name: Path) -> None:
    """Give a file of a method another name in the folder of another one; a copy where file systems have one name each.

    Kernel machines hold hundreds of megabytes.
    """
    if name.exists() and name.samefile(file):  # to rename a file to another name of it leaves both
        return
    with atomic_path(name) as temporary:
        temporary.unlink()
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copyfile(file, temporary)


def _take_place(fresh: Path, directory: Path, replaced: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    while fresh.exists():
        if directory.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            directory.rename(replaced)
        try:
            fresh.rename(directory)
        except OSError as error:
            if error.errno not in _TAKEN:  # else who reads the run has just put the former one back
                raise
    sync(directory.parent)
    sync(fresh.parent)
