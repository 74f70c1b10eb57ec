"""Bounds of numbers in options."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cache.errors import UsageError, alternatives

_CHOICES: dict[type, list[tuple[str, tuple[str, ...]]]] = {}
"""What `_choices` returns, by type: looking it up takes milliseconds."""


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
    for name, choices in _CHOICES[kind]:
        value = getattr(options, name)
        for word in value if isinstance(value, tuple) else (value,):
            if word is not None and word not in choices:
                raise UsageError(f"`{name}` {word!r} is not one that there is.{alternatives(str(word), choices)}")


def _choices(options: type) -> list[tuple[str, tuple[str, ...]]]:
    """Return the options whose type is a ``Literal``, or a tuple of one or an optional one, with its words."""
    choices_by_option = {name: tuple(_literal_words(kind)) for name, kind in get_type_hints(options).items()}
    return [(name, choices) for name, choices in choices_by_option.items() if choices]


def _literal_words(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [word for word in get_args(kind) if isinstance(word, str)]
    return [word for part in get_args(kind) for word in _literal_words(part)]
