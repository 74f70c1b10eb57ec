"""Bounds of numbers in options."""

from __future__ import annotations

from cache.errors import UsageError


def require_at_least(options: object, bounds: dict[str, float]) -> None:
    """Refuse a number, or one of several, below its bound; None, which stands for a default, has none."""
    for name, least in bounds.items():
        value = getattr(options, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(number is not None and not number >= least for number in numbers):
            raise UsageError(f"`{name}` {value} must be at least {least:g}")
