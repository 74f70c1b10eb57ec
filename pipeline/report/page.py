"""What stands on the page, in its order: verdict, table, plots, confusions, mistakes, notes, configuration."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from cache.atomic_write import write_atomically
from cache.errors import DataError
from pipeline.evaluation.comparison import Comparison, interval_words, renderings_words
from pipeline.evaluation.method_summary import MethodSummary
from pipeline.report import figures
from pipeline.run_layout import CONTACT_SHEET, FIGURES, RANGE_TEST, RATES, REPORT
from pipeline.text import (
    byte_count,
    capitalized,
    duration,
    flattened,
    format_count,
    format_difference,
    format_range,
    format_score,
    percent,
    points,
)
from stages.runtime.unicode_text import printable, told_apart

MISTAKES = 12
"""Mistakes that are shown."""

THUMBNAIL = 200
"""Pixels on the longer side of a thumbnail."""

LARGEST_TABLE = 12
"""Classes up to which a confusion matrix is a table; above, it is a heat map and a list of confused pairs."""

PLOTS = {
    RATES: "learning rate of each group over the steps",
    RANGE_TEST: "range test: training loss while the learning rate rises",
}
"""Plots that a training leaves in the folder of its method, and what they show."""

NOTES_IN_SIGHT = 12
"""Notes that are shown; more are folded away."""


@dataclass(frozen=True)
class ReportFigure:
    """A figure on the page; `svg` is safe markup."""

    svg: Markup
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class TrainingPlots:
    """What a method left of its training with the first seed, as data URIs: contact sheet, and plots with words."""

    row: MethodSummary
    sheet: str | None
    same_sheet_as: MethodSummary | None
    """A method above whose contact sheet this one has too; the sheet is shown there alone."""
    plots: list[tuple[str, str]]


@dataclass(frozen=True)
class Misclassified:
    """A test image that was predicted wrongly; `thumbnail` is a data URI, or None where the image cannot be read."""

    thumbnail: str | None
    location: str
    true: str
    predicted: str
    probability: float
    others_wrong: int


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
    drawn = _Figures(out_dir / FIGURES)
    class_names = told_apart(comparison.class_names)
    first, metric = comparison.ranked[0], comparison.metric
    mistakes, mistakes_in_all = _mistakes(first, comparison, class_names)
    page = template("report.html.j2").render(
        comparison=comparison,
        class_names=class_names,
        title=", ".join(run.name for run in comparison.runs),
        samples=comparison.rows[0].results[0].samples,
        scale=_scale(comparison),
        notes_of_metrics=" ".join(
            shown_metric.note for shown_metric in (metric, *comparison.shown_metrics) if shown_metric.note
        ),
        interval_words=interval_words(comparison),
        metric=metric,
        score=lambda value: format_score(value, as_percent=metric.as_percent),
        difference=lambda value: _minus(format_difference(value, as_percent=metric.as_percent)),
        span=lambda ends: format_range(ends, " – ", as_percent=metric.as_percent),
        perfect=first.correct is not None and any(row.score in (0.0, 1.0) for row in comparison.rows),
        against_time=drawn.add(
            f"{metric.name.replace('_', '-')}-time",
            figures.score_against_time(comparison.rows),
            f"Test {metric.label} against time: "
            + "; ".join(
                f"{row.label} {format_score(row.score, as_percent=metric.as_percent)} in {duration(row.seconds)}"
                for row in comparison.rows
            ),
        ),
        renderings_words=renderings_words(comparison),
        side_by_side=_side_by_side(comparison, drawn),
        learning=list(_learning(comparison, drawn)),
        selections=list(_selections(comparison, drawn)),
        narrowed=any("rows" in entry for row in comparison.rows for entry in row.results[0].selection),
        confusions=list(_confusions(comparison, class_names, drawn)),
        first=first,
        mistakes=mistakes,
        mistakes_in_all=mistakes_in_all,
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


def write_page(path: Path, page: str) -> None:
    """Write a page, whatever names are in it."""
    write_atomically(path, printable(page).encode("utf-8"))


class _Figures:
    """Saves figures in a folder and hands them on for the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, figure: Figure, alt: str, caption: str = "") -> ReportFigure:
        """Save a figure as NAME.png and return it as it stands on the page."""
        figures.save_png(figure, self.folder / f"{name}.png")
        # matplotlib escapes what is text in it
        return ReportFigure(Markup(figures.inline_svg(figure)), alt, caption)


