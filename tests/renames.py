"""What gives files another name in a process, taken over by tests; pathlib of Python 3.10 has kept it for itself."""

import os
import pathlib
from collections.abc import Callable
from typing import Any


def take_over(name: str, function: Callable[..., Any], set_attribute: Callable[..., None] = setattr) -> None:
    """Put a function in the place of `os.rename` or `os.replace`, wherever that is called from."""
    set_attribute(os, name, function)
    kept = getattr(pathlib, "_NormalAccessor", None)
    if kept is not None:
        set_attribute(kept, name, staticmethod(function))
