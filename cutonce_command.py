"""The installed command ``cutonce``: sees to it that the package `pipeline` is ours, and starts it.

It stands outside of that package, since what Python finds under so common a name may be somebody else's.
"""

import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> int | None:
    """Run the command; return its exit status."""
    ours, spec = Path(__file__).resolve().parent / "pipeline", find_spec("pipeline")
    if spec is None or spec.origin is None or Path(spec.origin).resolve().parent != ours:
        found = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
        sys.exit(
            f"error: Cutonce's package 'pipeline' lies in {ours.parent}, but Python finds {found or 'none'} in its "
            "place. Rename that, take its folder out of PYTHONPATH, or start from another folder."
        )
    from pipeline.__main__ import main as run

    return run()
