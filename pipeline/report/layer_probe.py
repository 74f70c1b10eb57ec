"""What a probe of the cuts found, for people: in words, as a table, as CSV and JSON, as a plot and as a page.

Which cut is the best and which is recommended is decided in ``pipeline.experiment.probes.probe_layers``; how the plot
looks is ``probe_figures.py``.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cache.atomic_write import atomic_path, write_atomically
from pipeline.options.command_line import invocation
from pipeline.report.figures import inline_svg, save_png
from pipeline.report.page_parts import template, write_page
from pipeline.report.probe_figures import save_svg, score_against_depth
from pipeline.run_layout import PROBE_PAGE
from pipeline.text import (
    byte_count,
    format_count,
    format_difference,
    format_error,
    format_range,
    format_score,
    percent,
    table,
)
from stages.config.data import DataConfig
from stages.extraction.extractor import Extractor
from stages.fitting.epochs.map_probe import FEWEST_EPOCHS
from stages.inspection.layer_probe import MOST_LOST, CutScore, LayerProbe


@dataclass(frozen=True)
class ProbeReport:
    """A probe, and what it was made with.

    Attributes
    ----------
    probe : LayerProbe
    extractor : Extractor
        Its taps are the cuts of the probe.
    data : DataConfig
    notes : list of str
        What was done to the data, in words.
    out : Path or None
        The run; the commands to go on with leave theirs in it.
    provenance : dict
        Where it comes from, as ``stages.runtime.provenance`` says it.
    """

    probe: LayerProbe
    extractor: Extractor
    data: DataConfig
    notes: list[str]
    out: Path | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> list[str]:
        """The recommendation, in sentences."""
        best, recommended, label = self.probe.best, self.probe.recommended, self.probe.metric.label
        if len(self.probe.cuts) == 1:
            return [f"One cut was probed, {best.name}: validation {label} {self.score(best)}.", _price(best)]
        if recommended is best:
            return [
                f"Cut at {best.name}: no cut has a better validation {label} than {self.score(best)}, and no cheaper "
                "one is within one standard error of it on the same images.",
                _price(best),
                *self._nearest_cheaper,
            ]
        return [
            f"Cut at {recommended.name}: its validation {label} of {self.score(recommended)} is not told apart from "
            f"the best, {best.name} with {self.score(best)}, on the same images ({self.loss(recommended)}), and no "
            "cheaper cut's is.",
            _price(recommended),
            f"Of {best.name}: {_price(best)[:1].lower()}{_price(best)[1:]}",
        ]

    @property
    def _nearest_cheaper(self) -> list[str]:
        """By how much the next best of the cheaper cuts is worse than the best, in a sentence; none where none is."""
        best = self.probe.best
        cheaper = [cut for cut in self.probe.ranked if cut.cost < best.cost]
        return [f"The best of the cheaper cuts is {cheaper[0].name}: {self.loss(cheaper[0])}."] if cheaper else []

    def loss(self, cut: CutScore) -> str:
        """Return what a cut loses to the best one, in words with its interval: ``-0.4 points, 95 % -1.9 to +1.1``."""
        points = " points" if self.probe.metric.as_percent else ""
        value, low, high = self._loss_parts(cut)
        return f"{value}{points}, 95 % interval {low} to {high}"

    def loss_cell(self, cut: CutScore) -> str:
        """Return what a cut loses to the best one, as a cell of a table; blank for the best one."""
        value, low, high = self._loss_parts(cut)
        return "" if cut is self.probe.best else f"{value} ({low} to {high})"

    def _loss_parts(self, cut: CutScore) -> list[str]:
        loss, as_percent = self.probe.loss_of(cut), self.probe.metric.as_percent
        return [format_difference(-value, as_percent=as_percent) for value in (loss.value, loss.high, loss.low)]

    def score(self, cut: CutScore) -> str:
        """Return the score of a cut as people read it."""
        return format_score(cut.score, as_percent=self.probe.metric.as_percent)

    def error(self, cut: CutScore) -> str:
        """Return its standard error, of a share in points."""
        return format_error(cut.standard_error, as_percent=self.probe.metric.as_percent)

    @property
    def validated_on(self) -> str:
        """How many images were validated on, in words."""
        images, seeds = self.probe.cuts[0].images, self.probe.seeds
        if len(seeds) == 1:
            return f"{images[0]:,} validation images"
        if len(set(images)) == 1:
            return f"{images[0]:,} validation images for each of {len(seeds)} seeds"
        return f"{', '.join(f'{number:,}' for number in images)} validation images for {len(seeds)} seeds"

    @property
    def table(self) -> str:
        """The cuts as a table for the terminal."""
        several = len(self.probe.seeds) > 1
        header = ["cut", "depth", "row", f"validation {self.probe.metric.label}", *(["over seeds"] if several else [])]
        against_best = len(self.probe.cuts) > 1
        header += ["against the best"] * against_best + ["bytes/image", "multiply-adds", "saved"]
        rows = [
            [
                score.name + "".join(f"  ({role})" for role in self.roles(score)),
                str(score.depth),
                str(score.width),
                f"{self.score(score)} ± {self.error(score)}",
                *([_over_seeds(score)] if several else []),
                *([self.loss_cell(score)] if against_best else []),
                byte_count(score.bytes_per_image),
                format_count(score.multiply_adds),
                percent(score.saved, digits=0),
            ]
            for score in self.probe.cuts
        ]
        return table(header, rows)

    def roles(self, score: CutScore) -> list[str]:
        """Return what a cut is: 'best', 'recommended', both or neither."""
        return [
            name for name in ("recommended", "best") if len(self.probe.cuts) > 1 and getattr(self.probe, name) is score
        ]

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Pairs (what for, command to copy); the cuts are in the cache, so that none of them runs the backbone."""
        best, recommended = self.probe.best, self.probe.recommended
        commands = [("heads at the recommended cut", self._train(recommended))]
        if recommended is not best:
            commands.append(("heads at the best cut", self._train(best)))
        if len(self.probe.cuts) > 1 and not self.on_maps:
            commands.append(("heads that see the best two cuts, joined", self._train(best, self.probe.ranked[1])))
        return commands

    def _train(self, *cuts: CutScore) -> str:
        features = replace(self.extractor.options, cut="auto")
        names = [cut.name for cut in cuts]
        changed = {} if names == ["auto"] else {"cut": ",".join(names)}
        folder = "+".join(names).replace(",", "+")
        return invocation("train", self.data, features, **changed, out=(self.out or Path("runs")) / folder)

    @property
    def on_maps(self) -> bool:
        """Whether each pixel has a class, so that cuts are maps, and sets of them are probed too."""
        return self.extractor.options.pool == "none"

    @property
    def method(self) -> str:
        """How cuts were scored, in words."""
        if self.on_maps:
            return (
                "All maps were computed in one forward pass over the images and cached. On each of them, and on sets, "
                f"a linear head was trained on the train split, for {FEWEST_EPOCHS} epochs (of few images some more) "
                "and asked about masks of one size, thinned, of the validation split. Sets grow from the best map on "
                "by the one that adds most; the set that is taken where no cut is named stands beside them. The best "
                "of several sets is a little flattered by its choice."
            )
        return (
            "All cuts were computed in one forward pass over the images, pooled and cached. On each, a ridge head was "
            "fitted to the train split; its score is that on the validation split."
        )

    @property
    def _scores_key(self) -> str:
        """What the scores of the seeds are called, which files have of accuracies since before there were others."""
        return "val_accuracies" if self.probe.metric.name == "accuracy" else "val_scores"

    def row(self, score: CutScore) -> dict[str, Any]:
        """Return a line of probe.csv."""
        name, loss = f"val_{score.metric.name}", self.probe.loss_of(score)
        defined = [value for value in score.scores if not math.isnan(value)]
        return {
            "cut": score.name,
            "operation": score.operation,
            "depth": score.depth,
            "row_width": score.width,
            name: score.score,
            f"{name}_lowest": min(defined),
            f"{name}_highest": max(defined),
            "standard_error": score.standard_error,
            "below_best": loss.value,
            "below_best_standard_error": loss.standard_error,
            "below_best_low": loss.low,
            "below_best_high": loss.high,
            "bytes_per_image": score.bytes_per_image,
            "multiply_adds": score.multiply_adds,
            "multiply_adds_saved": score.saved,
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        backbone = self.extractor.backbone
        return {
            "backbone": backbone.name,
            "weights": backbone.weights_source,
            "image_size": backbone.preprocessing.image_size,
            "pool": self.extractor.options.pool,
            "precision": self.extractor.arithmetic,
            "dtype": self.extractor.options.storage_dtype,
            "seeds": list(self.probe.seeds),
            "validation_images": list(self.probe.cuts[0].images),
            "best": self.probe.best.name,
            "recommended": self.probe.recommended.name,
            "metric": self.probe.metric.name,
            "standard_error": self.probe.best.standard_error,
            "verdict": " ".join(self.verdict),
            "commands": [command for _, command in self.commands],
            "cuts": [{**self.row(score), self._scores_key: _or_none(score.scores)} for score in self.probe.cuts],
            "notes": self.notes,
            "provenance": self.provenance,
        }


def write_probe(report: ProbeReport, out_dir: Path) -> Path:
    """Write probe.html, probe.csv, probe.json, probe.png and probe.svg; return the path of the page."""
    out_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(out_dir / "probe.json", (json.dumps(report.to_json(), indent=1) + "\n").encode())
    rows = [report.row(score) for score in report.probe.cuts]
    with (
        atomic_path(out_dir / "probe.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    figure = score_against_depth(report.probe)
    save_png(figure, out_dir / "probe.png")
    save_svg(figure, out_dir / "probe.svg")
    page = template("probe.html.j2").render(
        report=report,
        probe=report.probe,
        backbone=report.extractor.backbone,
        options=report.extractor.options,
        figure=Markup(inline_svg(figure)),
        over_seeds=_over_seeds,
        most_lost=f"{100 * MOST_LOST:.0f} points" if report.probe.metric.as_percent else MOST_LOST,
    )
    path = out_dir / PROBE_PAGE
    write_page(path, page)
    return path


def _price(score: CutScore) -> str:
    """Return in a sentence what a cut costs."""
    saving = ", all the network's"
    if score.saved >= 0.005:
        saving = f", {percent(score.saved, digits=0)} less than the whole network"
    return (
        f"Its trunk takes {format_count(score.multiply_adds)} multiply-adds per image{saving}; a row takes "
        f"{byte_count(score.bytes_per_image)}."
    )


def _over_seeds(score: CutScore) -> str:
    defined = [value for value in score.scores if not math.isnan(value)]
    return format_range((min(defined), max(defined)), as_percent=score.metric.as_percent)


def _or_none(scores: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(score) else score for score in scores]
