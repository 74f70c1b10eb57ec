"""Cutonce's packages `cache` and `stages` have names that others use too: whose are found?"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the packages, the repository or site-packages."""


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
        spec = find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).resolve().parent != ROOT / name:
            other_location = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
            raise ImportError(
                f"Cutonce's package {name!r} lies in {ROOT}, but Python finds {other_location or 'none'} in its place. "
                "Rename that, take its folder out of PYTHONPATH, or start from another folder."
            )
