"""Whether an image is still the one that its key is of: between the two, a file may change."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from cache.keys import is_older, key_of_file
from stages.data.sources.in_memory import InMemoryImage
from stages.data.sources.registry import opener_of
from stages.data.sources.tiles import tile_key
from stages.data.sources.video import key_of_frame, split_frame
from stages.tasks.tiles import split_name


def holds_key(location: str, key: str, known_ns: int = 0) -> bool:
    """Return whether an image is there and has its key still; of what is in no file it is said without a look.

    Parameters
    ----------
    location, key : str
        Of an image, a tile of one, or a frame of a video.
    known_ns : int
        When it had the key, in nanoseconds: a file that is older by its times is not read. 0 where that is not known.
    """
    if _is_older(location, known_ns):  # most are files, and old: that is all they cost
        return True
    path, key_in_it = _in_file(location)
    if path is None or (path != location and _is_older(path, known_ns)):
        return True
    try:
        if path == location:
            return key_of_file(path) == key
        status = Path(path).stat()
        return key_in_it(_key_of(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)) == key
    except OSError:
        return False


def file_of(location: str) -> str | None:
    """Return the file that an image is in; None where it is in none."""
    return _in_file(location)[0]


def _in_file(location: str) -> tuple[str | None, Callable[[str], str]]:
    """Return the file that an image is in, and what makes the key of the image of that of the file."""
    if isinstance(location, InMemoryImage):
        return None, str
    if (tile := split_name(location)) is not None:
        whole, box = tile
        path, key_of_whole = _in_file(whole)
        return path, lambda key: tile_key(key_of_whole(key), box)
    if (frame := split_frame(location)) is not None:
        return frame[0], lambda key: key_of_frame(key, frame[1])
    return (location if opener_of(location) is None else None), str


def _is_older(path: str, known_ns: int) -> bool:
    try:
        return known_ns > 0 and is_older(path, known_ns)
    except (OSError, ValueError):  # no file is called so
        return False


@lru_cache(maxsize=64)
def _key_of(path: str, *_times: int) -> str:
    """Return the key of a file, which is read once for all its tiles or frames that are asked about in turn."""
    return key_of_file(path)
