"""The TOML file: the same names as the flags, in and out.

One file serves every command: names that a command does not use are left alone, names that nothing uses are refused.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import tomli_w

from cache.atomic_write import write_atomically
from cache.errors import UsageError, did_you_mean
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig
from stages.config.other_words import near_options
from stages.config.version_1 import from_version_1

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OptionGroup = DataConfig | FeatureConfig | HeadConfig | FinetuneConfig
OPTION_GROUPS = (DataConfig, FeatureConfig, HeadConfig, FinetuneConfig)
VERSION = 3
"""Of the names in the file; 2 has `batch_size`, `dropout` and `patience` for those of today, none may be version 1."""


def known_names() -> list[str]:
    """Return every name a configuration file may hold."""
    return [field.name for group in OPTION_GROUPS for field in fields(group)] + ["out", "version"]


def read_configuration(path: Path) -> dict[str, Any]:
    """Return the names and values of a configuration file, checked by :func:`check_configuration`.

    Names and values of older versions become those of today.
    """
    try:
        # a folder's name need not be UTF-8, and comes back as it was
        values: dict[str, Any] = tomllib.loads(path.read_bytes().decode("utf-8", errors="surrogateescape"))
    except FileNotFoundError as error:
        raise UsageError(f"--config {path}: there is no such file") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error  # of `config`, or the one of a run
    values = {name.replace("-", "_"): value for name, value in values.items()}
    return values if values.get("version", 1) == VERSION else from_version_1(values)


def check_configuration(path: Path) -> None:
    """Refuse a file with a name that no option has.

    Raises
    ------
    UsageError
        With the nearest right name.
    """
    for name, value in read_configuration(path).items():
        if name not in known_names():
            raise UsageError(
                f"--config {path}: unknown option {name!r}.{did_you_mean(near_options(name, known_names()))}"
            )
        if isinstance(value, dict):
            raise UsageError(f"--config {path}: {name} is a section; options stand at the top level, as `name = value`")


def write_configuration(path: Path, *groups: OptionGroup) -> dict[str, Any]:
    """Write the resolved options into the file of a run, beside those other commands left there; return them all.

    Options that are unset have no line. The file, given back with ``--config``, repeats the command.
    """
    values = read_configuration(path) if path.exists() else {}
    values["version"] = VERSION
    for group in groups:
        for field in fields(group):
            value = getattr(group, field.name)
            values.pop(field.name, None)
            if value is not None:
                values[field.name] = _plain(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, tomli_w.dumps(values).encode("utf-8", errors="surrogateescape"))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
