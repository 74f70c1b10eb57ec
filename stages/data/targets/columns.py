"""What is said of the samples that may be a target, as text, and what such text may mean."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cache.errors import listed
from stages.data.masks.class_table import ClassTable
from stages.data.masks.mask_classes import MaskClasses

NAMED_AT_MOST = 10
"""Most rows that a message names."""

_MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none"})
"""What stands, in small letters, where nothing is known: as spreadsheets and pandas write it."""

_TRUTH = {"1": True, "0": False, "1.0": True, "0.0": False} | {"true": True, "false": False, "yes": True, "no": False}

_CODE = re.compile(r"[+-]?0\d+")
"""A number that is written as nobody writes a quantity: zip codes and numbers of parts."""


@dataclass(frozen=True)
class TargetColumns:
    """The cells of the samples that hold their targets.

    Attributes
    ----------
    values : dict of str to list of str
        By the names of the columns; of a source without any, one that is called label.
    locations : list of str
        Where the image of each sample is.
    lines : list of int
        The line of each in its table; empty where they are in none.
    data : str
        What was asked for.
    in_table : bool
        Whether somebody wrote them into a table: classes of folders and data sets are what they are.
    is_named : bool
        Whether the columns were chosen for what they hold, and are not just there.
    class_names : tuple of str
        The classes in the order of the source, where the values are classes.
    class_table : ClassTable or None
        What the source says of the classes of masks, where the values are such.
    mask_classes : MaskClasses or None
        Which classes masks hold, where that is settled already.
    """

    values: dict[str, list[str]]
    locations: list[str]
    lines: list[int]
    data: str
    in_table: bool
    is_named: bool
    class_names: tuple[str, ...]
    class_table: ClassTable | None = None
    mask_classes: MaskClasses | None = None

    def rows(self, indices: Sequence[int], column: str | None = None) -> str:
        """Return in words which samples these are, at most ten of them, with what the column says of each."""

        def words(index: int) -> str:
            place = f"line {self.lines[index]}" if self.lines else self.locations[index]
            return place if column is None else f"{place} ({self.values[column][index]!r})"

        return listed([words(index) for index in indices], NAMED_AT_MOST)


def is_missing(text: str) -> bool:
    """Return whether a cell says nothing."""
    return text.lower() in _MISSING


def truth_of(text: str) -> bool | None:
    """Return what a cell of a label's column says: 0 or 1, true or false, yes or no; None if it is none of them."""
    return _TRUTH.get(text.lower())


def number_of(text: str) -> float | None:
    """Return the finite number that a cell holds; None if it is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def is_quantity(text: str) -> bool:
    """Return whether a cell holds a number, and no code made of digits: one with a zero in front."""
    return number_of(text) is not None and not _CODE.fullmatch(text)
