"""What a cell of a table says: a number, a word, or nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cache.errors import DataError, listed

_NO_NUMBER = frozenset({"", "na", "n/a", "nan", "null", "none", "missing", "unknown", "-", "--", "?", "."})
"""What stands, in small letters, where a number is missing."""

_EXAMPLES = 5


def is_missing(cell: str) -> bool:
    """Return whether a cell is empty. In a column of words any other text is a word: NA is a country."""
    return not cell.strip()


def as_numbers(name: str, cells: Sequence[str], rows: Sequence[str], *, log: bool = False) -> NDArray[np.float64]:
    """Return the numbers of a column, or their logarithms, float64 [n], nan where one is missing.

    Parameters
    ----------
    name : str
        Of the column.
    cells : sequence of str [n]
    rows : sequence of str [n]
        What each row is called in messages.
    log : bool

    Raises
    ------
    DataError
        If cells hold words, or numbers that are not finite, or have no logarithm; says which rows.
    """
    numbers = np.full(len(cells), np.nan)
    words = []
    for index, cell in enumerate(cells):
        number = number_of(cell)
        if number is None:
            words.append(index)
        else:
            numbers[index] = number
    if words:
        examples = listed([f"{cells[index].strip()!r} ({rows[index]})" for index in words[:_EXAMPLES]])
        comma = any(number_of(cells[index].replace(",", "")) is not None for index in words)
        remedy = (
            "write decimals with a point, and thousands without a mark"
            if comma
            else "leave a cell empty where the number is not known, or give the column as `categories` or `texts`"
        )
        raise DataError(
            f"`columns` {name} holds what is no number in {len(words):,} of {len(cells):,} rows: {examples}"
            f"{', and others' if len(words) > _EXAMPLES else ''}; {remedy}"
        )
    if not log:
        return numbers
    without = [index for index, number in enumerate(numbers.tolist()) if number <= 0]
    if without:
        examples = listed([f"{cells[index].strip()} ({rows[index]})" for index in without[:_EXAMPLES]])
        raise DataError(
            f"`log_columns` {name} holds what has no logarithm in {len(without):,} of {len(cells):,} rows: {examples}"
        )
    return np.asarray(np.log(numbers))


def number_of(cell: str) -> float | None:
    """Return the number that a cell holds, nan where it is missing; None for a word, and for what is not finite."""
    text = cell.strip()
    if text.lower() in _NO_NUMBER:
        return math.nan
    try:
        number = float(text) if "_" not in text else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None
