"""Command lines to copy: what a person types to go on from here with the same options."""

from __future__ import annotations

import shlex
from dataclasses import MISSING, fields
from typing import Any

from pipeline.options.toml_file import OptionGroup


def invocation(command: str, *groups: OptionGroup, **changed: object) -> str:
    """Return ``cutonce COMMAND`` with the options that differ from their defaults.

    Parameters
    ----------
    groups
        The option classes; each option of theirs that has another value than by default becomes a flag.
    changed
        Options with other values than there, or of the command's own, such as ``out``.
    """
    values = {
        field.name: getattr(group, field.name)
        for group in groups
        for field in fields(group)
        if field.default is MISSING or getattr(group, field.name) != field.default
    }
    arguments = [word for name, value in {**values, **changed}.items() for word in _flag(name, value)]
    return shlex.join(["cutonce", command, *arguments])


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag] if value else []
    return [flag, *map(str, value if isinstance(value, tuple) else [value])]
