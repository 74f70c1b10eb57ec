"""Targets that are in memory already: arrays, lists and data frames, as the Python interface takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache.errors import UsageError
from stages.config.data import AUTO, DataConfig
from stages.data.sources.target_columns import LABEL
from stages.data.targets.columns import TargetColumns, is_missing, number_of, truth_of
from stages.data.targets.registry import Reading, read_columns
from stages.tasks.multi_label import SEPARATOR, MultiLabel
from stages.tasks.single_label import SingleLabel

_NAME = "labels"
"""What messages call such targets."""

_NUMBERS = "regression"
"""The task that has to be asked for."""


def read_arrays(
    values: ArrayLike, task: str = AUTO, *, log_target: bool = False, ordinal: Sequence[str] = ()
) -> tuple[Reading, NDArray[Any] | None]:
    """Return the targets as their task reads them, and the classes as the caller has them, where a sample is of one.

    Parameters
    ----------
    values : array [n] or [n, k], data frame, or n lists of words
        Classes of any type that has an order; for each of k labels, called as the columns of a data frame, 0, 1 or nan
        for what is not known; the labels that each sample has; or numbers.
    task : str
        As the option `task`. auto takes k columns of 0 and 1, and lists of words, for labels, all else for classes;
        numbers that cannot be classes have to be asked for.
    log_target : bool
    ordinal : sequence of str
        As the options.

    Raises
    ------
    UsageError
        If it is not said what numbers are, or the task takes no such values.
    DataError
        If values are no targets of the task, or missing; names them by their places.
    """
    levels = ordinal if isinstance(ordinal, str) else tuple(map(str, ordinal))
    options = DataConfig(_NAME, task=task, log_target=log_target, ordinal=levels)  # type: ignore[arg-type]
    columns, classes, plain_task = _as_columns(values)
    if options.task == AUTO:
        found = _NUMBERS if log_target or ordinal else plain_task
        if not found:
            words = [text for texts in columns.values.values() for text in texts if number_of(text) is None]
            if words := [text for text in words if not is_missing(text)]:
                raise UsageError(f"{_NAME} has several columns, which hold 0 and 1, or numbers, and not {words[0]!r}")
            raise UsageError(f"{_NAME} holds numbers that are no classes: to predict them, say task='{_NUMBERS}'")
        options = replace(options, task=found)
    if options.task == SingleLabel.name:
        _require_known(columns, [index for index, text in enumerate(columns.values.get(LABEL, ())) if not text])
    name, reading, _ = read_columns(columns, options)
    _require_known(columns, reading.left_out)
    return reading, classes if name == SingleLabel.name else None


def is_unknown(value: Any) -> bool:
    """Return whether a value is None, NaN or pandas' NA or NaT, which stand where nothing is known."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, Real) and isnan(value))


def _require_known(columns: TargetColumns, unknown: Sequence[int]) -> None:
    if unknown:
        raise UsageError(f"{_NAME} says nothing of {columns.rows(unknown)}: leave these samples out")


def _as_columns(values: Any) -> tuple[TargetColumns, NDArray[Any] | None, str]:
    """Return values as text in columns, the different ones of a single column, and the task that they plainly are of.

    No task where they are numbers, and no names of classes.
    """
    if _are_lists_of_words(values):
        if joined := [word for words in values for word in words if SEPARATOR in word]:
            raise UsageError(f"{_NAME}: the name of a label holds no {SEPARATOR!r}, as {joined[0]!r} does")
        return _columns({LABEL: [SEPARATOR.join(words) for words in values]}, is_named=False), None, MultiLabel.name
    table = _as_table(values)
    if table.ndim == 1:
        classes = _in_order(table)
        is_whole = classes.dtype.kind != "f" or bool(np.all(classes == np.round(classes)))
        return _columns({LABEL: _texts(table)}, classes), classes, SingleLabel.name if is_whole else ""
    if table.ndim != 2:
        raise UsageError(
            f"{_NAME} has to hold a value for each sample, [n], or several, [n, k], not {list(table.shape)}"
        )
    names = [str(name) for name in getattr(values, "columns", range(table.shape[1]))]
    texts = {name: _texts(column) for name, column in zip(names, table.T, strict=True)}
    only_truth = all(truth_of(text) is not None or is_missing(text) for column in texts.values() for text in column)
    return _columns(texts), None, MultiLabel.name if only_truth else ""


def _columns(
    texts: dict[str, list[str]], classes: NDArray[Any] | Sequence[str] = (), *, is_named: bool = True
) -> TargetColumns:
    number = len(next(iter(texts.values()), []))
    places = [f"{_NAME}[{index}]" for index in range(number)]
    return TargetColumns(texts, places, [], _NAME, True, is_named, tuple(_texts(np.asarray(classes))))


def _texts(values: NDArray[Any]) -> list[str]:
    return ["" if is_unknown(value) else str(value) for value in values.tolist()]


def _as_table(values: Any) -> NDArray[Any]:
    """Return values as an array, [n] or [n, k]; one column of words or of whole numbers as [n]."""
    table = np.asarray(values)
    if table.dtype.kind in "US" and not hasattr(values, "dtype") and table.ndim == 1:
        objects = np.asarray(values, dtype=object)
        if any(map(is_unknown, objects)):  # which are text in the table, as a class would be
            return objects
    are_classes = table.dtype.kind in "OUSTiu" if not hasattr(values, "columns") else table.dtype.kind in "OUST"
    return table[:, 0] if table.ndim == 2 and table.shape[1] == 1 and are_classes else table


def _in_order(table: NDArray[Any]) -> NDArray[Any]:
    """Return the different values of a column in their order, but for those that are not known."""
    known = table[[not is_unknown(value) for value in table.tolist()]]
    try:
        return np.asarray(np.unique(known))
    except TypeError as error:
        kinds = sorted({type(value).__name__ for value in known.tolist()})
        raise UsageError(
            f"{_NAME} holds classes of the type {' and '.join(kinds)}, which have no order: make them text, as by str"
        ) from error


def _are_lists_of_words(values: Any) -> bool:
    return not hasattr(values, "dtype") and all(
        isinstance(words, (list, tuple, set, frozenset)) and all(isinstance(word, str) for word in words)
        for words in (values if isinstance(values, (list, tuple)) else [None])
    )
