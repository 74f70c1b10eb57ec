"""The tools that a run can be written into: known here, where none of them is imported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from cache.errors import UsageError
from cache.registry import Registration, Registry


@dataclass(frozen=True)
class TrackerKind(Registration):
    """What a tracker says of itself.

    Attributes
    ----------
    needs : str
        Modules that have to be installed for it, separated by spaces.
    install : str
        What pip is told to install, where one is not there.
    """

    needs: str = ""
    install: str = ""


TRACKERS = Registry[TrackerKind, Any]("tracker", TrackerKind, ["pipeline.tracking"], option="track")


def require_tracker(name: str | None) -> None:
    """Refuse a tracker that there is not, or whose library is not installed.

    Raises
    ------
    UsageError
        That names the library.
    """
    if name is None:
        return
    kind = TRACKERS.find(name)
    for module in kind.needs.split():
        try:
            import_module(module)
        except ImportError as error:
            raise UsageError(f"`track` {name} needs {module}: pip install {kind.install}") from error
