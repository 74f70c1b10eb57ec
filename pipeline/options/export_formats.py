"""The files in which features and trained models leave, by their endings: known here, where no NumPy is."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cache.errors import UsageError
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
    if known.needs:
        try:
            import_module(known.needs)
        except ImportError as error:
            raise UsageError(f"a {ending} file needs {known.needs}: pip install '{known.install}'") from error
    return write


def model_format_names() -> dict[str, str]:
    """Return the endings of files of models by what the option `format` calls each."""
    return {MODEL_FORMATS.find(ending).called or ending.lstrip("."): ending for ending in MODEL_FORMATS.names()}
