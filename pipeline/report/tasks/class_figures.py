"""Figures of one class a sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.figures import ACCENT, GRID, MARKERS, MUTED, SERIES, shortened, styled
from pipeline.text import short_percent
from stages.tasks.calibration import Reliability


def reliability_diagram(bins: Reliability, confidence: NDArray[np.floating]) -> Figure:
    """Draw the share that is right over the confidence, bin by bin, above how many samples have which confidence.

    Bars are consistency bars, around what would be right if confidences were what they say.
    """
    low = max(min(float(bins.confidence.min()), float(bins.right.min())) - 0.05, 0.0)
    with styled():
        figure = Figure(figsize=(3.9, 4.1), layout="constrained")
        axes, below = figure.subplots(2, sharex=True, height_ratios=(4, 1))
        axes.grid(visible=True, axis="both", color=GRID)
        axes.plot((low, 1), (low, 1), "--", color=MUTED, linewidth=1.0)
        axes.vlines(bins.confidence, bins.low, bins.high, color=MUTED, alpha=0.45, linewidth=4)
        axes.plot(bins.confidence, bins.right, "o-", color=ACCENT, markersize=5, linewidth=1.2)
        axes.set_xlim(low, 1.01)
        axes.set_ylim(low, 1.01)
        axes.set_title("share that is right", loc="left", fontsize=9, color=MUTED)
        below.hist(confidence, bins=np.linspace(low, 1, 21).tolist(), color=MUTED)
        below.set_title("test images", loc="left", fontsize=9, color=MUTED)
        below.set_xlabel("probability of the predicted class")
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(lambda value, _: short_percent(value))
    return figure


Marks = Sequence[tuple[float, str]]
"""Thresholds, and what is said of them."""


def roc(target: NDArray[np.bool_], scores: NDArray[np.floating], marks: Marks, name: str) -> Figure:
    """Draw which share of a class is found over the share of the others that is taken for it.

    Parameters
    ----------
    target : bool [n]
        Whether a sample is of the class.
    scores : float [n]
        Its probability.
    marks : sequence of (threshold, words)
    name : str
        Of the class.
    """
    from sklearn.metrics import roc_curve

    false_alarms, found, _ = roc_curve(target, scores)
    at = [((~target & (scores >= value)).sum() / (~target).sum(), _recall(target, scores, value)) for value, _ in marks]
    axes = ("false alarms: share of the others", f"found: share of {shortened(name)}")
    return _trade_off((false_alarms, found), at, marks, axes, (0.0, 1.0))


def precision_over_recall(target: NDArray[np.bool_], scores: NDArray[np.floating], marks: Marks, name: str) -> Figure:
    """Draw which share of what is called so is of a class, over the share of it that is found; as for `roc`."""
    from sklearn.metrics import precision_recall_curve

    precision, found, _ = precision_recall_curve(target, scores)
    at = [
        (_recall(target, scores, value), (target & (scores >= value)).sum() / max((scores >= value).sum(), 1))
        for value, _ in marks
    ]
    share = float(target.mean())
    axes = (f"found: share of {shortened(name)}", "precision: share of what is called so")
    return _trade_off((found, precision), at, marks, axes, (share, share))


def _recall(target: NDArray[np.bool_], scores: NDArray[np.floating], threshold: float) -> float:
    return float((target & (scores >= threshold)).sum() / target.sum())


def _trade_off(
    curve: tuple[NDArray[np.floating], NDArray[np.floating]],
    at: Sequence[tuple[float, float]],
    marks: Marks,
    names: tuple[str, str],
    by_chance: tuple[float, float],
) -> Figure:
    with styled():
        figure = Figure(figsize=(3.9, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(visible=True, axis="both", color=GRID)
        axes.plot((0, 1), by_chance, "--", color=MUTED, linewidth=1.0)
        axes.plot(*curve, color=ACCENT, linewidth=1.6)
        for number, ((x, y), (_, words)) in enumerate(zip(at, marks, strict=True)):
            marker, color = MARKERS[number % len(MARKERS)], SERIES[(number + 1) % len(SERIES)]
            axes.plot([x], [y], marker, color=color, markersize=7, label=words, linewidth=0, clip_on=False, zorder=3)
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.01)
        axes.set_xlabel(names[0])
        axes.set_title(names[1], loc="left", fontsize=9, color=MUTED)
        axes.legend(loc="lower center", frameon=False, fontsize=8)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(lambda value, _: short_percent(value))
    return figure
