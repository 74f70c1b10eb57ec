"""The plot of when the cache has paid: time over the passes that it saves."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pipeline.evaluation.break_even import BreakEven
from pipeline.report.figures import ACCENT, INK, MUTED, styled
from pipeline.text import duration, format_count


def break_even_figure(paid: BreakEven) -> Figure:
    """Draw what so many passes take with the cache and without, where the two cross, and where the run stands."""
    last = max(paid.passes, 4 * paid.paid_after, 10)
    passes = np.geomspace(1, last, 100)
    with styled():
        figure = Figure(figsize=(4.8, 3.1), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.plot(passes, [paid.without_cache(each) for each in passes], "--", color=MUTED, linewidth=1.6)
        axes.plot(passes, [paid.with_cache(each) for each in passes], "-", color=ACCENT, linewidth=1.6)
        axes.axvline(paid.fill_seconds / paid.pass_seconds, color=INK, linewidth=0.8)
        axes.set_xlim(right=last**1.22)  # room for words beside the last dot
        dots = sorted([(paid.without_cache(paid.passes), MUTED), (paid.with_cache(paid.passes), ACCENT)])
        # both lines rise: words above and left of the upper one, or below and right of the lower one, cross none
        sides: tuple[Any, ...] = (
            {"xytext": (7, -4), "ha": "left", "va": "top"},
            {"xytext": (-7, 4), "ha": "right", "va": "bottom"},
        )
        for (seconds, color), side in zip(dots, sides, strict=True):
            axes.plot(paid.passes, seconds, "o", color=color, markersize=6, zorder=3)
            axes.annotate(duration(seconds), (paid.passes, seconds), textcoords="offset points", color=color, **side)
        axes.set_title("dashed: without the cache; dots: this run", loc="left", fontsize=9, color=MUTED)
        ends = (paid.with_cache(1), max(paid.without_cache(last), paid.with_cache(last)))
        low, high = (np.log10(max(end, 1e-3)) for end in (min(paid.without_cache(1), ends[0]), ends[1]))
        axes.set_yticks(10.0 ** np.linspace(low, high, 4))
        axes.set_ylim(top=10.0 ** (high + 0.15 * (high - low)))  # room for words above a dot at the end of its line
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: duration(value))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: format_count(value))
        axes.set_xlabel("passes over the images (logarithmic)")
        axes.set_ylabel("time")
    return figure
