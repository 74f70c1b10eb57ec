"""What options may be: of which kind, which words, numbers within which bounds."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from functools import partial
from math import isnan
from numbers import Integral, Real
from os import PathLike, fsdecode
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cache.errors import UsageError, alternatives

_CHOICES: dict[type, list[tuple[str, tuple[str, ...], bool]]] = {}
"""What `_choices` returns, by type: looking it up takes milliseconds."""

_KINDS: dict[type, list[tuple[str, Any, bool]]] = {}
"""What `_kinds` returns, by type."""

_OTHER = object()
"""Stands for a value of another kind than an option is of."""

_NO_WORD: tuple[Any, ...] = (NoneType, bool, float, Iterable, Callable)
"""What no word tells, as one does a number of a page, or a device of torch."""


def require(name: str, value: Any, what: str, holds: Callable[[float], bool]) -> None:
    """Refuse a number, or one of several, that does not hold; None, which stands for a default, always does.

    Raises
    ------
    UsageError
        That says `what` the option has to be; of what is no number, as Python lets anything be, that it must be one.
    """
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if number is not None and not isinstance(number, Real):
            raise UsageError(f"`{name}` {number!r} must be a number")
    if not all(number is None or holds(number) for number in numbers):
        text = f"{value:g}" if isinstance(value, (int, float)) else value
        raise UsageError(f"`{name}` {text} must be {what}")


def is_share(number: float) -> bool:
    """Whether a number lies between 0 and 1, neither included."""
    return 0 < number < 1


def take_kinds(options: object) -> None:
    """Give the options of an instance the types that they have, whatever of that kind was given: Python checks none.

    A whole number may be one of NumPy, or a float without a fraction; a path may be text, and text a path, a number, or
    a device of torch. None is taken where it stands for a default.

    Raises
    ------
    UsageError
        If one is of another kind; names it, and the kind.
    """
    kind_of_options = type(options)
    if kind_of_options not in _KINDS:
        _KINDS[kind_of_options] = _kinds(kind_of_options)
    for name, kind, is_optional in _KINDS[kind_of_options]:
        value = getattr(options, name)
        if value is None and is_optional:
            continue
        parts = value if isinstance(value, tuple) else (value,)
        taken = tuple(_TAKEN[kind][1](part) for part in parts)
        for part, given in zip(taken, parts, strict=True):
            if part is _OTHER:
                raise UsageError(f"`{name}` {given!r} must be {_TAKEN[kind][0]}")
        object.__setattr__(options, name, taken if isinstance(value, tuple) else taken[0])


def require_at_least(options: object, bounds: dict[str, float]) -> None:
    """Refuse a number, or one of several, below its bound; None, which stands for a default, has none."""
    for name, minimum in bounds.items():
        require(name, getattr(options, name), f"at least {minimum:g}", partial(operator.le, minimum))


def require_choices(options: object) -> None:
    """Refuse words that options do not know, where their type lists those they do: Python itself does not.

    Raises
    ------
    UsageError
        That names the option, and the words it takes.
    """
    kind = type(options)
    if kind not in _CHOICES:
        _CHOICES[kind] = _choices(kind)
    for name, choices, may_be_none in _CHOICES[kind]:
        value = getattr(options, name)
        if value is None and may_be_none:
            continue
        for word in value if isinstance(value, tuple) else (value,):
            if not isinstance(word, str) or word not in choices:
                raise UsageError(f"`{name}` {word!r} is not one that there is.{alternatives(str(word), choices)}")


def _choices(options: type) -> list[tuple[str, tuple[str, ...], bool]]:
    """Return the options whose type is a ``Literal``, or a tuple of one or an optional one, with its words.

    And whether they may be None.
    """
    hints = get_type_hints(options)
    words = {name: tuple(_literal_words(hint)) for name, hint in hints.items()}
    return [(name, words[name], NoneType in get_args(hint)) for name, hint in hints.items() if words[name]]


def _literal_words(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [word for word in get_args(kind) if isinstance(word, str)]
    return [word for part in get_args(kind) for word in _literal_words(part)]


def _whole_number(value: Any) -> Any:
    number = _number(value)
    return int(number) if number is not _OTHER and float(number).is_integer() else _OTHER


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Real) or isnan(value):
        return _OTHER
    return int(value) if isinstance(value, Integral) else float(value)


def _truth_value(value: Any) -> Any:
    return bool(value) if isinstance(value, Integral) or type(value).__name__ == "bool" else _OTHER


def _text(value: Any) -> Any:
    if isinstance(value, str | PathLike):
        return str(fsdecode(value))
    return _OTHER if isinstance(value, _NO_WORD) else str(value)


def _path(value: Any) -> Any:
    return Path(fsdecode(value)) if isinstance(value, str | PathLike) and str(value) else _OTHER


_TAKEN: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    int: ("a whole number", _whole_number),
    float: ("a number", _number),
    bool: ("True or False", _truth_value),
    str: ("text", _text),
    Path: ("a path", _path),
}
"""Types of options: what a value has to be in words, and what takes one, or returns `_OTHER`."""


def _kinds(options: type) -> list[tuple[str, Any, bool]]:
    """Return the options of a type in `_TAKEN`, of a tuple of one, or of one or None; and whether it may be None."""
    kinds = []
    for name, hint in get_type_hints(options).items():
        several = get_args(hint)[:1] if get_origin(hint) is tuple else get_args(hint)
        parts = [part for part in several if part is not NoneType] or [hint]
        if len(parts) == 1 and parts[0] in _TAKEN:
            kinds.append((name, parts[0], NoneType in get_args(hint)))
    return kinds
