"""Which class was taken for which: the method to take large, the others by what they do otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from pipeline.evaluation.comparison import Comparison
from pipeline.report import figures
from pipeline.report.page_parts import Figures, minus, slug

LARGEST_TABLE = 12
"""Classes up to which a confusion matrix is a table; above, it is a heat map and a list of confused pairs."""

LARGEST_NAMED = 80
"""Classes up to which the heat map of the method to take names all of them, and says what each cell counts."""

PAIRS, PAIRS_OF_OTHERS = 10, 5
"""Pairs of classes that are listed: of the method to take, and of each other one where it differs most."""

_CELL, _LETTER = 12, 5.2
"""Units of a heat map's drawing: the side of a cell, the width of a letter of a name."""


def confusions(comparison: Comparison, names: Sequence[str], drawn: Figures) -> Iterator[dict[str, Any]]:
    """Yield what is shown of each confusion matrix, that of the method to take first.

    Of that all of it: a table for few classes, else a heat map and the worst pairs. Of the others how many more, or
    fewer, of the tests they take for each class. Nothing where the task has no classes.
    """
    chosen = comparison.choice.chosen
    rows = list(enumerate(comparison.rows, start=1))
    base = chosen.confusion
    for number, row in sorted(rows, key=lambda numbered: numbered[1] is not chosen):
        confusion = row.confusion
        if confusion is None or base is None:
            continue
        per_cell = figures.classes_per_cell(len(names))
        picture = drawn.add(
            f"confusion-{number}-{slug(row.label)}",
            figures.confusion_heat_map(confusion, names),
            f"Confusion matrix of {row.label}, true classes down, predicted classes across",
            f"each cell is the largest share of {per_cell} × {per_cell} classes" if per_cell > 1 else "",
        )
        tests = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        is_small, is_chosen = len(names) <= LARGEST_TABLE, row is chosen
        yield {
            "row": row,
            "counts": confusion.tolist() if is_small else None,
            "shares": (confusion / tests).tolist() if is_chosen else None,
            "more": _differences(confusion - base, tests) if is_small and not is_chosen else None,
            "picture": picture if is_chosen and len(names) > LARGEST_NAMED else None,
            "heat": named_heat_map(confusion, names)
            if is_chosen and LARGEST_TABLE < len(names) <= LARGEST_NAMED
            else None,
            "pairs": _confused_pairs(confusion, names) if is_chosen and not is_small else [],
            "unlike": [] if is_chosen or is_small else _unlike_pairs(confusion - base, names),
        }


def named_heat_map(confusion: NDArray[np.int64], names: Sequence[str]) -> Markup:
    """Return a confusion matrix as ``<svg>``: each class named, and for each cell that is not 0 what it counts.

    The stronger a cell, the larger its share of the true class (its square root, so that rare confusions show).
    """
    shorter = [figures.shortened(name, 22) for name in names]
    aside = _LETTER * max(map(len, shorter)) + 8
    side, tests = _CELL * len(names), np.maximum(confusion.sum(axis=1), 1)
    parts = [f'<svg class="cells" viewBox="0 0 {aside + side + 2:.0f} {aside + side + 2:.0f}">']
    for number, name in enumerate(shorter):
        middle = aside + _CELL * (number + 0.5)
        parts.append(f'<text x="{aside - 4:.0f}" y="{middle + 3:.1f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<text transform="translate({middle + 3:.1f} {aside - 4:.0f}) rotate(-90)">{escape(name)}</text>')
    parts.append(f'<rect class="frame" x="{aside:.1f}" y="{aside:.1f}" width="{side}" height="{side}"/>')
    for true, predicted in np.argwhere(confusion).tolist():
        count = int(confusion[true, predicted])
        strength = math.sqrt(count / tests[true])
        kind = "right" if true == predicted else "wrong"
        parts.append(
            f'<rect class="{kind}" x="{aside + _CELL * predicted:.1f}" y="{aside + _CELL * true:.1f}" '
            f'fill-opacity="{strength:.2f}"><title>{escape(names[true])} taken for {escape(names[predicted])}: '
            f"{count:,} of {int(tests[true]):,}</title></rect>"
        )
    return Markup("".join([*parts, "</svg>"]))


def _differences(more: NDArray[np.int64], tests: NDArray[np.int64]) -> list[list[dict[str, Any]]]:
    """Return the cells of a table of differences: the words, how strong in color, and whether it is for the better."""
    return [
        [
            {
                "words": minus(f"{count:+,}") if count else "0",
                "share": min(abs(count) / int(tests[true, 0]), 1.0),
                "better": (count > 0) == (true == predicted),
                "none": count == 0,
            }
            for predicted, count in enumerate(of_class)
        ]
        for true, of_class in enumerate(more.tolist())
    ]


def _confused_pairs(confusion: NDArray[np.int64], names: Sequence[str], max_pairs: int = PAIRS) -> list[dict[str, Any]]:
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


def _unlike_pairs(more: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the pairs of classes that a method mixes up more often, or less often, than the method to take."""
    errors = more.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(-np.abs(errors), axis=None, kind="stable")[:PAIRS_OF_OTHERS]
    pairs = (np.unravel_index(index, errors.shape) for index in order)
    return [
        {
            "true": names[true],
            "predicted": names[predicted],
            "more": minus(f"{int(errors[true, predicted]):+,}"),
            "better": errors[true, predicted] < 0,
        }
        for true, predicted in pairs
        if errors[true, predicted]
    ]
