"""Where the images of a table are: paths as people and programs of other systems write them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cache.errors import DataError
from stages.data.sources.table_file import from_code_page

_UNUSUAL = re.compile(r"^~|^\s|\s$|\\|://|^[A-Za-z]:|[\udc80-\udcff]")
"""Paths that may mean another file than they say; only of these it is looked whether there is one."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")

_READINGS: dict[str, Callable[[str], str]] = {
    "blanks at the ends were left out": str.strip,
    "back-slashes, as on Windows, were read as slashes": lambda path: path.replace("\\", "/"),
    "~ was read as the home folder": os.path.expanduser,
    "what is not UTF-8 was read as code page 1252": from_code_page,
}
"""What may be done to a path that is no file as it is written, one after the other, and what is said of it."""


class TablePaths:
    """Makes locations of the paths in a table, and counts what was done to them.

    Parameters
    ----------
    folder : Path
        Where relative paths start: that of the table.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: Counter[str] = Counter()

    @property
    def notes(self) -> list[str]:
        """How paths were read, in words, where it is not as they are written."""
        return [f"{words} in {self._counts[words]:,} of the paths" for words in _READINGS if self._counts[words]]

    def location(self, path: str, line: str) -> str:
        """Return where an image is; of what is no file in any reading, as it is written.

        Parameters
        ----------
        path : str
            As it stands in the table.
        line : str
            Where that is, in words.

        Raises
        ------
        DataError
            If it is a URL, or the place of a file on a Windows machine and none here.
        """
        location = str(self._folder / path)
        if not _UNUSUAL.search(path) or os.path.lexists(location):
            return location
        if _URL.match(path):
            raise DataError(f"{line}: {path} is a URL: download the images, and let the paths name the files")
        applied = []
        reading = path
        for words, change in _READINGS.items():
            changed = change(reading)
            if changed != reading:
                reading = changed
                applied.append(words)
                if os.path.lexists(self._folder / reading):
                    self._counts.update(applied)
                    return str(self._folder / reading)
        if os.name != "nt" and _OF_WINDOWS.match(path):
            raise DataError(
                f"{line}: {path} is a place on a Windows machine, and there is no such file here: write paths from the "
                f"folder of the table on ({self._folder})"
            )
        # the home folder is said, so that a message shows where there is nothing
        return str(self._folder / Path(path).expanduser()) if path.startswith("~") else location
