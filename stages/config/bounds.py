"""Bounds of numbers in options."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from cache.errors import UsageError


def require(name: str, value: Any, what: str, holds: Callable[[float], bool]) -> None:
    """Refuse a number, or one of several, that does not hold; None, which stands for a default, always does.

    Raises
    ------
    UsageError
        That says `what` the option has to be.
    """
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(number is None or holds(number) for number in numbers):
        text = f"{value:g}" if isinstance(value, (int, float)) else value
        raise UsageError(f"`{name}` {text} must be {what}")


def is_share(number: float) -> bool:
    """Whether a number lies between 0 and 1, neither included."""
    return 0 < number < 1


def require_at_least(options: object, bounds: dict[str, float]) -> None:
    """Refuse a number, or one of several, below its bound; None, which stands for a default, has none."""
    for name, least in bounds.items():
        require(name, getattr(options, name), f"at least {least:g}", partial(operator.le, least))
