"""Figures of one class a sample."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.figures import ACCENT, GRID, MUTED, styled
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
