"""Progress bars: rate and time left on anything over two seconds, silence where nobody watches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def progress(iterable: Iterable[Any] | None = None, *, label: str, total: int | None = None, unit: str = "it") -> Any:
    """Return a tqdm bar that appears after two seconds, and never where standard error is not a terminal."""
    return tqdm(
        iterable, desc=label, total=total, unit=f" {unit}", delay=2, disable=None, leave=False, dynamic_ncols=True
    )
