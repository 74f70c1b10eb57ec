"""Figures of scores label by label, or class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.figures import GRID, MARKERS, MUTED, SERIES, shortened, styled
from pipeline.text import short_percent

MOST_LABELS = 40
"""Labels that are drawn; of more those that are ranked worst."""


def label_scores(
    scores: NDArray[np.float64],
    labels: Sequence[str],
    methods: Sequence[str],
    name: str,
    by_chance: NDArray[np.float64] | None = None,
) -> Figure:
    """Draw a score of each label, or class, under each method, the best label on top.

    Parameters
    ----------
    scores : float64 [methods, labels]
        From 0 to 1; nan for a label that has none, which is not drawn. The first method orders the labels.
    labels, methods : sequence of str
    name : str
        Of the score, as on the axis.
    by_chance : float64 [labels], optional
        What chance gives.
    """
    order = [index for index in np.argsort(scores[0], kind="stable") if not np.isnan(scores[0, index])]
    order = order[:MOST_LABELS]
    with styled():
        figure = Figure(figsize=(4.8, 1.1 + 0.24 * max(len(order), 2) + 0.18 * len(methods)), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x", color=GRID)
        heights = np.arange(len(order))
        if by_chance is not None:
            axes.plot(by_chance[order], heights, "|", color=MUTED, markersize=9, markeredgewidth=1.6, label="by chance")
        for number, (method, of_method) in enumerate(zip(methods, scores, strict=True)):
            color, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
            axes.plot(of_method[order], heights, marker, color=color, markersize=5, label=method, linewidth=0)
        axes.set_yticks(heights, [shortened(labels[index]) for index in order])
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(lambda value, _: short_percent(value))
        axes.set_xlabel(f"{name} on the test split")
        figure.legend(loc="outside upper left", frameon=False, fontsize=8, ncols=2, handletextpad=0.3)
    return figure
