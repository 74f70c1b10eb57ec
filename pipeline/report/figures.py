"""The figures of the report: matplotlib figures, as PNG files and as SVG that takes its colours from the page.

What is drawn comes from ``pipeline.evaluation.comparison``; where it stands on the page is ``page.py``.
"""

from __future__ import annotations

import io
import math
import re
import unicodedata
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from markupsafe import escape
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike, NDArray
from sklearn.isotonic import isotonic_regression

from cache.atomic_write import write_atomically
from pipeline.evaluation.method_summary import MethodSummary
from pipeline.evaluation.results import Result
from pipeline.text import duration, format_score, short_percent
from stages.runtime.unicode_text import printable
from stages.tasks.base import Metric
from stages.training.history import validation_rank

if TYPE_CHECKING:
    from stages.training.lr_finder import LRFinderResult

# Each of these stands for a custom property of the page's style, which has a value for light and one for dark.
INK, MUTED, GRID, ACCENT = "#1c2330", "#5d6675", "#dfe3e8", "#1d5fa6"
# Okabe and Ito's colours, told apart with any kind of colour vision; darkened until thin lines and small
# type in them are legible on white.
SERIES = ("#0069a8", "#c24f00", "#00805e", "#b04a86", "#7d6200", "#6b4fa0", "#0b7f8a", "#555c66")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")  # one fewer than colours, so that pairs repeat late

_PROPERTIES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", ACCENT: "--accent"} | {
    color: f"--series-{number}" for number, color in enumerate(SERIES)
}

_STYLE: dict[Any, Any] = {
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "cutonce",
    "text.color": INK,
    "text.parse_math": False,  # a class may be called $x$
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.left": False,
}

_OTHER_SCRIPTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Source Han Sans SC"),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB"),
    *("Microsoft YaHei", "Malgun Gothic", "Noto Sans Arabic", "Noto Naskh Arabic", "Noto Sans Devanagari"),
    *("Lohit Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai", "Nirmala UI", "Noto Sans"),
    *("Arial Unicode MS", "Unifont"),
)
"""Fonts of Linux, macOS and Windows for names in scripts that DejaVu Sans lacks."""

LARGEST_NAMED = 40
"""Classes up to which a heat map names them on its axes."""

FEW_TICKS = 6
"""Values that were tried up to which each has its mark on the axis."""

_TIP = "tip-"

LARGEST_HEAT_MAP = 200
"""Cells on a side of a heat map; more classes than that share cells."""


def score_against_time(rows: Sequence[MethodSummary]) -> Figure:
    """Draw the score with its interval over seconds on a logarithmic axis, each method named beside the plot.

    A filled mark stands at all that the method takes from the images on; where features are cached a hollow one stands
    at what it takes when they are there, and the line between the two is what the cache saves.
    """
    with styled():
        figure = Figure(figsize=(5.6, max(3.1, 0.27 * len(rows))), layout="constrained")
        axes = figure.add_subplot()
        seconds = np.array([max(row.seconds, 1e-3) for row in rows])
        marginal = np.array([max(row.marginal_seconds, 1e-3) if row.cached else math.nan for row in rows])
        scores = np.array([row.score for row in rows])
        ends = np.array([row.ci95 for row in rows])
        low, high = np.where(np.isnan(ends), scores[:, None], ends).T
        quickest, slowest = min(np.nanmin(np.append(marginal, seconds.min())), seconds.min()), seconds.max()
        margin = 10 ** max(0.08 * math.log10(slowest / quickest), 0.12)
        axes.set_xscale("log")
        axes.set_xlim(quickest / margin, slowest * margin)
        above = 0.08 * max(high.max() - low.min(), 0.02)
        axes.set_ylim(low.min() - above, high.max() + above)
        heights = _repel_labels((scores - axes.get_ylim()[0]) / np.ptp(axes.get_ylim()), 0.26 / figure.get_figheight())
        for number, points_aside in enumerate(_dodge(axes, seconds)):
            row, color, marker = rows[number], SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
            transform = axes.transData + ScaledTranslation(points_aside / 72, 0, figure.dpi_scale_trans)
            row_seconds, score, height = seconds[number], scores[number], heights[number]
            words = _in_time(row)
            if marginal[number] < row_seconds:
                saved = [marginal[number], row_seconds]
                moved: dict[str, Any] = {
                    "color": color,
                    "transform": transform,
                }  # with the filled mark, to stay left of it
                tipped(axes.plot(saved, [score, score], lw=0.9, alpha=0.55, zorder=1.5, **moved)[0], words)
                tipped(axes.plot(marginal[number], score, marker, mfc="none", ms=6, zorder=3, **moved)[0], words)
            axes.vlines(row_seconds, low[number], high[number], color=color, linewidth=1.6, transform=transform)
            tipped(axes.plot(row_seconds, score, marker, color=color, ms=6, transform=transform, zorder=3)[0], words)
            # no line leads to the name, which would cross others: mark and color say whose it is
            axes.plot(1.025, height, marker=marker, color=color, markersize=5, transform=axes.transAxes, clip_on=False)
            _name_beside(axes, row.label, color, height, points_aside=14)
        _score_axis(axes, rows[0])
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        _time_axis(axes, "time (logarithmic)")
        axes.set_ylabel(f"test {rows[0].metric.label}")
    return figure


