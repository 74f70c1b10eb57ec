"""The exception tree of Cutonce, at the bottom of the house so that every room can raise it.

A message says what was wrong, with which file or option, and what to do about it. The command line prints
the message alone and exits with :attr:`CutonceError.exit_code`; a traceback means a defect in Cutonce.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MANY = 12
"""Names that a message lists where one of them is likely to be meant; of more it says where they are listed."""


class CutonceError(Exception):
    """Something failed that the user can do something about (exit code 1)."""

    exit_code = 1


class UsageError(CutonceError, ValueError):
    """An option, a name or a combination of options that cannot be right (exit code 2)."""

    exit_code = 2


class DataError(CutonceError, ValueError):
    """Images, labels or splits that cannot be used as they are."""


class WeightsError(CutonceError, ValueError):
    """Weights that are missing, unreadable, or do not fit the network.

    A ``ValueError``, those that cannot be downloaded included: an argument asked for weights that cannot be had here,
    and another one (a file, an embedded backbone, the original weights) is what helps.
    """


class CacheError(CutonceError):
    """A feature cache that is damaged or cannot be read, or a file of a cache or a run that cannot be written.

    No ``ValueError``: what was asked for was right, and the disk is not.
    """


class CacheInputError(CacheError, ValueError):
    """What a feature cache is asked for and has not, or is given and cannot take.

    Keys without a row, a folder without a cache, a number that no view has, rows of another shape. A ``ValueError``:
    after other arguments, or an extraction, the same disk answers.
    """


class NonFiniteRowsError(CacheInputError):
    """Rows with NaN or infinity, or with numbers that their storage type does not hold; none of them is stored.

    Attributes
    ----------
    keys : list of str
        Of the rows.
    overflow : bool
        Whether the numbers are finite, and too large for the storage type.
    """

    def __init__(self, message: str, keys: Sequence[str], *, overflow: bool) -> None:
        super().__init__(message)
        self.keys = list(keys)
        self.overflow = overflow


class BrokenShardError(CacheError):
    """A shard that is damaged, incomplete, or not what a shard may be; none of its rows can be trusted."""


def listed(names: Sequence[str], limit: int = 5, separator: str = ", ") -> str:
    """Return the first names and how many more there are: ``"a, b and 3 more"``, or ``"a; b; and 3 more"``."""
    more = f"{separator.rstrip(', ')} and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(names[:limit]) + more


def nearest(name: str, known: Iterable[str], *, limit: int = 3) -> list[str]:
    """Return the known names that are near to `name` in spelling, the nearest first, each once."""
    return difflib.get_close_matches(name, list(dict.fromkeys(known)), n=limit, cutoff=0.6)


def did_you_mean(names: Sequence[str]) -> str:
    """Return ``" Did you mean 'a' or 'b'?"``, or an empty string where there are no names."""
    return f" Did you mean {' or '.join(map(repr, names))}?" if names else ""


def alternatives(name: str, known: Iterable[str], *, listed_by: str = "", otherwise: str = "") -> str:
    """Return what there is in place of a name that there is not: the nearest first, then all.

    ``" Did you mean 'a' or 'b'? There are a, b and c."``, from the space on.

    Parameters
    ----------
    name
        As it was given.
    known
        The names that there are.
    listed_by
        What lists all of them, ``the help of `head` ``: named in their place where they are many and one is near.
    otherwise
        What else may be given, as the end of the list.
    """
    names = list(dict.fromkeys(known))
    near = suggestion(name, names)
    if near and listed_by and len(names) > MANY:
        return f"{near} {listed_by} lists all {len(names)}{otherwise}."
    return f"{near} There {'is' if len(names) == 1 else 'are'} {', '.join(names) or 'none'}{otherwise}."


def suggestion(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Return ``" Did you mean 'a' or 'b'?"`` for the known names nearest to `name`, or an empty string."""
    return did_you_mean(nearest(name, known, limit=limit))
