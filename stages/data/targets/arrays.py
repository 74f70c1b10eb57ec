"""Targets that are in memory already: arrays, lists and data frames, as the Python interface takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache.errors import UsageError
from stages.config.data import AUTO, DataConfig
from stages.data.sources.target_columns import LABEL
from stages.data.targets.columns import TargetColumns, is_missing, truth_of
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
        Classes of any type; for each of k labels, called as the columns of a data frame, 0, 1 or nan for what is not
        known; the labels that each sample has; or numbers.
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
    options = DataConfig(_NAME, task=task, log_target=log_target, ordinal=tuple(map(str, ordinal)))
    columns, classes, plain_task = _as_columns(values)
    if options.task == AUTO:
        found = _NUMBERS if log_target or ordinal else plain_task
        if not found:
            raise UsageError(f"{_NAME} holds numbers that are no classes: to predict them, say task='{_NUMBERS}'")
        options = replace(options, task=found)
    name, reading, _ = read_columns(columns, options)
    if reading.left_out:
        raise UsageError(f"{_NAME} says nothing of {columns.rows(reading.left_out)}: leave these samples out")
    return reading, classes if name == SingleLabel.name else None


def _as_columns(values: Any) -> tuple[TargetColumns, NDArray[Any] | None, str]:
    """Return values as text in columns, the different ones of a single column, and the task that they plainly are of.

    No task where they are numbers, and no names of classes.
    """
    if _are_lists_of_words(values):
        return _columns({LABEL: [SEPARATOR.join(words) for words in values]}, is_named=False), None, MultiLabel.name
    table = np.asarray(values)
    if table.ndim == 1:
        classes = np.unique(table)
        is_whole = table.dtype.kind != "f" or bool(np.all(table == np.round(table)))
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
    return [str(value) for value in values.tolist()]


def _are_lists_of_words(values: Any) -> bool:
    return not hasattr(values, "dtype") and all(
        isinstance(words, (list, tuple, set, frozenset)) and all(isinstance(word, str) for word in words)
        for words in (values if isinstance(values, (list, tuple)) else [None])
    )
