"""What stands on the page, in its order: verdict, table, plots, confusions, mistakes, notes, configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from pipeline.evaluation.comparison import Comparison, interval_words, renderings_words
from pipeline.evaluation.method_summary import MethodSummary
from pipeline.report import figures
from pipeline.report.best import section as search_section
from pipeline.report.cost_figures import break_even_figure
from pipeline.report.page_parts import Figures, ReportFigure, data_uri, minus, slug, template, write_page
from pipeline.report.tasks.registry import PageContext, task_part
from pipeline.run_layout import CONTACT_SHEET, FIGURES, RANGE_TEST, RATES, REPORT
from pipeline.text import duration, flattened, format_difference, format_error, format_range, format_score

PLOTS = {
    RATES: "learning rate of each group over the steps",
    RANGE_TEST: "range test: training loss while the learning rate rises",
}
"""Plots that a training leaves in the folder of its method, and what they show."""

NOTES_IN_SIGHT = 12
"""Notes that are shown; more are folded away."""


@dataclass(frozen=True)
class TrainingPlots:
    """What a method left of its training with the first seed, as data URIs: contact sheet, and plots with words."""

    row: MethodSummary
    sheet: str | None
    same_sheet_as: MethodSummary | None
    """A method above whose contact sheet this one has too; the sheet is shown there alone."""
    plots: list[tuple[str, str]]


def write_report(
    out_dir: Path,
    comparison: Comparison,
    configuration: Mapping[str, Any],
    environment: Mapping[str, Any],
    notes: Sequence[str],
) -> Path:
    """Write ``report.html`` and, as PNG files for use elsewhere, ``figures/``; return the path of the page.

    Parameters
    ----------
    out_dir : Path
        Where both go; made if it is not there.
    comparison : Comparison
        What the page is about.
    configuration, environment : mapping
        Options, and versions and machine: shown at the end.
    notes : sequence of str
        What there is to know about the data: how it was split, what could not be read.
    """
    drawn = Figures(out_dir / FIGURES)
    first, metric = comparison.choice.chosen, comparison.metric
    page = template("report.html.j2").render(
        comparison=comparison,
        searches=[found for run in comparison.runs if (found := search_section(run)) is not None],
        task=task_part(PageContext(comparison, drawn, configuration)),
        title=", ".join(run.name for run in comparison.runs),
        samples=comparison.rows[0].results[0].samples,
        scale=_scale(comparison),
        notes_of_metrics=" ".join(
            shown_metric.note for shown_metric in (metric, *comparison.shown_metrics) if shown_metric.note
        ),
        interval_words=interval_words(comparison),
        metric=metric,
        unit=comparison.rows[0].unit,
        score=lambda value: format_score(value, as_percent=metric.as_percent),
        error=lambda value: format_error(value, as_percent=metric.as_percent),
        difference=lambda value: minus(format_difference(value, as_percent=metric.as_percent)),
        span=lambda ends: format_range(ends, " – ", as_percent=metric.as_percent),
        against_time=drawn.add(
            f"{metric.name.replace('_', '-')}-time",
            figures.score_against_time(comparison.rows),
            f"Test {metric.label} against time: "
            + "; ".join(
                f"{row.label} {format_score(row.score, as_percent=metric.as_percent)} in {duration(row.seconds)}"
                for row in comparison.rows
            ),
        ),
        paid=None
        if comparison.break_even is None
        else drawn.add("break-even", break_even_figure(comparison.break_even), comparison.break_even.words),
        provenance=_provenance(comparison),
        renderings_words=renderings_words(comparison),
        side_by_side=_side_by_side(comparison, drawn),
        learning=list(_learning(comparison, drawn)),
        selections=list(_selections(comparison, drawn)),
        narrowed=any("rows" in entry for row in comparison.rows for entry in row.results[0].selection),
        first=first,
        trainings=list(_trainings(comparison)),
        notes=[*comparison.notes, *notes],
        notes_in_sight=NOTES_IN_SIGHT,
        other_options=lambda row: _as_text(_other_options(row, configuration)),
        configuration=_as_text(configuration),
        environment=_as_text(environment),
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / REPORT
    write_page(path, page)
    return path


def _provenance(comparison: Comparison) -> list[tuple[str, str]]:
    """Return where the results come from, each pair of a name and a value once; nothing of results that kept none."""
    names = {"command": "command", "date": "made", "commit": "commit of the code", "data_digest": "digest of the data"}
    kept = [result.provenance for result in comparison.results if result.provenance]
    said = [
        (words, str(of_result[name]))
        for name, words in names.items()
        for of_result in kept
        if of_result.get(name) is not None
    ]
    return list(dict.fromkeys(said))


def _scale(comparison: Comparison) -> Callable[[float], float]:
    """Return what puts a score on the common scale, 0 to 100, that the intervals in the table are drawn on."""
    ends = [(row.score, *(end for end in row.ci95 if not math.isnan(end))) for row in comparison.rows]
    low, high = min(map(min, ends)), max(map(max, ends))
    width = max(high - low, 1e-6)
    return lambda score: 4.0 if math.isnan(score) else round(4 + 92 * (score - low) / width, 2)


def _side_by_side(comparison: Comparison, drawn: Figures) -> list[ReportFigure]:
    """Return the curves of all methods that train on images in one plot, over epochs and over time; none for one."""
    rows = {
        number: row
        for number, row in enumerate(comparison.rows)
        if not row.cached and all(figures.kept_epoch(result, row.metric) for result in row.results)
    }
    if len(rows) < 2:
        return []
    level = comparison.reference if comparison.reference.cached else None
    names = ", ".join(row.label for row in [*rows.values(), *([level] if level else [])])
    axes: dict[Literal["epoch", "time"], str] = {"epoch": "epochs", "time": "time from the images on"}
    return [
        drawn.add(
            f"side-by-side-{over}",
            figures.validation_curves(rows, level, over),
            f"Validation {comparison.metric.label} over the {axis_name} of {names}",
        )
        for over, axis_name in axes.items()
    ]


def _learning(comparison: Comparison, drawn: Figures) -> Iterator[tuple[MethodSummary, list[ReportFigure]]]:
    for number, row in enumerate(comparison.rows, start=1):
        best_epochs = [best["epoch"] for result in row.results if (best := figures.kept_epoch(result, row.metric))]
        if best_epochs:
            epochs = ", ".join(map(str, best_epochs))
            yield (
                row,
                [
                    drawn.add(
                        f"learning-{number}-{slug(row.label)}-{quantity}",
                        figures.learning_curve(row, quantity),
                        f"{name} of train and validation over the epochs of {row.label}; kept: epoch {epochs}",
                        f"kept: epoch {epochs}" if quantity == row.metric.name else "",
                    )
                    for quantity, name in (("loss", "loss"), (row.metric.name, row.metric.label))
                ],
            )


def _selections(comparison: Comparison, drawn: Figures) -> Iterator[dict[str, Any]]:
    """Yield what is shown of each method that selected something: the plot, and what the first seed tried, best first.

    Settings that were fitted to a part of the rows, and thought not worth all of them, come last.
    """
    for number, row in enumerate(comparison.rows, start=1):
        first = row.results[0]
        candidates = [entry for entry in first.selection if entry.get("score") is not None]
        if not candidates:
            continue
        sign, as_percent = 1 if row.metric.higher_is_better else -1, row.metric.as_percent
        score_text = partial(_selection_score, sign=sign, as_percent=as_percent)
        candidates.sort(key=lambda entry: ("rows" in entry, -entry["score"]))
        choice = figures.chosen(first) or candidates[0]
        choice_text = ", ".join(f"{name} {_short(value)}" for name, value in choice.items() if name != "score")
        criterion_text = f" by {criterion}" if (criterion := first.settings.get("selected by")) else ""
        caption = f"chosen{criterion_text}{f', seed {first.seed}' if len(row.results) > 1 else ''}: {choice_text}"
        alt = f"Score of everything tried for {row.label}; {caption}, {score_text(choice['score'])}"
        figure = figures.selection_scores(row)
        name = f"selection-{number}-{slug(row.label)}"
        yield {
            "row": row,
            "picture": None if figure is None else drawn.add(name, figure, alt, caption),
            "columns": list(dict.fromkeys(name for entry in candidates for name in entry)),
            "tried": [
                {name: score_text(value) if name == "score" else _short(value) for name, value in entry.items()}
                for entry in candidates
            ],
        }


def _selection_score(score: float, *, sign: int, as_percent: bool) -> str:
    """Return a score of a selection, of which the higher is the better, as the metric that it is."""
    return format_score(sign * score, as_percent=as_percent)


def _trainings(comparison: Comparison) -> Iterator[TrainingPlots]:
    rows_by_sheet: dict[str, MethodSummary] = {}
    for row in comparison.rows:
        folder = row.results[0].directory
        assert folder is not None
        sheet = _picture_file(folder / CONTACT_SHEET, "JPEG")
        plots = [(uri, caption) for name, caption in PLOTS.items() if (uri := _picture_file(folder / name, "PNG"))]
        if sheet or plots:
            yield TrainingPlots(row, sheet, rows_by_sheet.get(sheet or ""), plots)
        if sheet:
            rows_by_sheet.setdefault(sheet, row)


def _picture_file(path: Path, encoding: Literal["JPEG", "PNG"]) -> str | None:
    """Return a picture as a data URI, no wider than a page; None where there is none."""
    if not path.exists():
        return None
    with Image.open(path) as picture:
        image = picture.convert("RGB")
    image.thumbnail((1200, 2400))
    return data_uri(image, encoding)


def _other_options(row: MethodSummary, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a method was made with where the last command of the run said others."""
    of_run = configuration.get(str(row.run), configuration)
    return {
        name: value
        for name, value in row.results[0].options.items()
        if name not in ("head", "seeds") and value != of_run.get(name) and (value is not None or name in of_run)
    }


def _as_text(nested: Mapping[str, Any]) -> dict[str, str]:
    """Return a nested mapping as dotted names and words."""
    return {
        name: ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        for name, value in flattened(nested).items()
    }


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
