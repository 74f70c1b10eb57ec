"""What this process has finished and put on disk: what a command that is stopped can say it leaves to the next one.

It lies in this room because the shards of the cache are a part of it, and the cache imports no other room.
"""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

_KEPT: Counter[str] = Counter()
_PATHS: set[tuple[str, Path]] = set()
_LOCK = threading.Lock()  # shards are written by threads of their own


def keep(what: str, count: int = 1) -> None:
    """Note that things are on disk for good.

    Parameters
    ----------
    what
        What one of them is called: ``row of features``.
    count
        How many.
    """
    with _LOCK:
        _KEPT[what] += count


def keep_file(what: str, path: Path) -> None:
    """Note that a thing is on disk for good, which counts once, however often it is replaced."""
    with _LOCK:
        _KEPT[what] += (what, path) not in _PATHS
        _PATHS.add((what, path))


def drop_file(what: str, path: Path) -> None:
    """Note that a thing is not there any more."""
    with _LOCK:
        _KEPT[what] -= (what, path) in _PATHS
        _PATHS.discard((what, path))


def kept_words() -> str:
    """Return what was kept since the last `forget_kept`: ``"90 rows of features, 2 results"``; '' where nothing was."""
    with _LOCK:
        return ", ".join(f"{count:,} {_plural(what) if count != 1 else what}" for what, count in _KEPT.items() if count)


def forget_kept() -> None:
    """Begin anew, with nothing kept: another command begins in the same process."""
    with _LOCK:
        _KEPT.clear()
        _PATHS.clear()


def _plural(what: str) -> str:
    first, _, rest = what.partition(" ")
    return f"{first}s {rest}".rstrip()
