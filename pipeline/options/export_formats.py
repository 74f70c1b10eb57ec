"""The files that features leave the cache in, by the endings of their names: known here, where no NumPy is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cache.registry import Registration, Registry


@dataclass(frozen=True)
class ExportFormat(Registration):
    """What a format says of itself.

    Attributes
    ----------
    needs : str
        A module that has to be installed for it.
    install : str
        What pip is told to install, where that is not there.
    """

    needs: str = ""
    install: str = ""


EXPORT_FORMATS = Registry[ExportFormat, Any]("export format", ExportFormat, ["pipeline.library"], option="out")
