"""How each class fares, for a page on one class a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.report.tasks.registry import PageContext
from pipeline.text import percent
from stages.tasks.class_scores import ShareOf, class_scores

MOST_CLASSES = 60
"""Classes that the table has rows for; of more those with the lowest F1."""


@dataclass(frozen=True)
class ClassRow:
    """One class: how many test images are of it and are called so, and its shares with their intervals, in words."""

    name: str
    support: int
    predicted: int
    recall: tuple[str, str] | None
    precision: tuple[str, str] | None
    f1: tuple[str, str] | None


def worst_classes(context: PageContext, names: Sequence[str]) -> list[ClassRow]:
    """Return the classes of the best method with the first seed: all, or the worst; none where a task has none."""
    task, statistics = context.comparison.task, context.predictions.statistics
    confusion = task.confusion(statistics)
    if confusion is None or statistics.dtype.names is None or "probabilities" not in statistics.dtype.names:
        return []
    numbers = np.arange(len(names))
    predicted = statistics["probabilities"].argmax(axis=1)
    scores = class_scores(statistics["target"][:, None] == numbers, predicted[:, None] == numbers, groups_of(context))
    shown = numbers
    if len(names) > MOST_CLASSES:
        shown = np.argsort(np.nan_to_num(scores.f1.value, nan=2.0), kind="stable")[:MOST_CLASSES]
    return [
        ClassRow(
            names[number],
            int(scores.support[number]),
            int(scores.predicted[number]),
            *(_words(share, number) for share in (scores.recall, scores.precision, scores.f1)),
        )
        for number in shown.tolist()
    ]


def lowest_first(row: ClassRow) -> float:
    """Return what puts the class with the lowest F1 first; one without comes last."""
    return math.inf if row.f1 is None else float(row.f1[0].split()[0])


def groups_of(context: PageContext) -> NDArray[np.int64] | None:
    """Return the number of the group that each of the best method's test samples is of; None where there are none."""
    groups = getattr(context.predictions, "groups", None)
    return None if groups is None else np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _words(share: ShareOf, number: int) -> tuple[str, str] | None:
    value, low, high = (float(ends[number]) for ends in (share.value, share.low, share.high))
    if math.isnan(value):
        return None
    return percent(value), f"{100 * low:.1f} – {100 * high:.1f}"
