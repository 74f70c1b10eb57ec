"""The tools that a run can be written into: known here, where none of them is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cache.registry import Registration, Registry
from pipeline.options.installed import require_installed


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
    require_installed(f"`track` {name}", kind.needs, kind.install)
