"""A page on several labels a sample: each label's scores, what occurs together, and the most confident mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.method_summary import MethodSummary
from pipeline.report import figures
from pipeline.report.page_parts import ReportFigure
from pipeline.report.tasks.beside import Beside, what_stands_beside, words_of
from pipeline.report.tasks.confusion import LARGEST_TABLE
from pipeline.report.tasks.feature_plane import plane_of_labels
from pipeline.report.tasks.label_figures import MOST_LABELS, label_scores
from pipeline.report.tasks.registry import PageContext, TaskPart, register_task_page
from pipeline.text import percent
from stages.config.data import SPLITS
from stages.runtime.unicode_text import told_apart
from stages.tasks.base import Statistics
from stages.tasks.label_metrics import average_precision
from stages.tasks.metrics import area_under_roc

MISTAKES = 12
"""Mistakes that are shown, one a sample."""

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class LabelScores:
    """One label under one method: with the first seed, on the test split.

    Attributes
    ----------
    name : str
    support : dict of str to int
        Samples that have the label, in each split that is known.
    unknown : int
        Test samples of which it is not known.
    average_precision, area, f1, precision, recall : float
        nan where one is not defined.
    threshold : float
    """

    name: str
    support: dict[str, int]
    unknown: int
    average_precision: float
    area: float
    f1: float
    precision: float
    recall: float
    threshold: float


@dataclass(frozen=True)
class WrongLabel:
    """A label of a test sample that was predicted wrongly."""

    thumbnails: list[str | None]
    location: str
    label: str
    is_there: bool
    probability: float
    true: str
    others_wrong: int
    beside: Beside


@register_task_page("multi_label")
def labels_part(context: PageContext) -> TaskPart:
    """Scores of each label, co-occurrence, and the most confident mistakes."""
    comparison, predictions = context.comparison, context.predictions
    names = told_apart(comparison.class_names)
    statistics = predictions.statistics
    scores = _scores(context, names)
    shares = (statistics["target"] == 1).sum(axis=0) / np.maximum((~np.isnan(statistics["target"])).sum(axis=0), 1)
    mistakes, mistakes_in_all, note = _mistakes(context, names)
    together = [
        _together(context, name, title, statistics, field, names)
        for name, title, field in (
            ("co-occurrence", "true beside true", "target"),
            ("co-prediction", "predicted beside true", "predicted"),
        )
    ]
    return TaskPart(
        subject=f"{len(names)} labels",
        baseline=f"An order by chance would have a mAP of {percent(_mean_of_present(shares))}.",
        sections=context.render(
            "multi_label.html.j2",
            names=names,
            scores=scores,
            splits=[split for split in SPLITS if split in scores[0].support],
            unknown=any(one.unknown for one in scores),
            without_positive=[one.name for one in scores if not one.support["test"]],
            not_trained=[one.name for one in scores if one.support.get("train") == 0],
            precisions=_precision_figure(context, shares, names),
            most_labels=MOST_LABELS if len(names) > MOST_LABELS else None,
            together=together,
            mistakes=mistakes,
            beside=words_of([one.beside for one in mistakes], context, note, "the label"),
            plane=plane_of_labels(context, names),
            mistakes_in_all=mistakes_in_all,
        ),
    )


def _scores(context: PageContext, names: Sequence[str]) -> list[LabelScores]:
    """Return what the best method reaches on each label."""
    statistics, task = context.predictions.statistics, context.predictions.task
    thresholds = getattr(task, "thresholds", None) or [DEFAULT_THRESHOLD] * len(names)
    support = _support(context)
    scores = []
    for number, name in enumerate(names):
        known = ~np.isnan(statistics["target"][:, number])
        target = statistics["target"][known, number] == 1
        probabilities, predicted = (statistics[field][known, number] for field in ("probabilities", "predicted"))
        hits, found, there = int((target & predicted).sum()), int(predicted.sum()), int(target.sum())
        scores.append(
            LabelScores(
                name=name,
                support={**{split: int(counts[number]) for split, counts in support.items()}, "test": there},
                unknown=int((~known).sum()),
                average_precision=average_precision(target, probabilities),
                area=area_under_roc(target, probabilities) if 0 < there < len(target) else float("nan"),
                f1=2 * hits / (found + there) if found + there else float("nan"),
                precision=hits / found if found else float("nan"),
                recall=hits / there if there else float("nan"),
                threshold=float(thresholds[number]),
            )
        )
    return scores


def _support(context: PageContext) -> dict[str, NDArray[np.int64]]:
    """Return how many samples of train and validation have each label, as far as the run still knows."""
    manifest = context.manifest
    if manifest is None or manifest.class_names != context.comparison.class_names:
        return {}
    has_label, splits = manifest.targets == 1, np.array(manifest.splits)
    return {split: has_label[splits == split].sum(axis=0) for split in ("train", "val")}


def _mean_of_present(shares: NDArray[np.float64]) -> float:
    return float(shares[shares > 0].mean()) if (shares > 0).any() else 0.0


def _precision_figure(context: PageContext, shares: NDArray[np.float64], names: Sequence[str]) -> ReportFigure:
    rows = [context.first, *(row for row in context.comparison.rows if row is not context.first)]
    precisions = np.array([_average_precisions(row) for row in rows])
    words = "; ".join(
        f"{name} {percent(precision)}"
        for name, precision in zip(names, precisions[0], strict=True)
        if not np.isnan(precision)
    )
    return context.drawn.add(
        "average-precision",
        label_scores(precisions, names, [row.label for row in rows], "average precision", shares),
        f"Average precision of each label under each method; {rows[0].label}: {words}",
    )


def _average_precisions(row: MethodSummary) -> list[float]:
    """Return the average precision of each label with the first seed; nan for one without a positive."""
    statistics = row.results[0].predictions.statistics
    precisions = []
    for target, probabilities in zip(statistics["target"].T, statistics["probabilities"].T, strict=True):
        known = ~np.isnan(target)
        precisions.append(average_precision(target[known] == 1, probabilities[known]))
    return precisions


def _together(
    context: PageContext, name: str, title: str, statistics: Statistics, field: str, names: Sequence[str]
) -> dict[str, Any]:
    """Return how often each label is true, or predicted, of samples that truly have another: a table or a picture."""
    true = (statistics["target"] == 1).astype(np.int64)
    beside = (statistics[field] == 1).astype(np.int64)
    counts = true.T @ beside
    shares = counts / np.maximum(true.sum(axis=0), 1)[:, None]
    if len(names) <= LARGEST_TABLE:
        return {"title": title, "counts": counts.tolist(), "shares": shares.tolist(), "picture": None}
    picture = context.drawn.add(
        name, figures.confusion_heat_map(counts, names, shares), f"How often labels occur together, {title}"
    )
    return {"title": title, "counts": None, "shares": None, "picture": picture}


def _mistakes(context: PageContext, names: Sequence[str]) -> tuple[list[WrongLabel], int, str]:
    """Return the wrong labels of the best method, with the first seed, that it was surest of, how many, and a note.

    How sure it was is how far the probability lies beyond the threshold, as a share of how far it could. Of a sample
    the worst label is shown.
    """
    row, statistics = context.first, context.predictions.statistics
    thresholds = np.array(getattr(context.predictions.task, "thresholds", None) or [DEFAULT_THRESHOLD] * len(names))
    probabilities, target, predicted = (statistics[field] for field in ("probabilities", "target", "predicted"))
    wrong = ~np.isnan(target) & (predicted != (target == 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        beyond = np.where(predicted, (probabilities - thresholds) / (1 - thresholds), 1 - probabilities / thresholds)
    sureness = np.where(wrong, np.nan_to_num(beyond), -1.0)
    worst = sureness.argmax(axis=1)
    samples = np.flatnonzero(wrong.any(axis=1))
    surest = samples[np.argsort(-sureness[samples, worst[samples]], kind="stable")][:MISTAKES]
    others = [_wrong_in_order(other) for other in context.comparison.rows if other is not row]
    mistakes = []
    beside, note = what_stands_beside(context, surest, worst[surest].tolist())
    for number, index in enumerate(surest):
        label, position = int(worst[index]), context.positions[index]
        true = [name for name, value in zip(names, target[index], strict=True) if value == 1]
        mistakes.append(
            WrongLabel(
                thumbnails=context.thumbnails(int(index)),
                location=str(context.predictions.locations[index]),
                label=names[label],
                is_there=bool(target[index, label] == 1),
                probability=float(probabilities[index, label]),
                true=", ".join(true) or "no label",
                others_wrong=sum(bool(wrong_of_other[position, label]) for wrong_of_other in others),
                beside=beside[number],
            )
        )
    return mistakes, int(wrong.sum()), note


def _wrong_in_order(row: MethodSummary) -> NDArray[np.bool_]:
    """Return which labels a method predicted wrongly with the first seed, bool [n, labels], in the order of keys."""
    predictions = row.results[0].predictions
    statistics = predictions.statistics[predictions.key_order]
    known = ~np.isnan(statistics["target"])
    return np.asarray(known & (statistics["predicted"] != (statistics["target"] == 1)))
