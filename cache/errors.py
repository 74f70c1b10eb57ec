"""The exception tree of Cutonce, at the bottom of the house so that every room can raise it.

A message says what was wrong, with which file or option, and what to do about it. The command line prints
the message alone and exits with :attr:`CutonceError.exit_code`; a traceback means a defect in Cutonce.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class CutonceError(Exception):
    """Something failed that the user can do something about (exit code 1)."""

    exit_code = 1


class UsageError(CutonceError, ValueError):
    """An option, a name or a combination of options that cannot be right (exit code 2)."""

    exit_code = 2


class DataError(CutonceError, ValueError):
    """Images, labels or splits that cannot be used as they are."""


class WeightsError(CutonceError):
    """Weights that are missing, unreadable, or do not fit the network."""


class CacheError(CutonceError):
    """A feature cache that cannot be read or written as asked."""


class BrokenShardError(CacheError):
    """A shard that is damaged, incomplete, or not what a shard may be; none of its rows can be trusted."""


def suggestion(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Return ``" Did you mean 'a' or 'b'?"`` for the known names nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(one) for one in near)}?" if near else ""


def listed(names: Sequence[str], limit: int = 3, *, separator: str = ", ") -> str:
    """Return the first names, and how many more there are: ``a, b, c and 4 more``."""
    more = f"{separator.rstrip(', ')} and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(names[:limit]) + more
