"""The plot of a probe: the score of each cut over the network's depth, and below it what the cut costs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator, NullLocator

from pipeline.report.figures import ACCENT, GRID, INK, MUTED, SERIES, styled
from pipeline.text import byte_count, format_count, tick
from stages.inspection.layer_probe import LayerProbe


def score_against_depth(probe: LayerProbe) -> Figure:
    """Draw three panels over the cuts, from the image upwards: score, multiply-adds of the trunk, bytes per row.

    The bars are one standard error of the difference from the best, whose score is the line; the ring is the cut to
    take.
    """
    positions = np.arange(len(probe.cuts))
    with styled():
        figure = Figure(figsize=(max(4.8, 1.2 + 0.3 * len(positions)), 5.2), layout="constrained")
        score_axes, multiply_adds, bytes_per_image = figure.subplots(
            3, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1, 1)}
        )
        _draw_scores(score_axes, probe)
        multiply_adds.bar(positions, [score.multiply_adds for score in probe.cuts], width=0.6, color=SERIES[7])
        multiply_adds.set_title("multiply-adds of the trunk", loc="left", fontsize=9, color=MUTED)
        multiply_adds.yaxis.set_major_locator(MaxNLocator(3))
        multiply_adds.yaxis.set_major_formatter(lambda value, _: format_count(value))
        max_bytes = max(score.bytes_per_image for score in probe.cuts)
        bytes_per_image.bar(positions, [score.bytes_per_image for score in probe.cuts], width=0.6, color=SERIES[7])
        bytes_per_image.set_title("bytes per image in the cache", loc="left", fontsize=9, color=MUTED)
        bytes_per_image.yaxis.set_major_locator(MultipleLocator(2 ** math.ceil(math.log2(max_bytes / 3))))
        bytes_per_image.yaxis.set_major_formatter(lambda value, _: byte_count(value))
        names = [score.name for score in probe.cuts]
        bytes_per_image.set_xticks(positions, names, rotation=90 if len(names) > 6 or max(map(len, names)) > 9 else 0)
        bytes_per_image.xaxis.set_minor_locator(NullLocator())
        bytes_per_image.set_xlabel("cut, from the image upwards")
    return figure


def save_svg(figure: Figure, path: Path) -> None:
    """Write a figure as an SVG file on white."""
    with styled():
        figure.savefig(path, facecolor="white", metadata={"Date": None})


def _draw_scores(axes: Axes, probe: LayerProbe) -> None:
    positions = np.arange(len(probe.cuts))
    scores = np.array([score.score for score in probe.cuts])
    errors = np.array([loss.standard_error for loss in probe.losses])
    axes.axhline(probe.best.score, color=GRID, linewidth=1.2)
    for seed in range(len(probe.seeds) if len(probe.seeds) > 1 else 0):
        axes.plot(positions, [score.scores[seed] for score in probe.cuts], "-", color=MUTED, linewidth=0.7, alpha=0.5)
    axes.plot(positions, scores, "-", color=ACCENT, linewidth=1.4)
    axes.vlines(positions, scores - errors, scores + errors, color=ACCENT, linewidth=1.6)
    axes.plot(positions, scores, "o", color=ACCENT, markersize=4.5)
    recommended = probe.cuts.index(probe.recommended)
    axes.plot(recommended, scores[recommended], "o", color=INK, markersize=11, markerfacecolor="none")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda value, _: tick(value, as_percent=probe.metric.as_percent))
    axes.set_title(f"validation {probe.metric.label}", loc="left", fontsize=9, color=MUTED)
