"""The files in which features and trained models leave, by their endings: known here, where no NumPy is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.errors import UsageError
from cache.registry import Registration, Registry
from pipeline.options.installed import require_installed


@dataclass(frozen=True)
class ExportFormat(Registration):
    """What a format says of itself.

    Attributes
    ----------
    needs : str
        Modules that have to be installed for it, separated by spaces.
    install : str
        What pip is told to install, separated by spaces, where one is not there.
    called : str
        What an option calls it, where that is not its ending.
    """

    needs: str = ""
    install: str = ""
    called: str = ""


MODEL_FORMATS = Registry[ExportFormat, Any](
    "model format", ExportFormat, ["pipeline.library", "pipeline.export"], option="path"
)

EXPORT_FORMATS = Registry[ExportFormat, Any]("export format", ExportFormat, ["pipeline.library"], option="out")


def writer_of(formats: Registry[ExportFormat, Any], path: Path) -> Any:
    """Return what writes such a file, having seen to it that it can.

    Raises
    ------
    UsageError
        If no format has the ending, or a package that it needs is not installed.
    """
    ending = path.suffix.lower()
    if ending not in formats.names():
        raise UsageError(f"{path} has to end with one of {', '.join(sorted(formats.names()))}")
    write, known = formats.get(ending), formats.known[ending]
    require_installed(f"a {ending} file", known.needs, known.install)
    return write


def model_format_names() -> dict[str, str]:
    """Return the endings of files of models by what the option `format` calls each."""
    return {MODEL_FORMATS.find(ending).called or ending.lstrip("."): ending for ending in MODEL_FORMATS.names()}
