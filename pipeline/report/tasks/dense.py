"""A page on a class for each pixel: each class's scores, what is taken for what, and masks to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.shown_masks import ShownMasks
from pipeline.report import figures
from pipeline.report.mask_pictures import css, photograph, picture_uri
from pipeline.report.page_parts import ReportFigure
from pipeline.report.tasks.class_table import groups_of
from pipeline.report.tasks.confusion import LARGEST_TABLE
from pipeline.report.tasks.label_figures import MOST_LABELS, label_scores
from pipeline.report.tasks.registry import PageContext, TaskPart, register_task_page
from pipeline.run_layout import SHOWN_MASKS
from pipeline.text import percent
from stages.data.masks.mask_colors import Color, class_colors, colored, errors, overlay
from stages.runtime.unicode_text import told_apart
from stages.tasks.base import Statistics
from stages.tasks.dense_metrics import class_iou, class_ious, mean_iou, pixel_accuracy, pixel_counts
from stages.tasks.intervals import interval

MOST_CLASSES = 60
"""Classes that the table has rows for; of more those with the lowest intersection over union."""

_RESAMPLES = 2_000


@dataclass(frozen=True)
class DenseClass:
    """One class under the best method with the first seed, on the test split.

    Attributes
    ----------
    name : str
    color : str
        As CSS has it.
    images : int
        Test samples that have a pixel of it.
    share : float
        Of the known pixels.
    iou : float
        nan where it occurs neither truly nor in what is predicted.
    low, high : float
    recall, precision : float
    """

    name: str
    color: str
    images: int
    share: float
    iou: float
    low: float
    high: float
    recall: float
    precision: float


@dataclass(frozen=True)
class ShownSample:
    """A test sample to look at: pictures as data URIs, the photograph's None where it is not there any more."""

    location: str
    score: float
    right: float
    pictures: tuple[tuple[str, str | None], ...]


@register_task_page("dense")
def dense_part(context: PageContext) -> TaskPart:
    """Scores of each class, confusion of pixels, and the best, middling and worst masks."""
    comparison, predictions = context.comparison, context.predictions
    names = told_apart(comparison.class_names)
    colors = class_colors(len(names))
    rows = [context.first, *(row for row in comparison.rows if row is not context.first)]
    confusion = predictions.statistics.sum(axis=0)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    classes = _classes(predictions.statistics, names, colors, groups_of(context))
    absent = [one.name for one in classes if not one.images]
    shown = sorted(classes, key=lambda one: np.nan_to_num(one.iou, nan=2.0))[:MOST_CLASSES]
    known = int(confusion.sum())
    return TaskPart(
        subject=f"{len(names)} classes, one for each pixel",
        baseline=_baseline(confusion, names),
        sections=context.render(
            "dense.html.j2",
            classes=classes if len(classes) <= MOST_CLASSES else shown,
            classes_in_all=len(classes),
            absent=absent,
            groups=groups_of(context) is not None,
            known=known,
            ious=_figure(context, rows, names),
            most_labels=MOST_LABELS if len(names) > MOST_LABELS else None,
            names=names,
            thousands=(confusion / 1000).round().astype(np.int64).tolist() if len(names) <= LARGEST_TABLE else None,
            shares=shares.tolist(),
            heat=None if len(names) <= LARGEST_TABLE else _heat(context, confusion, names, shares),
            legend=[(name, css(color)) for name, color in zip(names, colors, strict=True)],
            samples=_samples(context, colors),
        ),
    )


def _baseline(confusion: NDArray[np.int64], names: Sequence[str]) -> str:
    """Say what one class for all pixels would reach."""
    truly = confusion.sum(axis=1)
    most = int(truly.argmax())
    share = truly[most] / max(truly.sum(), 1)
    return (
        f"Calling every pixel “{names[most]}”, the most frequent class, would be right for {percent(share)} of them, a "
        f"mIoU of {percent(share / max(int((truly > 0).sum()), 1))}."
    )


def _classes(
    statistics: Statistics, names: Sequence[str], colors: Sequence[Color], groups: NDArray[np.int64] | None
) -> list[DenseClass]:
    counts = pixel_counts(statistics.sum(axis=0))
    true, predicted, right = counts.astype(np.float64)
    images = (pixel_counts(statistics)[:, 0] > 0).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall, precision = right / true, right / predicted
    classes = []
    for number, name in enumerate(names):
        iou = class_ious(counts)[number]
        ends = (np.nan, np.nan)
        if not np.isnan(iou):
            ends = interval(class_iou(number), statistics, groups, resamples=_RESAMPLES)[:2]
        classes.append(
            DenseClass(
                name,
                css(colors[number]),
                int(images[number]),
                true[number] / max(true.sum(), 1),
                iou,
                *ends,
                recall[number],
                precision[number],
            )
        )
    return classes


def _figure(context: PageContext, rows: Sequence[Any], names: Sequence[str]) -> ReportFigure:
    ious = np.array([class_ious(pixel_counts(row.results[0].predictions.statistics.sum(axis=0))) for row in rows])
    words = "; ".join(f"{name} {percent(iou)}" for name, iou in zip(names, ious[0], strict=True) if not np.isnan(iou))
    return context.drawn.add(
        "class-iou",
        label_scores(ious, names, [row.label for row in rows], "intersection over union"),
        f"Intersection over union of each class under each method; {rows[0].label}: {words}",
    )


def _heat(
    context: PageContext, confusion: NDArray[np.int64], names: Sequence[str], shares: NDArray[np.float64]
) -> ReportFigure:
    return context.drawn.add(
        "confusion",
        figures.confusion_heat_map(confusion, names, shares),
        f"Which class {context.first.label} takes for which, pixel by pixel, true classes down",
    )


def _samples(context: PageContext, colors: Sequence[Color]) -> list[ShownSample]:
    """Return the samples of which the best method, with the first seed, kept masks."""
    result = context.first.results[0]
    masks = None if result.directory is None else ShownMasks.load(result.directory / SHOWN_MASKS)
    if masks is None:
        return []
    samples = []
    place_of = {key: place for place, key in enumerate(context.predictions.keys.tolist())}
    for key, predicted, true in zip(masks.keys.tolist(), masks.predicted, masks.true, strict=True):
        if (place := place_of.get(key)) is None:
            continue  # of the samples that not all methods were tested on
        counts = pixel_counts(context.predictions.statistics[place])
        location = str(context.predictions.locations[place])
        pixels = photograph(location, result.options, (true.shape[0], true.shape[1]))
        pictures = [("photograph", None if pixels is None else picture_uri(pixels, "JPEG"))]
        for words, mask in (("truth", true), ("predicted", predicted)):
            picture = colored(mask, colors) if pixels is None else overlay(pixels, mask, colors)
            pictures.append((words, picture_uri(picture, "JPEG")))
        pictures.append(("wrong", picture_uri(errors(predicted, true), "PNG")))
        samples.append(ShownSample(location, mean_iou(counts), pixel_accuracy(counts), tuple(pictures)))
    return samples
