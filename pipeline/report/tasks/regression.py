"""A page on numbers: predicted against true ones, errors, intervals, the worst samples; of levels confusions too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.method_summary import MethodSummary
from pipeline.report.page_parts import ReportFigure, slug
from pipeline.report.tasks.beside import Beside, what_stands_beside, words_of
from pipeline.report.tasks.confusion import confusions
from pipeline.report.tasks.feature_plane import plane_of_numbers
from pipeline.report.tasks.number_figures import predicted_against_true, residuals
from pipeline.report.tasks.registry import PageContext, TaskPart, register_task_page
from pipeline.text import in_unit
from stages.runtime.unicode_text import told_apart
from stages.tasks.base import Statistics
from stages.tasks.regression import COVERAGE, Regression

WORST = 12
"""Samples that are shown."""

MOST_METHODS = 6
"""Methods whose predictions are drawn; of more those that are ranked first."""


@dataclass(frozen=True)
class Interval:
    """The intervals of a method for one of the numbers: with the first seed, on the test split.

    Attributes
    ----------
    method, number : str
    coverage : float
        The share of the true numbers that lie inside.
    width : float
        The median of their widths, in the unit.
    factor : float
        The median of upper over lower end.
    """

    method: str
    number: str
    coverage: float
    width: float
    factor: float


@dataclass(frozen=True)
class FarOff:
    """A test sample with a large error."""

    thumbnails: list[str | None]
    location: str
    name: str
    predicted: str
    true: str
    low: str
    high: str
    beside: Beside


@register_task_page("regression")
def numbers_part(context: PageContext) -> TaskPart:
    """Scatter, errors, intervals, worst samples, and confusions of levels."""
    task = _task(context.first)
    statistics = context.predictions.statistics
    names = told_apart(task.levels)
    worst, note = _worst(context)
    return TaskPart(
        subject=f"predicted: {', '.join(task.names)}{f', one of {len(names)} levels' if names else ''}",
        baseline=_baseline(task, statistics, context.first.unit),
        sections=context.render(
            "regression.html.j2",
            task=task,
            names=names,
            confusions=list(confusions(context.comparison, names, context.drawn)) if names else [],
            pictures=list(_pictures(context)),
            drawn_methods=MOST_METHODS if len(context.comparison.rows) > MOST_METHODS else None,
            intervals=list(_intervals(context)),
            coverage=COVERAGE,
            worst=worst,
            beside=words_of([one.beside for one in worst], context, note, "a higher number"),
            plane=plane_of_numbers(
                context, task.names[0], statistics["target"][:, 0], _furthest_off(context)[0], log=task.log
            ),
        ),
    )


def _task(row: MethodSummary) -> Regression:
    task = row.results[0].predictions.task
    assert isinstance(task, Regression)  # the registry asks for it by its name
    return task


def _baseline(task: Regression, statistics: Statistics, unit: str) -> str:
    """Return how far off one number for all would be."""
    errors = []
    for name, column in zip(task.names, statistics["target"].T, strict=True):
        known = column[~np.isnan(column)]
        if len(known):
            error = in_unit(float(np.mean(np.abs(known - np.median(known)))))
            errors.append(f"{error} ({name})" if len(task.names) > 1 else error)
    return f"Always saying the median of the test {unit}s would be off by {', '.join(errors)} on average."


def _pictures(context: PageContext) -> Iterator[tuple[str, list[ReportFigure]]]:
    """Yield, for each method or, of several numbers, each number of the best one, both plots of it with a title."""
    task = _task(context.first)
    several = len(task.names) > 1
    rows = [context.first] if several else context.comparison.ranked[:MOST_METHODS]
    for row in rows:
        row_task, statistics = _task(row), row.results[0].predictions.statistics
        for place, name in enumerate(row_task.names):
            true, predicted, low, high = (
                statistics[field][:, place] for field in ("target", "prediction", "low", "high")
            )
            known = ~np.isnan(true)
            if not known.any():
                continue
            true, predicted, low, high = (values[known] for values in (true, predicted, low, high))
            ends = None if row_task.interval is None else (low, high)
            half_width = None if row_task.interval is None else row_task.interval[place] * row_task.scale[place]
            title = name if several else row.label
            file_name = slug(f"{row.label}-{name}" if several else row.label)
            yield (
                title,
                [
                    context.drawn.add(
                        f"predicted-{file_name}",
                        predicted_against_true(true, predicted, ends, log=row_task.log, name=name),
                        f"Predicted {name} over true {name}, {row.label}, {len(true)} test {row.unit}s",
                    ),
                    context.drawn.add(
                        f"residuals-{file_name}",
                        residuals(true, predicted, half_width, log=row_task.log, name=name),
                        f"Errors of {name} over what {row.label} predicts",
                    ),
                ],
            )


def _intervals(context: PageContext) -> Iterator[Interval]:
    for row in context.comparison.rows:
        task, statistics = _task(row), row.results[0].predictions.statistics
        if task.interval is None:
            continue
        for place, name in enumerate(task.names):
            true, low, high = (statistics[field][:, place] for field in ("target", "low", "high"))
            known = ~np.isnan(true)
            if known.any():
                inside = (low <= true) & (true <= high)
                factor = float(np.median(high / low)) if task.log else float("nan")
                yield Interval(row.label, name, float(inside[known].mean()), float(np.median(high - low)), factor)


def _furthest_off(context: PageContext) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the samples that the best method is furthest off for, the worst first, and of each the number."""
    task, statistics = _task(context.first), context.predictions.statistics
    errors = np.abs(_scaled(task, statistics["prediction"]) - _scaled(task, statistics["target"]))
    errors = np.where(np.isnan(errors), -1.0, errors)
    worst = errors.argmax(axis=1)
    furthest = errors[np.arange(len(errors)), worst]
    indices = np.argsort(-furthest, kind="stable")[:WORST]
    indices = indices[furthest[indices] > 0]
    return indices, worst[indices]


def _worst(context: PageContext) -> tuple[list[FarOff], str]:
    """Return the largest errors, on the scale on which is predicted, and what is missing beside them."""
    task, statistics = _task(context.first), context.predictions.statistics
    indices, places = _furthest_off(context)
    beside, note = what_stands_beside(context, indices, places.tolist())
    found = []
    for index, place, stands in zip(indices.tolist(), places.tolist(), beside, strict=True):
        cells = {field: float(statistics[field][index, place]) for field in ("prediction", "target", "low", "high")}
        found.append(
            FarOff(
                thumbnails=context.thumbnails(index),
                location=str(context.predictions.locations[index]),
                name=task.names[place],
                predicted=in_unit(cells["prediction"]),
                true=str(context.predictions.labels[index]) if task.levels else in_unit(cells["target"]),
                low="" if task.interval is None else in_unit(cells["low"]),
                high="" if task.interval is None else in_unit(cells["high"]),
                beside=stands,
            )
        )
    return found, note


def _scaled(task: Regression, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((np.log(numbers) if task.log else numbers) / task.scale)
