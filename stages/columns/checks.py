"""What is wrong, or odd, about the chosen columns: not there, the target itself, categories that are digits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import DataError, UsageError, listed, suggestion
from stages.columns.cells import as_numbers
from stages.columns.fit import ColumnChoice

_REPEATED = 4
"""Samples a value of a column has on average, from which on numbers may be categories."""

_GAPS = 10
"""Range of whole numbers against how many there are of them, from which on they look like codes."""

_CODE_DIGITS = 3
"""Digits of a code; smaller numbers count or measure something."""

_SKEWED = 2.0
"""Skewness from which on a logarithm is worth a try."""


def require_columns(choice: ColumnChoice, known: Iterable[str], own: Iterable[str]) -> None:
    """Refuse columns that are not there, or are asked for twice.

    Parameters
    ----------
    choice : ColumnChoice
    known : iterable of str
        Columns that samples have.
    own : iterable of str
        Those that say what a sample is, its target above all, and are no input.

    Raises
    ------
    UsageError
        With the nearest right name.
    """
    known = list(known)
    for option, names in (
        *(("columns", choice.numbers), ("categories", choice.categories), ("texts", choice.texts)),
        ("log_columns", choice.log),
    ):
        for name in names:
            if name in own and name not in known:
                raise UsageError(f"`{option}` {name} says what a sample is, or what is to be predicted: it is no input")
            if name not in known:
                there = f"there are {listed(known, 20)}" if known else "the data have no columns but their own"
                raise UsageError(f"`{option}` {name}: there is no such column; {there}.{suggestion(name, known)}")
    twice = sorted({name for name in choice.names if choice.names.count(name) > 1})
    if twice:
        raise UsageError(
            f"{listed(twice)} is given twice; a column is one of `columns` (numbers), `categories` or `texts`"
        )
    for name in choice.log:
        if name not in choice.numbers:
            raise UsageError(f"`log_columns` {name} is not among `columns`, the numbers")


def require_no_target(
    choice: ColumnChoice,
    columns: Mapping[str, Sequence[str]],
    targets: Sequence[str],
    parts: Sequence[NDArray[Any]],
) -> None:
    """Refuse columns that are the target, or that each value of the target has one value of, and the other way round.

    Parameters
    ----------
    choice : ColumnChoice
    columns : mapping of str to sequence of str [n]
    targets : sequence of str [n]
        As text.
    parts : sequence of ndarray [n]
        The target in numbers, one after the other: bool for a class that a sample is of or not; else numbers, or 0 and
        1 for a label, nan where unknown.

    Raises
    ------
    DataError
        That names the column.
    """
    for name in choice.names:
        cells = [cell.strip() for cell in columns[name]]
        values, are_numbers = _numbers_or_codes(cells)
        is_binary = len(np.unique(values[~np.isnan(values)])) == 2
        compared = (part for part in parts if is_binary or part.dtype != np.bool_)
        leaks = cells == list(targets) or _same(values, _codes(targets), ordered=False)
        if leaks or any(_same(values, part.astype(np.float64), ordered=are_numbers) for part in compared):
            example = next(index for index, cell in enumerate(cells) if cell)
            raise DataError(
                f"the column {name} is the target, or another name for it: where it says {cells[example]!r} the target "
                f"is {targets[example]!r}, and so on through all samples. It is not there for samples whose target is "
                "not known: leave it out"
            )


def _numbers_or_codes(cells: Sequence[str]) -> tuple[NDArray[np.float64], bool]:
    """Return the numbers of a column; or, where there are words, one for each word; and which. An empty cell is nan."""
    try:
        return as_numbers("", cells, cells), True
    except DataError:
        return _codes(cells), False


def _codes(cells: Sequence[str]) -> NDArray[np.float64]:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(cell, len(numbers)) if cell else np.nan for cell in cells], dtype=np.float64)


def _same(column: NDArray[np.float64], target: NDArray[np.float64], *, ordered: bool) -> bool:
    """Return whether a column and a target are the same thing: a value of one goes with one value of the other.

    Where nearly every sample has a value of its own, as measurements have, that says nothing: then the two must rise
    together, or one fall as the other rises, all the way; which values without an order (`ordered`) cannot.
    """
    known = ~np.isnan(column) & ~np.isnan(target)
    if 2 * np.count_nonzero(known) <= len(known):
        return False
    column, target = column[known], target[known]
    pairs = np.unique(np.stack([column, target]), axis=1)
    distinct = [len(np.unique(part)) for part in (column, target)]
    if not pairs.shape[1] == distinct[0] == distinct[1] >= 2:
        return False
    if 2 * distinct[0] <= len(column):
        return True
    steps = np.diff(pairs[1])  # np.unique has sorted the pairs by the column
    return ordered and bool((steps > 0).all() or (steps < 0).all())


def remarks(choice: ColumnChoice, columns: Mapping[str, Sequence[str]], targets: Sequence[str]) -> list[str]:
    """Return what is odd about columns, in words: those that tell the target, codes among numbers, very skewed ones."""
    codes = _codes(targets)
    found = [
        f"the column {name} alone tells the target of every sample: if it is made of the target, or later than it, "
        "leave it out"
        for name in choice.names
        if _tells(*_numbers_or_codes([cell.strip() for cell in columns[name]]), codes)
    ]
    for name in choice.numbers:
        cells = [cell.strip() for cell in columns[name]]
        numbers = as_numbers(name, cells, cells)
        numbers = numbers[~np.isnan(numbers)]
        if looks_like_codes(cells, numbers):
            found.append(
                f"the numbers in {name} look like codes ({', '.join(sorted(set(filter(None, cells)))[:3])}, ...), "
                f"whose size means nothing: `categories` {name} takes them as such"
            )
        elif name not in choice.log and len(numbers) and numbers.min() > 0:
            raw, logarithm = (_skewness(values) for values in (numbers, np.log(numbers)))
            if raw > _SKEWED and abs(logarithm) < raw / 2:
                found.append(
                    f"the numbers in {name} are skewed ({numbers.min():g} to {numbers.max():g}, median "
                    f"{np.median(numbers):g}): `log_columns` {name} takes their logarithm"
                )
    return found


def _tells(column: NDArray[np.float64], are_numbers: bool, target: NDArray[np.float64]) -> bool:
    """Return whether a target follows from a column: from each of few values, or from which range a number is in."""
    known = ~np.isnan(column)
    if 2 * np.count_nonzero(known) <= len(known):
        return False
    column, target = column[known], target[known]
    pairs = np.unique(np.stack([column, target]), axis=1)
    values, targets = (len(np.unique(part)) for part in (column, target))
    if targets < 2 or pairs.shape[1] != values or _REPEATED * targets > len(column):
        return False
    ranges = 1 + np.count_nonzero(np.diff(pairs[1]))  # np.unique has sorted the pairs by the column
    return values * _REPEATED <= len(column) or (are_numbers and ranges == targets)


def looks_like_codes(cells: Sequence[str], numbers: NDArray[np.float64]) -> bool:
    """Return whether numbers are rather names, as zip codes are.

    They are where one begins with a zero; or where whole numbers of the same three digits or more come again and again
    and leave most of their range out.
    """
    if any(len(cell) > 1 and cell[0] == "0" and cell.isdigit() for cell in cells):
        return True
    if not len(numbers) or (numbers != np.round(numbers)).any() or numbers.min() < 0:
        return False
    distinct = np.unique(numbers)
    digits = {len(str(int(number))) for number in distinct}
    return (
        len(distinct) > 2
        and len(digits) == 1
        and digits.pop() >= _CODE_DIGITS
        and len(distinct) * _REPEATED <= len(numbers)
        and float(np.ptp(distinct)) > _GAPS * len(distinct)
    )


def _skewness(values: NDArray[np.float64]) -> float:
    deviations = values - values.mean()
    spread = deviations.std()
    return float((deviations**3).mean() / spread**3) if spread > 0 else 0.0
