"""A learning curve for people: as a table, in words, as CSV, as a plot and as a page."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from cache.atomic_write import atomic_path, write_atomically
from pipeline.report.figures import ACCENT, INK, MUTED, inline_svg, save_png, styled, tipped
from pipeline.report.page_parts import template, write_page
from pipeline.report.probe_figures import save_svg
from pipeline.run_layout import CURVE_PAGE
from pipeline.text import format_count, format_score, table, tick
from stages.inspection.extrapolation import Extrapolation, Interval, conclusion
from stages.inspection.learning_curve import LearningCurve

NAME = "learning-curve"

_LOWEST = -1
"""Lower end of the plot: of a few numbers R² can be -30, beside which all others would be one line."""


@dataclass(frozen=True)
class CurveReport:
    """A learning curve and what it says of more images.

    Attributes
    ----------
    curve : LearningCurve
    extrapolation : Extrapolation or None
        None where there are too few sizes.
    head : str
    provenance : dict
        Where it comes from, as ``stages.runtime.provenance`` says it.
    title, features : str
        The data, and what the features are of.
    notes : sequence of str
        What was done to the data, in words.
    """

    curve: LearningCurve
    extrapolation: Extrapolation | None
    head: str
    provenance: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    features: str = ""
    notes: Sequence[str] = ()

    @property
    def answer(self) -> list[str]:
        """Whether more labels would help, in sentences."""
        return conclusion(self.curve, self.extrapolation)

    @property
    def beyond(self) -> dict[int, Interval]:
        """Scores expected of more images than there are, by their number; none where the curve failed its own check."""
        return self.extrapolation.at if self.extrapolation is not None and self.extrapolation.holds else {}

    @property
    def rows(self) -> list[list[str]]:
        """What was measured and what is to be expected: images, score, its range over draws, and the power law."""
        rows = [
            [f"{size:,}", self._score(mean), self._over_draws(scores), fitted]
            for size, mean, scores, fitted in zip(
                self.curve.sizes.tolist(), self.curve.means, self.curve.scores, self._fitted(), strict=True
            )
        ]
        rows += [
            [
                f"{size:,}",
                "",
                "",
                f"{self._score(interval.value)} ({self._score(interval.low)} to {self._score(interval.high)})",
            ]
            for size, interval in self.beyond.items()
        ]
        return rows

    @property
    def table(self) -> str:
        """The rows as a table for the terminal."""
        header = [
            "training images",
            f"validation {self.curve.metric.label}, {self.head}",
            "over draws",
            "power law (95 % interval)",
        ]
        return table(header, self.rows, left=0)

    @property
    def summary(self) -> str:
        """The figure in words."""
        measured = [f"{row[1]} with {row[0]}" for row in self.rows[: len(self.curve.sizes)] if row[1]]
        return f"Validation {self.curve.metric.label} over training images: {'; '.join(measured)}"

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "head": self.head,
            "metric": self.curve.metric.name,
            "images": self.curve.sizes.tolist(),
            "scores": [[_or_none(score) for score in draws] for draws in self.curve.scores.tolist()],
            "expected": {str(size): asdict(interval) for size, interval in self.beyond.items()},
            "answer": " ".join(self.answer),
            "provenance": self.provenance,
        }

    def _fitted(self) -> list[str]:
        if self.extrapolation is None:
            return ["" for _ in self.curve.sizes]
        return [self._score(score) for score in self.extrapolation.law(self.curve.sizes).tolist()]

    def _score(self, value: float) -> str:
        return format_score(value, as_percent=self.curve.metric.as_percent)

    def _over_draws(self, scores: NDArray[np.float64]) -> str:
        defined = scores[~np.isnan(scores)]
        return f"{self._score(defined.min())} to {self._score(defined.max())}" if len(defined) else ""


def write_curve(report: CurveReport, out_dir: Path) -> Path:
    """Write learning-curve.html, .json, .csv, .png and .svg; return the path of the page."""
    out_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(out_dir / f"{NAME}.json", (json.dumps(report.to_json(), indent=1) + "\n").encode())
    with (
        atomic_path(out_dir / f"{NAME}.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["kind", "images", "draw", report.curve.metric.name, "low", "high"])
        for size, draws in zip(report.curve.sizes.tolist(), report.curve.scores.tolist(), strict=True):
            writer.writerows(
                ["measured", size, draw, "" if math.isnan(score) else f"{score:.6f}", "", ""]
                for draw, score in enumerate(draws)
            )
        for size, interval in report.beyond.items():
            writer.writerow(
                ["extrapolated", size, "", *(f"{bound:.6f}" for bound in (interval.value, interval.low, interval.high))]
            )
    figure = score_against_images(report)
    save_png(figure, out_dir / f"{NAME}.png")
    save_svg(figure, out_dir / f"{NAME}.svg")
    path = out_dir / CURVE_PAGE
    page = template("learning_curve.html.j2").render(
        report=report, figure=Markup(inline_svg(figure)), table=f"{NAME}.csv"
    )
    write_page(path, page)
    return path


def score_against_images(report: CurveReport) -> Figure:
    """Draw each draw's score over the number of training images, the power law, and its interval beyond."""
    curve, extrapolation = report.curve, report.extrapolation
    with styled():
        figure = Figure(figsize=(5.6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for draw in range(curve.scores.shape[1]):
            axes.plot(curve.sizes, curve.scores[:, draw], "o", color=MUTED, markersize=3, alpha=0.6, linewidth=0)
        for size, mean, (images, score, over_draws, _) in zip(curve.sizes, curve.means, report.rows, strict=False):
            mark = axes.plot(size, mean, "o", color=ACCENT, markersize=5.5, zorder=3)[0]
            tipped(mark, f"{images} training images: {score}, over draws {over_draws}")
        largest = int(curve.sizes[-1])
        ticks = [int(curve.sizes[0]), largest]
        if extrapolation is not None:
            band_sizes, low, high = extrapolation.band
            shown = band_sizes <= (largest if not extrapolation.holds else band_sizes[-1])
            axes.fill_between(band_sizes[shown], low[shown], high[shown], color=ACCENT, alpha=0.15, linewidth=0)
            for part, line in ((band_sizes <= largest, "-"), (shown & (band_sizes >= largest), "--")):
                axes.plot(band_sizes[part], extrapolation.law(band_sizes[part]), line, color=ACCENT, linewidth=1.6)
            axes.axvline(largest, color=INK, linewidth=0.8)
            axes.annotate(
                "all there are",
                (largest, 0.02),
                xycoords=("data", "axes fraction"),
                xytext=(-4, 0),
                textcoords="offset points",
                ha="right",
                color=INK,
            )
            ticks += list(report.beyond)
            if not extrapolation.holds:
                axes.set_title("no power law: its check failed", loc="left", fontsize=9, color=MUTED)
            elif not extrapolation.identified:
                axes.set_title("where the curve ends is not determined", loc="left", fontsize=9, color=MUTED)
        between = np.geomspace(ticks[0], largest, 4)[1:-1].round().astype(int).tolist()
        axes.xaxis.set_major_locator(FixedLocator([*ticks, *between]))
        axes.xaxis.set_minor_locator(NullLocator())
        # beyond what was measured by factors, whose words are short enough to stand side by side
        axes.xaxis.set_major_formatter(
            lambda value, _: format_count(value) if value <= largest else f"{round(value / largest)} ×"
        )
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(lambda value, _: tick(value, as_percent=curve.metric.as_percent))
        if axes.get_ylim()[0] < _LOWEST:
            axes.set_ylim(_LOWEST, 1.05)
            axes.annotate(
                f"scores below {_LOWEST} are not shown",
                (0.01, 0.95),
                xycoords="axes fraction",
                fontsize=8,
                color=MUTED,
            )
        axes.set_xlabel("training images (logarithmic)")
        axes.set_ylabel(f"validation {curve.metric.label}, {report.head}")
    return figure


def _or_none(score: float) -> float | None:
    return None if math.isnan(score) else score
