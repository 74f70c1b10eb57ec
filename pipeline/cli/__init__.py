"""One module per command, with the function of the same name: they parse, call and print. Nobody imports them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

COMMANDS = (
    *("run", "best", "zoo", "list-cuts", "probe-layers", "inspect", "learning-curve", "contact-sheet"),
    *("extract", "train", "lr-find", "finetune", "ensemble", "compare", "evaluate", "predict", "export"),
)
"""As they are typed; the function of a command, and its module, have an underscore where it has a hyphen."""


def command_function(command: str) -> Callable[..., Any]:
    """Return the function of a command."""
    name = command.replace("-", "_")
    function: Callable[..., Any] = getattr(import_module(f"pipeline.cli.{name}"), name)
    return function
