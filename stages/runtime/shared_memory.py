"""How many processes that load images the shared memory has room for: containers often have little of it."""

from __future__ import annotations

import shutil
from pathlib import Path

_SHARED = Path("/dev/shm")
_BATCHES = 3
"""Of each process: torch has two ready ahead, and one is on its way or being used."""


def free_shared_memory() -> int | None:
    """Return the free bytes of what processes hand each other tensors in; None where that is not a file system."""
    return shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else None


def loaders_that_fit(wanted: int, batch_bytes: int, sharing: int = 1) -> int:
    """Return how many loading processes there is room for, at most `wanted`; 0 if their batches would not fit.

    A process that writes beyond it is ended by the system, which tells nobody why.

    Parameters
    ----------
    batch_bytes
        Of one batch.
    sharing
        Processes on this machine that each want as many.
    """
    free = free_shared_memory()
    return wanted if free is None else min(wanted, free // sharing // (_BATCHES * batch_bytes))
