"""Packages that a format or a tracker needs beside those that come with this one."""

from __future__ import annotations

from importlib import import_module

from cache.errors import UsageError


def require_installed(what: str, needs: str, install: str) -> None:
    """Refuse what needs a package that is not installed.

    Parameters
    ----------
    what : str
        In words: ``a .onnx file``.
    needs : str
        Modules, separated by spaces.
    install : str
        What pip is told to install, separated by spaces.

    Raises
    ------
    UsageError
        That names the first module that is missing, and how to have all.
    """
    for module in needs.split():
        try:
            import_module(module)
        except ImportError as error:
            packages = " ".join(f"'{package}'" for package in install.split())
            raise UsageError(f"{what} needs {module}: pip install {packages}") from error
