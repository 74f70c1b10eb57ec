"""Cutonce's packages `cache` and `stages` have names that others use too: whose are found?"""

from __future__ import annotations

import sys
from pathlib import Path

from cutonce_command import ROOT, require_own_package


def search_working_folder_last() -> None:
    """Let the working folder, which ``python -m`` searches first, be searched last: what is in it is the user's.

    A folder `cache` there, or a file `data.py`, then stands in for nobody's module, and a head of the user's own is
    still found.
    """
    first = Path(sys.path[0] or ".").resolve()
    if first == Path.cwd().resolve() != ROOT:
        sys.path.append(sys.path.pop(0))


def require_own_packages() -> None:
    """Refuse to go on with the packages of somebody else.

    Raises
    ------
    ImportError
        If Python finds another `cache` or `stages` before those that belong to this one.
    """
    for name in ("cache", "stages"):
        require_own_package(name)
