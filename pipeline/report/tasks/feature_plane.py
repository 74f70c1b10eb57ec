"""The features of the test images as points in a plane, colored by what they are, as an SVG drawing of the page.

Written by hand and not by matplotlib, since a page has many points, each with words of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from pipeline.report.figures import SERIES
from pipeline.report.tasks.registry import PageContext
from pipeline.text import in_unit, percent
from stages.runtime.unicode_text import printable

MOST_POINTS = 1000
"""Test images that are drawn; of more, every so many-th in the order of their keys."""

SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-5L5 0 0 5-5 0z",
    "M0-4.8L4.6 3.8H-4.6z",
    "M0 4.8L4.6-3.8H-4.6z",
    "M-1.7-4.8h3.4v3.1h3.1v3.4h-3.1v3.1h-3.4v-3.1h-3.1v-3.4h3.1z",
    "M-4.6-2.6L-2.6-4.6 0-2 2.6-4.6 4.6-2.6 2 0 4.6 2.6 2.6 4.6 0 2-2.6 4.6-4.6 2.6-2 0z",
    "M-4.6-4.2L4.6 4.2V-4.2L-4.6 4.2z",
)
"""Marks of the size of a letter; with eight colors they tell 64 classes apart."""

STEPS = 7
"""Steps of color of a number."""

_WIDTH, _HEIGHT, _MARGIN = 720, 460, 10


@dataclass(frozen=True)
class ClassKey:
    """How a class is drawn: its name, its number, its color's and its shape's, and its mark as an SVG drawing."""

    name: str
    number: int
    mark: Markup


@dataclass(frozen=True)
class FeaturePlane:
    """What the page shows of the plane.

    Attributes
    ----------
    svg : Markup
    key : list of ClassKey
        Of the classes, or steps of a number, that have a point.
    words : str
        How the points were found.
    colors, outlined, ends : str
        What colors say; what those with an outline are, of a method; and what else there is to say, with the full stop.
    summary : str
        The drawing in words.
    drawn, images, mistakes : int
        Points; test images; points with an outline.
    """

    svg: Markup
    key: list[ClassKey]
    words: str
    colors: str
    outlined: str
    ends: str
    summary: str
    drawn: int
    images: int
    mistakes: int


@dataclass(frozen=True)
class _Marks:
    """How points are drawn: the class of each, what is said of it, whether it has an outline; and names of classes."""

    numbers: NDArray[np.int64]
    words: list[str]
    outlined: NDArray[np.bool_]
    names: Sequence[str]
    sequential: bool = False


def plane_of_classes(context: PageContext, names: Sequence[str]) -> FeaturePlane | None:
    """Return test images of one class each as points; None where their features cannot be had."""
    predictions = context.predictions
    if predictions.correct is None or context.comparison.task.name != "single_label":
        return None
    rows = _drawn_of(predictions.key_order)
    statistics, wrong = predictions.statistics[rows], ~predictions.correct[rows]
    true, predicted = statistics["target"], statistics["probabilities"].argmax(axis=1)
    probability = statistics["probabilities"].max(axis=1)
    words = [
        f"{names[of_class]} taken for {names[called]}" if is_wrong else names[of_class]
        for of_class, called, is_wrong in zip(true.tolist(), predicted.tolist(), wrong.tolist(), strict=True)
    ]
    said = [f"{word}, {percent(float(sure), digits=0)}" for word, sure in zip(words, probability, strict=True)]
    return _plane(
        context,
        rows,
        _Marks(true.astype(np.int64), said, wrong, names),
        "Color and shape are the true class",
        "mistakes of",
        ". A class that lies apart is easy to tell; a mistake in the midst of another class may be a wrong label.",
    )


def plane_of_labels(context: PageContext, names: Sequence[str]) -> FeaturePlane | None:
    """Return test images of several labels as points, in the color of the rarest label that each has."""
    rows = _drawn_of(context.predictions.key_order)
    statistics = context.predictions.statistics
    counts = (statistics["target"] == 1).sum(axis=0)
    target, predicted = statistics["target"][rows], statistics["predicted"][rows].astype(bool)
    has, wrong = target == 1, ~np.isnan(target) & (predicted != (target == 1))
    rarest = np.where(has.any(axis=1), np.where(has, counts, counts.max() + 1).argmin(axis=1), len(names))
    said = []
    for of_image, wrongly in zip(has, wrong, strict=True):
        labels = ", ".join(name for name, there in zip(names, of_image, strict=True) if there) or "no label"
        mistaken = ", ".join(name for name, is_wrong in zip(names, wrongly, strict=True) if is_wrong)
        said.append(f"{labels}; wrong: {mistaken}" if mistaken else labels)
    return _plane(
        context,
        rows,
        _Marks(rarest.astype(np.int64), said, wrong.any(axis=1), [*names, "no label"]),
        f"Color and shape are the rarest label that a test {context.first.unit} has",
        "those of which a label is wrong by",
        ".",
    )


def plane_of_numbers(
    context: PageContext, name: str, true: NDArray[np.float64], worst: NDArray[np.int64], *, log: bool
) -> FeaturePlane | None:
    """Return test images as points, the stronger the color the higher a number.

    Parameters
    ----------
    context : PageContext
    name : str
        Of the number.
    true : float64 [n]
        What it truly is, in the order of the predictions; nan where that is not known, which is not drawn.
    worst : int64
        Predictions that are furthest off, which get an outline and are drawn in any case.
    log : bool
        Whether equal steps of color are equal ratios.
    """
    known = context.predictions.key_order[~np.isnan(true[context.predictions.key_order])]
    if not len(known):
        return None
    drawn = {*_drawn_of(known).tolist(), *worst.tolist()}
    rows = np.array([row for row in known.tolist() if row in drawn], dtype=np.int64)
    low, high = float(true[known].min()), float(true[known].max())
    edges = np.geomspace(low, high, STEPS + 1) if log and low > 0 else np.linspace(low, high, STEPS + 1)
    steps = np.clip(np.searchsorted(edges, true[rows], side="right") - 1, 0, STEPS - 1)
    names = [f"{in_unit(start)} to {in_unit(end)}" for start, end in pairwise(edges.tolist())]
    return _plane(
        context,
        rows,
        _Marks(
            steps.astype(np.int64),
            [f"{name} {in_unit(float(true[row]))}" for row in rows],
            np.isin(rows, worst),
            names,
            sequential=True,
        ),
        f"The stronger the color, the higher is the true {name}",
        "the largest errors of",
        ". Where colors change smoothly, the features know the number.",
    )


def _drawn_of(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows[:: max(-(-len(rows) // MOST_POINTS), 1)]


def _plane(
    context: PageContext, rows: NDArray[np.int64], marks: _Marks, colors: str, outlined: str, ends: str
) -> FeaturePlane | None:
    """Return the test images of the first seed as points; None where their features cannot be had."""
    predictions, evidence = context.predictions, context.evidence
    found = None if evidence is None else evidence.feature_map([key.decode() for key in predictions.keys[rows]])
    if found is None or evidence is None:
        return None
    places = _placed(found.points)
    parts = [_svg_begin()]
    # those with an outline come last, over the others
    for number in np.argsort(marks.outlined, kind="stable").tolist():
        of_class = int(marks.numbers[number])
        file = str(predictions.locations[rows[number]]).rsplit("/", 1)[-1]
        said = escape(printable(f"{marks.words[number]}: {file}"))
        x, y = places[number]
        shape, color = _look(of_class, sequential=marks.sequential)
        parts.append(
            f'<use href="#shape-{shape}" x="{x:.0f}" y="{y:.0f}" data-k="{of_class}" '
            f'class="{color}{" wrong" if marks.outlined[number] else ""}"><title>{said}</title></use>'
        )
    parts.append("</svg>")
    count = int(marks.outlined.sum())
    by = "UMAP, by cosine: near points are alike, how far apart others are says little"
    if found.shares is not None:
        first, second = (percent(share, digits=0) for share in found.shares)
        by = f"their two principal components, with {first} and {second} of the variance"
    return FeaturePlane(
        svg=Markup("".join(parts)),
        key=[
            ClassKey(marks.names[number], number, _mark(number, sequential=marks.sequential))
            for number in np.unique(marks.numbers).tolist()
        ],
        words=f"Features of {evidence.features} as points, by {by}.",
        colors=colors,
        outlined=outlined,
        ends=ends,
        summary=f"{len(rows):,} test {context.first.unit}s as points, {count:,} of them with an outline: {outlined} "
        f"{context.first.label}",
        drawn=len(rows),
        images=len(predictions),
        mistakes=count,
    )


def _look(number: int, *, sequential: bool) -> tuple[int, str]:
    """Return the shape and the color of a class; of a step of a number the shape is always the same."""
    return (0, f"q{number}") if sequential else (shape_of(number), f"s{number % len(SERIES)}")


def shape_of(number: int) -> int:
    """Return the shape of a class: neighbors differ in color and in shape, and the first 64 in one of them."""
    return (number + number // len(SERIES)) % len(SHAPES)


def _placed(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return points in the drawing's coordinates, [n, 2]: upwards is up, and both directions fill it."""
    low, size = points.min(axis=0), np.ptp(points, axis=0)
    shares = (points - low) / np.where(size > 0, size, 1)
    room = np.array([_WIDTH, _HEIGHT]) - 2 * _MARGIN
    return np.asarray(_MARGIN + room * np.stack([shares[:, 0], 1 - shares[:, 1]], axis=1))


def _svg_begin() -> str:
    shapes = "".join(f'<path id="shape-{number}" d="{path}"/>' for number, path in enumerate(SHAPES))
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}"><defs>{shapes}</defs>'


def _mark(number: int, *, sequential: bool) -> Markup:
    shape, color = _look(number, sequential=sequential)
    return Markup(
        f'<svg class="mark {color}" viewBox="-6 -6 12 12" aria-hidden="true"><path d="{SHAPES[shape]}"/></svg>'
    )
