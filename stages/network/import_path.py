"""What a user wrote, by its import path: found in the current folder or among what is installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache.errors import UsageError, suggestion


def import_from_path(
    option: str, path: str, is_candidate: Callable[[Any], bool], suggestions: Callable[[], str] = str
) -> Any:
    """Return the attribute of a module.

    Parameters
    ----------
    option
        Which option names it, for messages.
    path
        ``package.module:attribute``; what follows an ``@`` is for messages alone.
    is_candidate
        Whether a value of the module may have been meant, where the attribute is none.
    suggestions
        Returns what else may have been meant, where there is no such module; by default nothing.

    Raises
    ------
    UsageError
        If there is no such module or attribute, or importing the module raises.
    """
    module_name, _, attribute = path.partition("@")[0].partition(":")
    current_dir = str(Path.cwd())
    if current_dir not in sys.path:
        sys.path.append(current_dir)  # last, so that nothing that lies there stands in for anything installed
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise UsageError(
                f"`{option}` {path}: there is no module {missing!r} in {current_dir}, nor is one "
                f"installed.{suggestions()}"
            ) from error
        raise UsageError(f"`{option}` {path}: importing {module_name!r} raised {error_text(error)}.") from error
    if getattr(module, attribute, None) is None:
        candidates = [name for name, value in vars(module).items() if is_candidate(value)]
        raise UsageError(
            f"`{option}` {path}: {module.__file__ or module_name} has no {attribute!r}."
            f"{suggestion(attribute, candidates)}"
        )
    return getattr(module, attribute)


def error_text(error: Exception) -> str:
    """Return what an exception of the user's code was, in one line without a full stop."""
    return f"{type(error).__name__}: {error}".rstrip(". ").replace("\n", " ")
