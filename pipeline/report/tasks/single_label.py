"""A page on one class a sample: confusions, each class, what probabilities are worth, the most confident mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.tasks.class_table import groups_of, lowest_first, worst_classes
from pipeline.report.tasks.confusion import confusions
from pipeline.report.tasks.decisions import possible_sets, two_classes
from pipeline.report.tasks.probabilities import probabilities_part
from pipeline.report.tasks.registry import PageContext, TaskPart, register_task_page
from pipeline.text import percent
from stages.runtime.unicode_text import told_apart

MISTAKES = 12
"""Mistakes that are shown."""


@dataclass(frozen=True)
class Misclassified:
    """A test sample that was predicted wrongly; `thumbnails` are data URIs, or None where an image cannot be read."""

    thumbnails: list[str | None]
    location: str
    true: str
    predicted: str
    probability: float
    others_wrong: int


@register_task_page("single_label")
def classes_part(context: PageContext) -> TaskPart:
    """Confusions and mistakes; of a task that has neither, nothing."""
    comparison = context.comparison
    names = told_apart(comparison.class_names)
    mistakes, mistakes_in_all = _mistakes(context, names)
    per_class = worst_classes(context, names)
    baseline = ""
    if (majority := comparison.majority_class) is not None:
        baseline = (
            f"Always saying “{names[majority[0]]}”, the most frequent class, would be right in {percent(majority[1])}."
        )
    return TaskPart(
        subject=f"{len(names)} classes" if names else "",
        baseline=baseline,
        sections=context.render(
            "single_label.html.j2",
            names=names,
            confusions=list(confusions(comparison, names, context.drawn)),
            per_class=per_class,
            lowest=sorted(per_class, key=lowest_first)[:10],
            classes_in_all=len(names),
            groups=groups_of(context) is not None,
            probabilities=probabilities_part(context),
            trade_off=two_classes(context, names),
            sets=possible_sets(context, names) if names else None,
            mistakes=mistakes,
            mistakes_in_all=mistakes_in_all,
        ),
    )


def _mistakes(context: PageContext, names: Sequence[str]) -> tuple[list[Misclassified] | None, int]:
    """Return the mistakes of a method, with the first seed, that it was surest of, and how many there are in all.

    None where the task knows neither right nor wrong, or not how sure a prediction is.
    """
    comparison, row, predictions = context.comparison, context.first, context.predictions
    confidence, correct = comparison.task.confidence(predictions.statistics), predictions.correct
    if confidence is None or correct is None:
        return None, 0
    mistakes = np.flatnonzero(~correct)
    surest = mistakes[np.argsort(-confidence[mistakes], kind="stable")][:MISTAKES]
    position = context.positions
    others_correct = [other_row.correct for other_row in comparison.rows if other_row is not row]
    misclassified = []
    shown = dict(zip(comparison.class_names, names, strict=True))
    for index in surest:
        true, predicted = comparison.task.cells(predictions.statistics[index])[:2]
        misclassified.append(
            Misclassified(
                thumbnails=context.thumbnails(index),
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