def template(name: str) -> jinja2.Template:
    """Return a template of this folder, with the filters that all pages use."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": lambda share: _minus(points(share)),
        "score_of": lambda value, metric: format_score(value, as_percent=metric.as_percent),
        "capitalized": capitalized,
        "typographic": _typographic,
        "duration": duration,
        "bytes": byte_count,
        "count": format_count,
        "p_value": lambda p: "< 0.001" if p < 0.001 else f"{p:.2g}",
    }
    return environment.get_template(name)


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _typographic(text: str) -> str:
    """Return words with true minus signs, and with figures and their signs kept on one line."""
    text = re.sub(r"(?<=[\s(])-(?=\d)", "−", text)
    return re.sub(r"(?<=\d) (?=%)|(?<=p) (?=[=<])|(?<=[=<]) (?=\d)", "\N{NO-BREAK SPACE}", text)


def _scale(comparison: Comparison) -> Callable[[float], float]:
    """Return what puts a score on the common scale, 0 to 100, that the intervals in the table are drawn on."""
    low = min(row.ci95[0] for row in comparison.rows)
    high = max(row.ci95[1] for row in comparison.rows)
    width = max(high - low, 1e-6)
    return lambda score: round(4 + 92 * (score - low) / width, 2)


def _side_by_side(comparison: Comparison, drawn: _Figures) -> list[ReportFigure]:
    """Return the curves of all methods that train on images in one plot, over epochs and over time; none for one."""
    rows = {
        number: row
        for number, row in enumerate(comparison.rows)
        if not row.cached and all(figures.best_epoch(result.history) for result in row.results)
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


def _learning(comparison: Comparison, drawn: _Figures) -> Iterator[tuple[MethodSummary, list[ReportFigure]]]:
    for number, row in enumerate(comparison.rows, start=1):
        best_epochs = [best["epoch"] for result in row.results if (best := figures.best_epoch(result.history))]
        if best_epochs:
            epochs = ", ".join(map(str, best_epochs))
            yield (
                row,
                [
                    drawn.add(
                        f"learning-{number}-{_slug(row.label)}-{quantity}",
                        figures.learning_curve(row, quantity),
                        f"{quantity} of train and validation over the epochs of {row.label}; kept: epoch {epochs}",
                        f"kept: epoch {epochs}" if quantity == "accuracy" else "",
                    )
                    for quantity in ("loss", "accuracy")
                ],
            )


def _selections(comparison: Comparison, drawn: _Figures) -> Iterator[dict[str, Any]]:
    """Yield what is shown of each method that selected something: the plot, and what the first seed tried, best first.

    Settings that were fitted to a part of the rows, and thought not worth all of them, come last.
    """
    for number, row in enumerate(comparison.rows, start=1):
        first = row.results[0]
        candidates = [entry for entry in first.selection if entry.get("score") is not None]
        if not candidates:
            continue
        candidates.sort(key=lambda entry: ("rows" in entry, -entry["score"]))
        choice = figures.chosen(first) or candidates[0]
        choice_text = ", ".join(f"{name} {_short(value)}" for name, value in choice.items() if name != "score")
        criterion_text = f" by {criterion}" if (criterion := first.settings.get("selected by")) else ""
        caption = f"chosen{criterion_text}{f', seed {first.seed}' if len(row.results) > 1 else ''}: {choice_text}"
        alt = f"Score of everything tried for {row.label}; {caption}, {percent(choice['score'])}"
        figure = figures.selection_scores(row)
        name = f"selection-{number}-{_slug(row.label)}"
        yield {
            "row": row,
            "picture": None if figure is None else drawn.add(name, figure, alt, caption),
            "columns": list(dict.fromkeys(name for entry in candidates for name in entry)),
            "tried": [
                {name: percent(value) if name == "score" else _short(value) for name, value in entry.items()}
                for entry in candidates
            ],
        }


def _confusions(comparison: Comparison, names: Sequence[str], drawn: _Figures) -> Iterator[dict[str, Any]]:
    """Yield what is shown of each confusion matrix: a table for few classes, else a heat map and the worst pairs.

    Nothing where the task has no classes.
    """
    for number, row in enumerate(comparison.rows, start=1):
        confusion = row.confusion
        if confusion is None:
            continue
        per_cell = figures.classes_per_cell(len(names))
        picture = drawn.add(
            f"confusion-{number}-{_slug(row.label)}",
            figures.confusion_heat_map(confusion, names),
            f"Confusion matrix of {row.label}, true classes down, predicted classes across",
            f"each cell is the largest share of {per_cell} × {per_cell} classes" if per_cell > 1 else "",
        )
        tests = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        is_small = len(names) <= LARGEST_TABLE
        yield {
            "row": row,
            "counts": confusion.tolist() if is_small else None,
            "shares": (confusion / tests).tolist(),
            "picture": None if is_small else picture,
            "pairs": [] if is_small else _confused_pairs(confusion, names),
        }


def _confused_pairs(confusion: NDArray[np.int64], names: Sequence[str], max_pairs: int = 10) -> list[dict[str, Any]]:
    """Return the pairs of classes that are mixed up most often, with how often and of how many."""
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(errors, axis=None, kind="stable")[::-1][:max_pairs]
    pairs = (np.unravel_index(index, errors.shape) for index in order)
    return [
        {
            "true": names[true],
            "predicted": names[predicted],
            "times": int(errors[true, predicted]),
            "of": int(confusion[true].sum()),
        }
        for true, predicted in pairs
        if errors[true, predicted]
    ]


def _mistakes(
    row: MethodSummary, comparison: Comparison, class_names: Sequence[str]
) -> tuple[list[Misclassified] | None, int]:
    """Return the mistakes of a method, with the first seed, that it was surest of, and how many there are in all.

    None where the task knows neither right nor wrong, or not how sure a prediction is.
    """
    predictions = row.results[0].predictions
    confidence, correct = comparison.task.confidence(predictions.statistics), predictions.correct
    if confidence is None or correct is None:
        return None, 0
    mistakes = np.flatnonzero(~correct)
    surest = mistakes[np.argsort(-confidence[mistakes], kind="stable")][:MISTAKES]
    # the same place in the order of keys is the same image for every method
    position = np.empty(len(predictions), dtype=np.int64)
    position[predictions.key_order] = np.arange(len(predictions))
    others_correct = [other_row.correct for other_row in comparison.rows if other_row is not row]
    misclassified = []
    shown = dict(zip(comparison.class_names, class_names, strict=True))
    for index in surest:
        true, predicted = comparison.task.cells(predictions.statistics[index])[:2]
        misclassified.append(
            Misclassified(
                thumbnail=thumbnail(str(predictions.locations[index]), row.results[0].options),
                location=str(predictions.locations[index]),
                true=shown.get(true, true),
                predicted=shown.get(predicted, predicted),
                probability=float(confidence[index]),
                others_wrong=sum(
                    correct_of_other is not None and not correct_of_other[position[index]]
                    for correct_of_other in others_correct
                ),
            )
        )
    return misclassified, len(mistakes)


def thumbnail(location: str, options: Mapping[str, Any]) -> str | None:
    """Return a small JPEG of an image as a data URI, or None where it is not there any more.

    It is shown as it was read with `options`, as far as a person can be shown its channels.
    """
    from stages.data.images.reading import reading_from
    from stages.data.images.rgb import as_colors
    from stages.data.sources.open_image import read_image

    try:
        pixels = as_colors(read_image(location, reading_from(options)))
    except DataError:
        return None
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return _data_uri(image)


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
    return _data_uri(image, encoding)


def _data_uri(image: Image.Image, encoding: Literal["JPEG", "PNG"] = "JPEG") -> str:
    encoded = io.BytesIO()
    image.save(encoded, encoding, quality=82, optimize=True)
    return f"data:image/{encoding.lower()};base64,{base64.b64encode(encoded.getvalue()).decode()}"


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


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:60]
