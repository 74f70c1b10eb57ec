"""Who writes into a folder while others would like to."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LOG = logging.getLogger("cutonce")


@contextmanager
def locked(directory: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a folder, which the system takes back from who is killed.

    Where folders have no locks (Windows, some network file systems) there is none.

    Parameters
    ----------
    directory
        Is made where it is missing.
    wait
        For another command that holds it.

    Raises
    ------
    BlockingIOError
        If another command holds it, and nobody waits.
    """
    with ExitStack() as held:
        if fcntl is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(directory, os.O_RDONLY)
                held.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                held.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)  # processes forked meanwhile have it open, too
            except BlockingIOError:
                raise
            except OSError as error:  # who may not write there is told when something is written
                _LOG.debug("%s has no lock: %s", directory, error.strerror)
        yield
