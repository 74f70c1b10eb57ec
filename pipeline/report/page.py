"""What stands on the page, in its order: verdict, table, plots, confusions, mistakes, notes, configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from pipeline.evaluation.comparison import Comparison, interval_words, renderings_words
from pipeline.evaluation.method_summary import MethodSummary
from pipeline.evaluation.one_line import chosen_method, one_line
from pipeline.options.toml_file import OPTION_GROUPS
from pipeline.report import figures
from pipeline.report.best import section as search_section
from pipeline.report.cost_figures import break_even_figure
from pipeline.report.evidence import Evidence
from pipeline.report.image_weights import section as weights_section
from pipeline.report.page_parts import (
    Figures,
    ReportFigure,
    data_uri,
    in_words,
    minus,
    slug,
    svg_uri,
    template,
    with_contents,
    write_page,
)
from pipeline.report.tasks.registry import PageContext, task_part
from pipeline.report.what_next import next_commands
from pipeline.run_layout import CONTACT_SHEET, FIGURES, OTHER_PAGES, RANGE_TEST, RATES, REPORT
from pipeline.text import byte_count, duration, flattened, format_difference, format_error, format_range, format_score
from stages.tasks.base import Metric

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
    evidence: Evidence | None = None,
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
    evidence : Evidence, optional
        What stands beside predictions.
    """
    drawn = Figures(out_dir / FIGURES)
    first, metric = chosen_method(comparison), comparison.metric
    numbers_of = {id(row): number for number, row in enumerate(comparison.rows)}
    marked = best_of_columns(comparison)
    page = template("report.html.j2").render(
        comparison=comparison,
        searches=[found for run in comparison.runs if (found := search_section(run, drawn)) is not None],
        one_line=one_line(comparison),
        numbers=_numbers(first),
        made=_made(comparison),
        origin=_origin(comparison, environment),
        next_commands=next_commands(comparison, out_dir, configuration),
        other_pages=[(words, name) for name, words in OTHER_PAGES.items() if (out_dir / name).exists()],
        # methods keep the color and the mark that they have in the figures
        ranked=[(numbers_of[id(row)], row) for row in comparison.ranked],
        chosen_first=[first, *(row for row in comparison.ranked if row is not first)],
        order="descending" if metric.higher_is_better else "ascending",
        best_in=lambda column, number: " best" if number in marked[column] else "",
        task=task_part(PageContext(comparison, drawn, configuration, evidence)),
        weights=weights_section(comparison.ranked),
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
        configuration=_options(configuration),
        environment=_as_text(environment),
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / REPORT
    write_page(path, with_contents(page))
    return path


def best_of_columns(comparison: Comparison) -> dict[str, set[int]]:
    """Return the numbers of the rows that are the best of each column, as far as the table shows; of one row none."""
    metric, rows = comparison.metric, comparison.rows
    shown: dict[str, tuple[Metric, list[float]]] = {
        other.name: (other, [row.mean_score(other.name) for row in rows]) for other in comparison.shown_metrics
    }
    shown["score"] = (metric, [row.score for row in rows])
    shown["val"] = (metric, [row.val_score for row in rows])
    shown["cv"] = (metric, [math.nan if row.cv is None else row.cv.mean for row in rows])
    best = {
        name: _best(values, higher=of.higher_is_better, digits=3 if of.as_percent else None)
        for name, (of, values) in shown.items()
    }
    costs: dict[str, tuple[list[float], int]] = {
        "marginal": ([row.marginal_seconds for row in rows], 1),
        "seconds": ([row.seconds for row in rows], 1),
        "prediction": ([1000 * row.prediction_seconds for row in rows], 1),
        "model": ([math.nan if row.model_bytes is None else row.model_bytes for row in rows], 0),
        "memory": ([row.peak_memory_bytes for row in rows], 0),
    }
    best |= {name: _best(values, higher=False, digits=digits) for name, (values, digits) in costs.items()}
    return best


def _best(values: Sequence[float], *, higher: bool, digits: int | None) -> set[int]:
    """Return the places of the best values as they are rounded; none where all are alike, or there is one alone."""
    rounded = [value if digits is None else round(value, digits) for value in values]
    known = {value for value in rounded if not math.isnan(value)}
    if len(known) < 2:
        return set()
    best = max(known) if higher else min(known)
    return {number for number, value in enumerate(rounded) if value == best}


def _numbers(row: MethodSummary) -> list[tuple[str, str, str]]:
    """Return the numbers of the method to take that stand below the verdict: what, how much, and how sure."""
    percent_like = row.metric.as_percent
    low, high = (format_score(end, as_percent=percent_like) for end in row.ci95)
    numbers = [(f"test {row.metric.label}", format_score(row.score, as_percent=percent_like), f"{low} to {high}")]
    if row.cv is not None:
        error = format_error(row.cv.standard_error, as_percent=percent_like)
        numbers.append(("out of folds", format_score(row.cv.mean, as_percent=percent_like), f"± {error}"))
    else:
        numbers.append(("validation", format_score(row.val_score, as_percent=percent_like), ""))
    when = "when the features are there" if row.cached else ""
    numbers.append(("to train and test", duration(row.marginal_seconds), when))
    numbers.append((f"to predict one {row.unit}", f"{1000 * row.prediction_seconds:,.1f} ms", ""))
    if row.model_bytes is not None:
        numbers.append(("model on disk", byte_count(row.model_bytes), ""))
    return numbers


def _made(comparison: Comparison) -> str:
    """Return the day of the last result; '' of results that kept none."""
    return max((str(result.provenance.get("date") or "") for result in comparison.results), default="")[:10]


def _origin(comparison: Comparison, environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what made the results, in a line: the last command, the data's digest, versions."""
    last = max(comparison.results, key=lambda result: str(result.provenance.get("date") or "")).provenance
    versions = [f"{name} {environment[name]}" for name in ("cutonce", "torch") if environment.get(name)]
    said = [("by", last.get("command")), ("data", last.get("data_digest")), ("with", ", ".join(versions))]
    return [(name, str(value)) for name, value in said if value]


def _options(configuration: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the options in words: those that were given, and those that are as they are by default."""
    defaults = {
        of.name: of.default_factory() if of.default_factory is not MISSING else of.default
        for group in OPTION_GROUPS
        for of in fields(group)
        if of.default is not MISSING or of.default_factory is not MISSING
    }
    texts = _as_text(configuration)
    default_texts = _as_text(defaults)
    parts: dict[str, dict[str, str]] = {"given": {}, "defaults": {}}
    for name, text in texts.items():
        own = name.rsplit(".", 1)[-1]
        parts["defaults" if default_texts.get(own) == text or own == "version" else "given"][name] = text
    return parts if texts else {}


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
    """Return a picture as a data URI; None where there is none.

    A drawing that follows light and dark where there is one, else pixels, no wider than a page: those of a version that
    drew nothing else.
    """
    drawing, path = path.with_suffix(".svg"), path.with_suffix(".png")
    if drawing.exists():
        return svg_uri(drawing.read_text(encoding="utf-8"))
    if not path.exists():
        return None
    with Image.open(path) as picture:
        image = picture.convert("RGB")
    image.thumbnail((1200, 2400))
    return data_uri(image, encoding)


def _other_options(row: MethodSummary, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a method was made with where the last command of the run said others."""
    of_run = configuration.get(str(row.run))
    if not isinstance(of_run, Mapping):  # of one run there is one configuration; a run may be called as an option
        of_run = configuration
    return {
        name: value
        for name, value in row.results[0].options.items()
        if name not in ("head", "seeds") and value != of_run.get(name) and (value is not None or name in of_run)
    }


def _as_text(nested: Mapping[str, Any]) -> dict[str, str]:
    """Return a nested mapping as dotted names and words."""
    return {name: in_words(value) for name, value in flattened(nested).items()}


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else in_words(value)
