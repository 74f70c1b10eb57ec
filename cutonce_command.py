"""The installed command ``cutonce``, and the question whose packages Python finds.

It stands outside of the packages `pipeline`, `cache` and `stages`, since what Python finds under names so common may be
somebody else's.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent
"""The folder that holds the packages, the repository or site-packages."""


def require_own_package(name: str) -> None:
    """Refuse to go on with a package of somebody else.

    Raises
    ------
    ImportError
        If Python finds another one before that which belongs to this command.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None or Path(spec.origin).resolve().parent != ROOT / name:
        other_location = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
        raise ImportError(
            f"Cutonce's package {name!r} lies in {ROOT}, but Python finds {other_location or 'none'} in its place. "
            "Rename that, take its folder out of PYTHONPATH, or start from another folder."
        )


def main() -> int | None:
    """Run the command; return its exit status."""
    try:
        require_own_package("pipeline")
    except ImportError as error:
        sys.exit(f"error: {error}")
    from pipeline.__main__ import main as run

    return run()