def _in_time(row: MethodSummary) -> str:
    """Return what a method scores and takes, in words."""
    score = format_score(row.score, as_percent=row.metric.as_percent)
    cached = f", {duration(row.marginal_seconds)} when the features are there" if row.cached else ""
    return f"{row.label}: {score} in {duration(row.seconds)}{cached}"


def tipped(artist: Artist, words: str) -> None:
    """Let words show where the pointer rests on what is drawn; they are kept in its name until it is an ``<svg>``."""
    artist.set_gid(_TIP + words.encode("utf-8", "backslashreplace").hex())


def learning_curve(row: MethodSummary, quantity: str) -> Figure:
    """Draw the loss, or a metric by its name, of train and validation over the epochs.

    There is one thin line for each seed; the kept epoch is marked.
    """
    with styled():
        figure = Figure(figsize=(3.9, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for part, color, line in (("train", MUTED, "--"), ("val", ACCENT, "-")):
            for result in row.results:
                epochs = [entry["epoch"] for entry in result.history]
                values = _numbers(entry.get(f"{part}_{quantity}") for entry in result.history)
                drawn = axes.plot(epochs, values, line, color=color, linewidth=1.6 if len(row.results) == 1 else 1.0)
                name = "validation" if part == "val" else part
                percent_like = quantity != "loss" and row.metric.as_percent
                tipped(drawn[0], f"{name}: {_over_epochs(epochs, values, as_percent=percent_like)}")
        for result in row.results:
            if (best := kept_epoch(result, row.metric)) and best.get(f"val_{quantity}") is not None:
                axes.plot(
                    best["epoch"], best[f"val_{quantity}"], "o", color=ACCENT, markersize=6, markerfacecolor="none"
                )
        ends = (("train", MUTED, f"train_{quantity}"), ("validation", ACCENT, f"val_{quantity}"))
        _name_ends(axes, [(name, color, end) for name, color, key in ends if (end := _end(row, key)) is not None])
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if quantity == row.metric.name:
            _score_axis(axes, row)
        axes.set_xlabel("epoch")
        axes.set_title("loss" if quantity == "loss" else row.metric.label, loc="left", fontsize=9, color=MUTED)
    return figure


def validation_curves(
    rows: Mapping[int, MethodSummary], level: MethodSummary | None, over: Literal["epoch", "time"]
) -> Figure:
    """Draw the validation score of several methods over the epochs, or over the time from the images on.

    One thin line for each seed, the kept epoch marked. Time is logarithmic; an epoch 0 that took none is not in it.

    Parameters
    ----------
    rows : mapping of int to MethodSummary
        The methods by their numbers in the table, which give them their colours.
    level : MethodSummary, optional
        A method without epochs to compare with: a dotted line at the score that it validates with.
    """
    with styled():
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        axes = figure.add_subplot()
        ends = []
        score = f"val_{next(iter(rows.values())).metric.name}"
        for number, row in rows.items():
            color, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
            for result in row.results:
                epochs = [entry["epoch"] for entry in result.history]
                x_values = (
                    epochs
                    if over == "epoch"
                    else [seconds if seconds > 0 else math.nan for seconds in cumulative_seconds(result)]
                )
                values = _numbers(entry.get(score) for entry in result.history)
                width = 1.6 if len(row.results) == 1 else 1.0
                drawn = axes.plot(x_values, values, "-", color=color, linewidth=width, marker=marker, markersize=3)
                tipped(drawn[0], f"{row.label}: {_over_epochs(epochs, values, as_percent=row.metric.as_percent)}")
                if (best := kept_epoch(result, row.metric)) is not None:
                    best_x = x_values[epochs.index(best["epoch"])]
                    axes.plot(best_x, best[score], "o", color=color, markersize=8, markerfacecolor="none")
            if (end := _end(row, score)) is not None:
                ends.append((row.label, color, end))
        if level is not None:
            axes.axhline(level.val_score, color=MUTED, linestyle=":", linewidth=1.4)
            ends.append((level.label, MUTED, level.val_score))
        _name_ends(axes, ends)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        first = next(iter(rows.values()))
        _score_axis(axes, first)
        axes.set_title(f"validation {first.metric.label}", loc="left", fontsize=9, color=MUTED)
        if over == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlabel("epoch")
        else:
            _time_axis(axes, "time from the images on (logarithmic)")
    return figure


def _over_epochs(epochs: Sequence[int], values: Sequence[float], *, as_percent: bool) -> str:
    """Return the values of epochs in words: all of few, else the first, one in the middle and the last."""
    known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if not math.isnan(value)]
    shown = known if len(known) <= 12 else [known[0], known[len(known) // 2], known[-1]]
    return ", ".join(f"epoch {epoch} {format_score(value, as_percent=as_percent)}" for epoch, value in shown)


def cumulative_seconds(result: Result) -> list[float]:
    """Return the seconds from the images to the end of each epoch; what came before the first is in all of them."""
    epoch_seconds = np.array([entry.get("seconds") or 0.0 for entry in result.history])
    before_testing = sum(result.seconds_by_stage.get(stage, 0.0) for stage in ("extract", "train"))
    return list(max(before_testing - epoch_seconds.sum(), 0.0) + epoch_seconds.cumsum())


def kept_epoch(result: Result, metric: Metric) -> Mapping[str, Any] | None:
    """Return the epoch whose weights a method kept, as it says itself, else the best one; None where it is not known.

    A rule of its own may leave epochs out: heads on maps keep none of the first three quarters.
    """
    said = result.settings.get("best epoch")
    of_its_own = next((entry for entry in result.history if said is not None and entry.get("epoch") == said), None)
    best = best_epoch(result.history, metric)
    return best if best is None or of_its_own is None else of_its_own


def best_epoch(history: Sequence[Mapping[str, Any]], metric: Metric) -> Mapping[str, Any] | None:
    """Return the epoch whose weights are kept, by the rule of the training; None where none has the metric."""
    name, sign = f"val_{metric.name}", 1 if metric.higher_is_better else -1
    known = [entry for entry in history if entry.get(name) is not None]
    return max(known, key=lambda entry: validation_rank(sign * entry[name], entry.get("val_loss") or 0.0), default=None)


class Line(NamedTuple):
    """Scores of settings that differ in one alone.

    Attributes
    ----------
    label : str
        What they have in common; '' where they are all there is.
    at, scores : list of float
    on_part : bool
        Whether they were fitted to a part of the rows, to see which are worth all of them.
    """

    label: str
    at: list[float]
    scores: list[float]
    on_part: bool


class SearchCurves(NamedTuple):
    """What was tried in a selection: scores over one setting, a line for each combination of the others.

    Attributes
    ----------
    setting : str
    names : list of str
        The values of a setting that is no positive number, which are then drawn at 0, 1, ...; else empty.
    lines : list of Line
    """

    setting: str
    names: list[str]
    lines: list[Line]

    def x_of(self, entry: Mapping[str, Any]) -> float:
        """Return where on the axis an entry stands."""
        value = entry[self.setting]
        return float(self.names.index(str(value)) if self.names else value)


def chosen(result: Result) -> Mapping[str, Any] | None:
    """Return what was tried and then taken: the entry of the selection that the settings of the result repeat."""
    for entry in result.selection:
        if {name: value for name, value in entry.items() if name != "score"}.items() <= result.settings.items():
            return entry
    return None


def search_curves(selection: Sequence[Mapping[str, Any]]) -> SearchCurves | None:
    """Return the selection as lines over one setting; None where nothing was chosen between.

    The setting is the positive number of which most values were tried, as on a logarithmic axis, or else the word.
    """
    entries = [entry for entry in selection if entry.get("score") is not None]
    values: dict[str, list[Any]] = {}
    for entry in entries:
        for name, value in entry.items():
            if name != "score" and value not in values.setdefault(name, []):
                values[name].append(value)
    varied = {name: setting_values for name, setting_values in values.items() if len(setting_values) > 1}
    if not varied:
        return None
    numeric = [name for name, setting_values in varied.items() if all(map(_positive, setting_values))]
    setting = max(numeric or varied, key=lambda name: len(varied[name]))
    curves = SearchCurves(setting, [] if numeric else list(map(str, varied[setting])), [])
    lines: dict[str, Line] = {}
    for entry in sorted(entries, key=curves.x_of):
        label = ", ".join(f"{name} {entry[name]}" for name in varied if name != setting and name in entry)
        if "rows" in entry:
            label = f"{label}, " * bool(label) + f"{entry['rows']:,} rows"
        line = lines.setdefault(label, Line(label, [], [], "rows" in entry))
        line.at.append(curves.x_of(entry))
        line.scores.append(float(entry["score"]))
    curves.lines.extend(sorted(lines.values(), key=lambda line: line.on_part))
    return curves


def selection_scores(row: MethodSummary) -> Figure | None:
    """Draw the score of everything that was tried, for each seed, with the choice marked; None where nothing can be."""
    curves_by_seed = [
        (curves, chosen(result)) for result in row.results if (curves := search_curves(result.selection)) is not None
    ]
    if not curves_by_seed:
        return None
    with styled():
        figure = Figure(figsize=(3.9, 2.7), layout="constrained")
        axes = figure.add_subplot()
        last_curves, _ = curves_by_seed[-1]
        sign = 1 if row.metric.higher_is_better else -1  # what settings are compared by is the better the higher
        if not last_curves.names:
            axes.set_xscale("log")
        for curves, choice in curves_by_seed:
            for number, line in enumerate(curves.lines):
                color, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
                style = {"linewidth": 0.8, "linestyle": ":"} if line.on_part else {"linewidth": 1.4}
                scores = [sign * score for score in line.scores]
                drawn = axes.plot(line.at, scores, color=color, marker=marker, markersize=3, **style)
                names = curves.names or [f"{at:.3g}" for at in line.at]
                pairs = zip(names, scores, strict=False)
                said = [f"{at} {format_score(score, as_percent=row.metric.as_percent)}" for at, score in pairs]
                tipped(drawn[0], f"{line.label or curves.setting}: {', '.join(said)}")
            if choice is not None:
                best = sign * choice["score"]
                axes.plot(curves.x_of(choice), best, "o", color=INK, markersize=9, markerfacecolor="none")
        ends = [
            (line.label, SERIES[number % len(SERIES)], sign * line.scores[-1])
            for number, line in enumerate(last_curves.lines)
        ]
        _name_ends(axes, ends)
        if last_curves.names:
            axes.set_xticks(range(len(last_curves.names)), [shortened(name) for name in last_curves.names])
            axes.set_xlim(-0.5, len(last_curves.names) - 0.5)
        else:
            values = sorted({value for curves, _ in curves_by_seed for line in curves.lines for value in line.at})
            if len(values) <= FEW_TICKS:
                axes.xaxis.set_major_locator(FixedLocator(values))
            axes.xaxis.set_major_formatter(_power_of_ten)
            axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(5))
        _score_axis(axes, row)
        axes.set_xlabel(last_curves.setting)
        axes.set_title(row.metric.label if sign < 0 else "score", loc="left", fontsize=9, color=MUTED)
    return figure


def rate_schedule(rates: NDArray[np.float64], blocks: Sequence[str], steps_per_epoch: int) -> Figure:
    """Draw the learning rate of each step, a line for each block, named at the height of its highest rate.

    Parameters
    ----------
    rates : float64 [steps, groups]
        Nan where a group was frozen: there its line has a gap, and one that never trained has none.
    blocks : sequence of str
        The block of each group; of several groups of a block, which have the same rates, one is drawn.
    steps_per_epoch : int
    """
    by_block = {block: rates[:, group] for group, block in enumerate(blocks)}
    rates_by_block = {block: of_block for block, of_block in by_block.items() if np.isfinite(of_block).any()}
    highest = [float(np.nanmax(block_rates)) for block_rates in rates_by_block.values()]
    far_apart = max(highest) > 4 * min(highest) > 0  # a rate of 0 has no place on a scale of powers
    with styled():
        figure = Figure(figsize=(3.9, 2.7), layout="constrained")
        axes = figure.add_subplot()
        epochs = np.arange(len(rates)) / steps_per_epoch
        for number, block_rates in enumerate(rates_by_block.values()):
            axes.plot(
                epochs, block_rates, "-", color=SERIES[number % len(SERIES)] if len(rates_by_block) > 1 else ACCENT
            )
        if far_apart:  # a schedule that ends at nearly nothing would take all the height
            axes.set_yscale("log")
            axes.set_ylim(min(highest) / 30, max(highest) * 1.5)
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(_power_of_ten)
        else:
            axes.set_ylim(0, max(highest) * 1.08 or 1.0)
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_formatter(_short_number)
        if len(rates_by_block) > 1:
            _name_ends(axes, [(block, SERIES[n % len(SERIES)], highest[n]) for n, block in enumerate(rates_by_block)])
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("epoch")
        axes.set_title("learning rate", loc="left", fontsize=9, color=MUTED)
    return figure


def range_test_curves(tests: Sequence[LRFinderResult]) -> Figure:
    """Draw the loss of range tests over the rate, side by side, with its running mean and the suggested rate marked."""
    with styled():
        figure = Figure(figsize=(3.9 * min(len(tests), 3), 2.7 * -(-len(tests) // 3)), layout="constrained")
        grid = list(figure.subplots(-(-len(tests) // 3), min(len(tests), 3), squeeze=False).flat)
        for axes, test in zip(grid, tests, strict=False):
            _draw_range_test(axes, test)
        for axes in grid[len(tests) :]:
            axes.set_axis_off()
    return figure


def _draw_range_test(axes: Axes, test: LRFinderResult) -> None:
    axes.set_xscale("log")
    axes.plot(test.rates, test.losses, "-", color=MUTED, linewidth=0.7, alpha=0.6)
    axes.plot(test.rates, test.smoothed, "-", color=ACCENT, linewidth=1.6)
    before_it_rises = test.smoothed[: test.lowest + 1]
    height = max(float(np.ptp(before_it_rises)), 0.1 * float(before_it_rises.max()))
    axes.set_ylim(before_it_rises.min() - 0.2 * height, before_it_rises.max() + 0.6 * height)
    if test.suggestion is not None:
        loss = float(test.smoothed[int(np.abs(test.rates - test.suggestion).argmin())])
        axes.plot(test.suggestion, loss, "o", color=INK, markersize=9, markerfacecolor="none")
        axes.annotate(
            f"suggested {test.suggestion:.2g}",
            (test.suggestion, loss),
            xytext=(8, 8),
            textcoords="offset points",
            color=INK,
        )
    axes.xaxis.set_major_formatter(_power_of_ten)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("learning rate" if test.block is None else f"learning rate of {shortened(test.block)}")
    axes.set_title("training loss", loc="left", fontsize=9, color=MUTED)


def confusion_heat_map(
    confusion: NDArray[np.int64], class_names: Sequence[str], shares: NDArray[np.float64] | None = None
) -> Figure:
    """Draw the shares of each true class, a row of cells each; classes share cells where there are very many.

    Parameters
    ----------
    confusion : int64 [true, predicted]
    class_names : sequence of str
    shares : float64 [true, predicted], optional
        What is drawn, where it is not the share of all in a row.
    """
    if shares is None:
        shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    per_cell = classes_per_cell(len(class_names))
    if per_cell > 1:  # the largest of a block, so that a single confusion stays in sight
        padded = np.pad(shares, (0, -len(shares) % per_cell))
        side = len(padded) // per_cell
        shares = padded.reshape(side, per_cell, side, per_cell).max(axis=(1, 3))
    with styled():
        figure = Figure(figsize=(4.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(visible=False)
        colors = LinearSegmentedColormap.from_list("accent", [f"{ACCENT}00", ACCENT])
        axes.imshow(np.sqrt(shares), cmap=colors, vmin=0, vmax=1, interpolation="none")
        axes.spines[:].set(visible=True, color=GRID)
        axes.set(xlabel="predicted", ylabel="true")
        if len(class_names) <= LARGEST_NAMED:
            size = 8 if len(class_names) <= 20 else 5
            short_names = [shortened(name) for name in class_names]
            axes.set_xticks(range(len(short_names)), short_names, rotation=90, fontsize=size)
            axes.set_yticks(range(len(short_names)), short_names, fontsize=size)
        else:
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(5, integer=True))
                axis.set_major_formatter(lambda value, _: f"{value * per_cell:.0f}")
        if len(class_names) <= 12:
            for (true, predicted), tests in np.ndenumerate(confusion):
                color = "white" if shares[true, predicted] > 0.3 else INK
                axes.text(predicted, true, f"{tests:,}", ha="center", va="center", color=color, fontsize=7)
    return figure


def classes_per_cell(classes: int) -> int:
    """Return how many classes share a row of a heat map."""
    return math.ceil(classes / LARGEST_HEAT_MAP)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file on white."""
    with styled(), _without_glyph_warnings():
        _lay_out(figure)
        figure.savefig(path, dpi=160, facecolor="white")


def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file on white, and beside it as an SVG file that follows the light or dark scheme."""
    save_png(figure, path)
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{.*?\n *\}", style, flags=re.DOTALL)
    colors = f"{light} @media screen and (prefers-color-scheme: dark) {{ {dark} }}"
    root, drawing = inline_svg(figure).split(">", 1)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    size = f'width="{width}" height="{height}"'
    write_atomically(
        path.with_suffix(".svg"), f"{root} {names} {size}><style>{colors}</style>{drawing}".encode("utf-8", "replace")
    )


def inline_svg(figure: Figure) -> str:
    """Return a figure as an ``<svg>`` element whose text and colours are those of the page it stands in."""
    text = io.StringIO()
    with styled(), _without_glyph_warnings():
        _lay_out(figure)
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    root, content = text.getvalue().split("<svg", 1)[1].split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', root)
    assert view_box is not None
    svg = f"<svg {view_box[0]}>{content}"
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(rf'<g id="{_TIP}([0-9a-f]+)">', _title, svg)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # names only: what is pointed at has a hash for an id, which stays
    svg = re.sub(r"""(font(?:-family)?: ?(?:[\d.]+px )?)'[^;"<]*""", _page_font, svg)
    return re.sub("|".join(_PROPERTIES), lambda match: f"var({_PROPERTIES[match[0]]})", svg)


def _title(match: re.Match[str]) -> str:
    """Return a group of the drawing with the words that `tipped` gave it."""
    return f"<g><title>{escape(printable(bytes.fromhex(match[1]).decode('utf-8')))}</title>"


def _lay_out(figure: Figure) -> None:
    """Place what stands in a figure, once: matplotlib would for each format, and draws all of it twice for that."""
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


# -- naming things where they are, instead of in a legend -------------------------------------------------------------


def _name_ends(axes: Axes, ends: Sequence[tuple[str, str, float]]) -> None:
    """Write the names of lines after their ends (name, colour, y), none over another."""
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = _repel_labels([to_axes.transform((axes.get_xlim()[0], y))[1] for *_, y in ends], 0.09)
    for (name, color, _), height in zip(ends, heights, strict=True):
        _name_beside(axes, name, color, height, points_aside=4)


def _name_beside(axes: Axes, name: str, color: str, height: float, points_aside: float) -> None:
    axes.annotate(
        shortened(name, 28),
        (1, height),
        xycoords="axes fraction",
        xytext=(points_aside, 0),
        textcoords="offset points",
        color=color,
        va="center",
        annotation_clip=False,
    )


def _repel_labels(heights: ArrayLike, min_distance: float) -> NDArray[np.float64]:
    """Return the heights moved as little as possible for each two to be `min_distance` apart, in the same order.

    Less the room that those below take, heights in order must not fall: that is isotonic regression.
    """
    wanted = np.asarray(heights, dtype=np.float64)
    order = np.argsort(wanted, kind="stable")
    offsets = min_distance * np.arange(len(wanted))
    moved = np.empty_like(wanted)
    moved[order] = isotonic_regression(wanted[order] - offsets) + offsets
    return moved


def _dodge(axes: Axes, seconds: NDArray[Any], near: float = 0.03, spacing: float = 7.0) -> list[float]:
    """Return how many typographic points aside each point is drawn, so that no interval hides another.

    Points within `near` of the next, as a share of the axis, stand `spacing` points beside each other, quicker first.
    """
    left, right = np.log10(axes.get_xlim())
    positions = (np.log10(seconds) - left) / (right - left)
    order = np.argsort(positions, kind="stable")
    aside = np.zeros(len(seconds))
    for group in np.split(order, np.flatnonzero(np.diff(positions[order]) > near) + 1):
        aside[group] = spacing * (np.arange(len(group)) - (len(group) - 1) / 2)
    return list(aside)


def _end(row: MethodSummary, name: str) -> float | None:
    """Return the last known value of a history."""
    return next((entry[name] for entry in reversed(row.results[-1].history) if entry.get(name) is not None), None)


def _numbers(values: Any) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


_TICKS = [
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30),
    *(60 * minutes for minutes in (1, 2, 5, 10, 20, 30)),
    *(3600 * hours for hours in (1, 2, 5, 10, 24, 48, 96, 240, 480)),
]


def _score_axis(axes: Axes, row: MethodSummary) -> None:
    """Make the vertical axis one of the metric that methods are ranked by."""
    if row.metric.as_percent:
        axes.yaxis.set_major_formatter(_percent)


def _time_axis(axes: Axes, label: str) -> None:
    """Make the horizontal axis one of seconds on a logarithmic scale, named as people name times."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_time_ticks(*axes.get_xlim())))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: _short_duration(value))
    axes.set_xlabel(label)


def _time_ticks(low: float, high: float) -> list[float]:
    """Return times that people name, on an axis from `low` to `high` seconds: at most five, and, in any range, some."""
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    if len(ticks) < 3:  # a narrow range has few of these
        unit = next((unit for unit in (3600, 60, 1) if high - low >= 2 * unit), 1)
        even = MaxNLocator(4, steps=[1, 2, 3, 5, 10]).tick_values(low / unit, high / unit)
        within = [float(tick) for tick in np.asarray(even) * unit if low <= tick <= high]
        ticks = sorted({_short_duration(tick): tick for tick in reversed(within)}.values())
    return ticks[:: math.ceil(len(ticks) / 5)] if ticks else [math.sqrt(low * high)]


def _short_duration(seconds: float) -> str:
    if seconds not in _TICKS:
        return duration(seconds).removesuffix(" 0 s").removesuffix(" 0 min")
    if seconds < 60:
        return f"{seconds:g} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.0f} h"


def _power_of_ten(value: float, _: object) -> str:
    exponent = round(math.log10(value))
    if -2 <= exponent <= 3 or not math.isclose(value, 10.0**exponent):
        return f"{value:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _short_number(value: float, _: object) -> str:
    return f"{value:.4g}"


def _percent(value: float, _: object) -> str:
    return short_percent(value)


def shortened(name: str, longest: int = 24) -> str:
    """Return a name in the width of that many Latin letters."""
    text = printable(" ".join(name.split()))
    widths = list(accumulate(map(_columns, text)))
    if not widths or widths[-1] <= longest:
        return text
    return f"{text[: bisect_right(widths, longest - 1)]}…"


def _columns(character: str) -> int:
    """Return how much room a character takes beside a Latin letter: a Chinese one twice as much, a mark above none."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _page_font(match: re.Match[str]) -> str:
    return f"{match[1]}inherit" if match[1].startswith("font-family") else f"{match[1]}var(--font)"


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of the page."""
    with mpl.rc_context({**_STYLE, "font.family": ["DejaVu Sans", *_fonts_for_other_scripts()]}):
        yield


@cache
def _fonts_for_other_scripts() -> tuple[str, ...]:
    """Return the fonts on this machine that have what matplotlib's own lacks; it asks them glyph by glyph, in order."""
    installed = {font.name for font in fontManager.ttflist}
    return tuple(name for name in _OTHER_SCRIPTS if name in installed)


@contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    """A class can be named in a script that matplotlib's own font lacks; the page shows it, the PNG shows a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield
