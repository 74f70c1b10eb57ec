"""The ways in which a shard may store its rows, by their names: what the options know of them, where no HDF5 is.

How each stores and reads rows is in :mod:`cache.shard_layout`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cache.errors import UsageError
from cache.registry import Registration, Registry


@dataclass(frozen=True)
class CacheFormat(Registration):
    """What a way of storing rows says of itself.

    Attributes
    ----------
    writes : bool
        Whether it can be asked for; others are only read, as other tools made them.
    aligned : bool
        Whether rows begin at a page of the file, so that they can be mapped.
    """

    writes: bool = True
    aligned: bool = False


CACHE_FORMATS = Registry[CacheFormat, Any]("cache format", CacheFormat, ["cache"], option="compression")


def require_writable(name: str) -> None:
    """Refuse what no rows can be stored as; nothing is imported.

    Raises
    ------
    UsageError
        With what there is.
    """
    CACHE_FORMATS.require_known(name)
    if name in CACHE_FORMATS.known and not CACHE_FORMATS.known[name].writes:
        writable = [known.name for known in CACHE_FORMATS.known.values() if known.writes]
        raise UsageError(f"`compression` {name} is only read, never written; choose from {', '.join(writable)}")


def describe_formats() -> str:
    """Return what rows can be stored as, for the help of options; nothing is imported."""
    described = zip(CACHE_FORMATS.names(), CACHE_FORMATS.named_help_texts(), strict=True)
    unwritable = {known.name for known in CACHE_FORMATS.known.values() if not known.writes}
    return ", ".join(text for name, text in described if name not in unwritable)
