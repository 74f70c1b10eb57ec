"""Where this program keeps what belongs to a user and to no data set: files that can be fetched or made again."""

from __future__ import annotations

from pathlib import Path


def user_cache_folder() -> Path:
    """Return the folder of this program among the user's caches; it need not exist."""
    return Path("~/.cache/cutonce").expanduser()
