"""Progress bars: rate and time left on anything over two seconds, silence where nobody watches or nobody asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

_SHOWN: ContextVar[bool] = ContextVar("progress bars are shown", default=False)


@contextmanager
def progress_bars(shown: bool = True) -> Iterator[None]:
    """Show progress bars, or none, as long as the block runs: in this thread or task, not in others.

    A library draws nothing that it was not asked for; the commands ask for it once.
    """
    token = _SHOWN.set(shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def progress(iterable: Iterable[Any] | None = None, *, label: str, total: int | None = None, unit: str = "it") -> Any:
    """Return a tqdm bar, which appears after two seconds, if bars are shown."""
    shown = _SHOWN.get()
    bar = import_module("tqdm.auto" if shown else "tqdm").tqdm  # in a notebook the former looks for widgets
    return bar(
        iterable,
        desc=label,
        total=total,
        unit=f" {unit}",
        delay=2,
        disable=not shown,
        leave=False,
        dynamic_ncols=True,
    )
