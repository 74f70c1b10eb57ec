"""Targets that are handed in as Python has them: classes of any type, names or 0 and 1 of several labels, numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache.errors import DataError, UsageError
from stages.config.data import DataConfig
from stages.data.manifest import load_targets
from stages.data.sources.records import SourceRecords, sort_class_names
from stages.data.targets.registry import read_targets
from stages.tasks.base import Task
from stages.tasks.multi_label import SEPARATOR, UNKNOWN
from stages.tasks.single_label import SingleLabel


@dataclass(frozen=True)
class GivenTargets:
    """Targets of images, and what they are of.

    Attributes
    ----------
    classes : array [k]
        In the order of the outputs: the classes as they were given, the names of the labels, or those of the numbers.
    task : Task
        Before it is scaled to training samples.
    targets : array [n, ...]
        As the task has them.
    texts : list of str
        The same as text.
    """

    classes: NDArray[Any]
    task: Task
    targets: NDArray[Any]
    texts: list[str]


def given_targets(
    labels: ArrayLike | Any, task: str, *, log_target: bool = False, ordinal: Sequence[str] = ()
) -> GivenTargets:
    """Return targets of a task, from what was handed in.

    Parameters
    ----------
    labels : array, sequence or data frame
        Of one class a sample, [n] of any type. Of several labels, for each sample their names, as a list, a set or
        joined with |; or 0, 1 and nan (not known), [n, labels], with the names of the columns of a data frame. Of
        numbers, [n] or [n, targets]; nan is not known.
    task : str
        Its name, a hyphen as good as an underscore.
    log_target, ordinal
        As in ``DataConfig``.

    Raises
    ------
    UsageError
        If there is no such task, or an option is for another one.
    DataError
        If these are no targets of the task.
    """
    options = DataConfig("labels", task=task, log_target=log_target, ordinal=tuple(map(str, ordinal)))
    if options.task == SingleLabel.name and not (log_target or options.ordinal):
        if np.ndim(labels) != 1:
            raise UsageError(f"labels has to hold one value for each image, [n], not {list(np.shape(labels))}")
        classes, numbers = np.unique(np.asarray(labels), return_inverse=True)
        if len(classes) < 2:
            raise DataError(f"labels holds {len(classes)} class(es); at least two are needed")
        targets = numbers.astype(np.int64)
        single = SingleLabel([str(name) for name in classes])
        return GivenTargets(classes, single, targets, [single.class_names[number] for number in targets])
    columns = _columns(labels)
    count = len(next(iter(columns.values())))
    blank = [""] * count
    parts = (part.strip() for texts in columns.values() for text in texts for part in text.split(SEPARATOR))
    names = {part.removeprefix(UNKNOWN) for part in parts}
    records = SourceRecords(
        [f"image {number}" for number in range(count)],
        blank,
        sort_class_names(names - {""}),
        blank,
        blank,
        target_columns=columns,
    )
    chosen, reading = read_targets(records, options)
    if len(chosen.locations) < count:
        raise DataError(f"labels says nothing of {count - len(chosen.locations):,} images: leave these out")
    made = reading.make_task(chosen.targets)
    outputs: Sequence[str] = getattr(made, "class_names", None) or getattr(made, "names", ())
    return GivenTargets(np.array(outputs), made, load_targets(made, chosen.targets), chosen.targets)


def _columns(labels: Any) -> dict[str, list[str]]:
    """Return what was handed in as columns of text."""
    if hasattr(labels, "columns"):
        return {str(name): [_text(value) for value in labels[name]] for name in labels.columns}
    values = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    if not values:
        raise UsageError("labels is empty")
    is_table = np.ndim(labels) == 2 if hasattr(labels, "shape") else _has_rows_of_numbers(values)
    if is_table:
        width = len(values[0])
        names = ["target"] if width == 1 else [f"target {number}" for number in range(width)]
        return {name: [_text(row[number]) for row in values] for number, name in enumerate(names)}
    name = getattr(labels, "name", None)
    return {"target" if name is None else str(name): [_text(value) for value in values]}


def _has_rows_of_numbers(values: Sequence[Any]) -> bool:
    return all(
        isinstance(row, (list, tuple)) and row and not any(isinstance(value, str) for value in row) for row in values
    )


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple, set, frozenset)):
        return SEPARATOR.join(map(str, value))
    return "" if value is None else str(value)
