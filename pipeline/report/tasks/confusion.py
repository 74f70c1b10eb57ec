"""Which class was taken for which: a table for few classes, a heat map for many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.comparison import Comparison
from pipeline.report import figures
from pipeline.report.page_parts import Figures, slug

LARGEST_TABLE = 12
"""Classes up to which a confusion matrix is a table; above, it is a heat map and a list of confused pairs."""


def confusions(comparison: Comparison, names: Sequence[str], drawn: Figures) -> Iterator[dict[str, Any]]:
    """Yield what is shown of each confusion matrix: a table for few classes, else a heat map and the worst pairs.

    Nothing where the task has no classes.
    """
    for number, row in enumerate(comparison.rows, start=1):
        confusion = row.confusion
        if confusion is None:
            continue
        per_cell = figures.classes_per_cell(len(names))
        picture = drawn.add(
            f"confusion-{number}-{slug(row.label)}",
            figures.confusion_heat_map(confusion, names),
            f"Confusion matrix of {row.label}, true classes down, predicted classes across",
            f"each cell is the largest share of {per_cell} × {per_cell} classes" if per_cell > 1 else "",
        )
        tests = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        is_small = len(names) <= LARGEST_TABLE
        yield {
            "row": row,
            "counts": confusion.tolist() if is_small else None,
            "shares": (confusion / tests).tolist(),
            "picture": None if is_small else picture,
            "pairs": [] if is_small else _confused_pairs(confusion, names),
        }


def _confused_pairs(confusion: NDArray[np.int64], names: Sequence[str], max_pairs: int = 10) -> list[dict[str, Any]]:
    """Return the pairs of classes that are mixed up most often, with how often and of how many."""
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(errors, axis=None, kind="stable")[::-1][:max_pairs]
    pairs = (np.unravel_index(index, errors.shape) for index in order)
    return [
        {
            "true": names[true],
            "predicted": names[predicted],
            "times": int(errors[true, predicted]),
            "of": int(confusion[true].sum()),
        }
        for true, predicted in pairs
        if errors[true, predicted]
    ]
