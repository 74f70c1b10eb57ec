"""The features of the test images as points in a plane, colored by class, as an SVG drawing of the page itself.

Written by hand and not by matplotlib, since a page has many points, each with words of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from pipeline.report.figures import SERIES
from pipeline.report.tasks.registry import PageContext
from pipeline.text import percent
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
        Of the classes that have a point.
    words : str
        How the points were found.
    summary : str
        The drawing in words.
    drawn, images, mistakes : int
        Points; test images; points that are predicted wrongly.
    """

    svg: Markup
    key: list[ClassKey]
    words: str
    summary: str
    drawn: int
    images: int
    mistakes: int


def feature_plane(context: PageContext, names: Sequence[str]) -> FeaturePlane | None:
    """Return the test images of the first seed as points; None where their features cannot be had."""
    predictions, evidence = context.predictions, context.evidence
    if evidence is None or predictions.correct is None or context.comparison.task.name != "single_label":
        return None
    step = -(-len(predictions) // MOST_POINTS)
    rows = predictions.key_order[::step]
    found = evidence.feature_map([key.decode() for key in predictions.keys[rows]])
    if found is None:
        return None
    statistics = predictions.statistics[rows]
    true, predicted = statistics["target"], statistics["probabilities"].argmax(axis=1)
    probability, wrong = statistics["probabilities"].max(axis=1), ~predictions.correct[rows]
    places = _placed(found.points)
    parts = [_svg_begin()]
    # mistakes come last, over the others
    for number in np.argsort(wrong, kind="stable").tolist():
        of_class, called = int(true[number]), int(predicted[number])
        file = str(predictions.locations[rows[number]]).rsplit("/", 1)[-1]
        words = f"{names[of_class]} taken for {names[called]}" if wrong[number] else names[of_class]
        said = escape(printable(f"{words}, {percent(float(probability[number]), digits=0)}: {file}"))
        x, y = places[number]
        parts.append(
            f'<use href="#shape-{shape_of(of_class)}" x="{x:.0f}" y="{y:.0f}" data-k="{of_class}" '
            f'class="s{of_class % len(SERIES)}{" wrong" if wrong[number] else ""}"><title>{said}</title></use>'
        )
    parts.append("</svg>")
    mistakes = int(wrong.sum())
    by = "UMAP, by cosine: near points are alike, how far apart others are says little"
    if found.shares is not None:
        first, second = (percent(share, digits=0) for share in found.shares)
        by = f"their two principal components, with {first} and {second} of the variance"
    return FeaturePlane(
        Markup("".join(parts)),
        [ClassKey(names[number], number, _mark(number)) for number in np.unique(true).tolist()],
        f"Features of {evidence.features} as points, by {by}.",
        f"{len(rows):,} test images as points, {mistakes:,} of them predicted wrongly",
        len(rows),
        len(predictions),
        mistakes,
    )


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


def _mark(number: int) -> Markup:
    path, color = SHAPES[shape_of(number)], number % len(SERIES)
    return Markup(f'<svg class="mark s{color}" viewBox="-6 -6 12 12" aria-hidden="true"><path d="{path}"/></svg>')
