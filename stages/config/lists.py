"""Options that take several values: as a list, or in one word with commas or spaces between, wherever they are given.

A word is one item, and never the letters it is made of. Most such options are tuples; those whose words are a language
of their own (``layer3,layer4``) stay one string, in which a list is joined, and say so in their metadata.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import cache
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

from cache.errors import UsageError

JOINED: Mapping[str, Any] = MappingProxyType({"joined": True})
"""Metadata of an option that is one string, and takes several names with commas between."""

_KINDS: dict[Any, str] = {int: "a whole number", float: "a number"}


def split_items(text: str) -> list[str]:
    """Return the items of one word or several: ``"0,1 2"`` has three."""
    return [item for item in re.split(r"[,\s]+", text) if item]


def split_item(text: str, kind: Callable[[str], Any]) -> list[str]:
    """Return the items of what stands in a list already, where a space belongs to a name, as that of a folder."""
    return split_items(text) if kind in _KINDS else [item.strip() for item in text.split(",") if item.strip()]


def join_items(value: Any) -> str:
    """Return what a joined option holds for a string, a list of strings, or one thing that is neither."""
    if isinstance(value, str):
        return value if "," in value else ",".join(value.split())
    return ",".join(map(str, value)) if isinstance(value, Iterable) else str(value)


def list_options(options: type) -> Mapping[str, Callable[[str], Any]]:
    """Return the options of a class that are tuples, by name, each with what makes an item of a word."""
    return _list_options(options)


def joined_options(options: type) -> list[str]:
    """Return the names of the options of a class that are one string and take several names."""
    return [option.name for option in fields(options) if option.metadata.get("joined")]


def take_lists(options: object) -> None:
    """Give the options of an instance that take several values the one form that they have, whatever was given.

    Raises
    ------
    UsageError
        If a word is no number where numbers are taken.
    """
    for name, kind in list_options(type(options)).items():
        object.__setattr__(options, name, tuple(_items(name, getattr(options, name), kind)))
    for option in fields(options):  # type: ignore[arg-type]
        value = getattr(options, option.name)
        if value is None and option.default == "":
            value = ""  # which names nothing
        if option.metadata.get("joined") and value is not None:
            object.__setattr__(options, option.name, join_items(value))


def _items(name: str, value: Any, kind: Callable[[str], Any]) -> Iterable[Any]:
    if isinstance(value, str):
        value = split_items(value)
    for item in value if isinstance(value, Iterable) else [value]:
        for part in split_item(item, kind) if isinstance(item, str) else [item]:
            if not isinstance(part, str):  # a number stays the one that it is
                yield part
                continue
            try:
                yield kind(part)
            except ValueError:
                raise UsageError(f"`{name}` {part!r} must be {_KINDS[kind]}") from None


@cache
def _list_options(options: type) -> Mapping[str, Callable[[str], Any]]:
    hints = get_type_hints(options)
    tuples = {name: get_args(hints[name])[0] for name in hints if get_origin(hints[name]) is tuple}
    return {name: item if item in _KINDS else str for name, item in tuples.items()}
