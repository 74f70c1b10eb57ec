"""Figures of predicted numbers."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from pipeline.report.figures import ACCENT, GRID, INK, MUTED, styled
from pipeline.text import format_count

MOST_INTERVALS = 150
"""Samples up to which the interval of each is drawn."""

Numbers = NDArray[np.float64]


def predicted_against_true(
    true: Numbers, predicted: Numbers, interval: tuple[Numbers, Numbers] | None, *, log: bool, name: str
) -> Figure:
    """Draw predicted numbers over true ones, with their intervals where there are few, and where both are the same.

    Parameters
    ----------
    true, predicted : float64 [n]
    interval : (low, high), float64 [n] each, optional
    log : bool
        Whether both axes are logarithmic.
    name : str
        Of what is predicted.
    """
    with styled():
        figure = Figure(figsize=(3.9, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(visible=True, axis="both", color=GRID)
        ends = _ends(np.concatenate([true, predicted]), log=log)
        for set_scale, set_limits in ((axes.set_xscale, axes.set_xlim), (axes.set_yscale, axes.set_ylim)):
            set_scale("log" if log else "linear")
            set_limits(*ends)
        axes.plot(ends, ends, "--", color=MUTED, linewidth=1.0)
        if interval is not None and len(true) <= MOST_INTERVALS:
            axes.vlines(true, *interval, color=ACCENT, alpha=0.25, linewidth=1.0)
        _draw_points(axes, true, predicted)
        for axis in (axes.xaxis, axes.yaxis):
            _name_numbers(axis, ends, log=log)
        axes.set_xlabel(f"true {name}")
        axes.set_title(f"predicted {name}", loc="left", fontsize=9, color=MUTED)
    return figure


def residuals(true: Numbers, predicted: Numbers, half_width: float | None, *, log: bool, name: str) -> Figure:
    """Draw errors over predicted numbers: predicted minus true or, on logarithmic axes, predicted over true.

    Parameters
    ----------
    true, predicted : float64 [n]
    half_width : float, optional
        Of the intervals, of the logarithms where `log`: drawn as a band.
    log : bool
    name : str
    """
    errors = predicted / true if log else predicted - true
    none = 1.0 if log else 0.0
    with styled():
        figure = Figure(figsize=(3.9, 3.6), layout="constrained")
        axes = figure.add_subplot()
        if log:
            axes.set_xscale("log")
            axes.set_yscale("log")
        x_ends = _ends(predicted, log=log)
        axes.set_xlim(*x_ends)
        far = float(np.abs(np.log(errors)).max() if log else np.abs(errors).max()) * 1.08 or 1.0
        y_ends = (math.exp(-far), math.exp(far)) if log else (-far, far)
        axes.set_ylim(*y_ends)
        if half_width is not None:
            band = (math.exp(-half_width), math.exp(half_width)) if log else (-half_width, half_width)
            axes.axhspan(*band, color=ACCENT, alpha=0.12, linewidth=0)
        axes.axhline(none, color=INK, linewidth=0.8)
        _draw_points(axes, predicted, errors)
        _name_numbers(axes.xaxis, x_ends, log=log)
        _name_numbers(axes.yaxis, y_ends, log=log)
        axes.set_xlabel(f"predicted {name}")
        axes.set_title("predicted over true" if log else "predicted minus true", loc="left", fontsize=9, color=MUTED)
    return figure


def _draw_points(axes: Axes, x: Numbers, y: Numbers) -> None:
    alpha = 0.8 if len(x) <= 100 else 0.5 if len(x) <= 1000 else 0.2
    axes.plot(x, y, "o", color=ACCENT, alpha=alpha, markersize=3.5, markeredgewidth=0, linewidth=0, rasterized=False)


def _ends(values: Numbers, *, log: bool) -> tuple[float, float]:
    """Return an axis' ends, a little beyond the values."""
    low, high = float(values.min()), float(values.max())
    if log:
        factor = max((high / low) ** 0.05, 1.05)
        return low / factor, high * factor
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def _name_numbers(axis: Axis, ends: tuple[float, float], *, log: bool) -> None:
    """Put a few round numbers on an axis, written shortly."""
    if log:
        ticks = [
            digit * 10.0**power
            for power in range(math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1])) + 1)
            for digit in (1, 2, 5)
            if ends[0] <= digit * 10.0**power <= ends[1]
        ]
        decades = [tick for tick in ticks if f"{tick:e}".startswith("1.0")]
        fewer = decades if len(decades) >= 3 else ticks
        axis.set_major_locator(FixedLocator(fewer[:: math.ceil(len(fewer) / 6)] if fewer else list(ends)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda value, _: _short(value))


def _short(value: float) -> str:
    sign = "−" if value < 0 else ""
    return sign + (format_count(abs(value)) if abs(value) >= 10_000 else f"{round(abs(value), 10):.4g}")
