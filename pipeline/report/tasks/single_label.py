"""A page on one class a sample: confusions, each class, probabilities, features in a plane, mistakes and right ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.tasks.beside import SMALL, Beside, what_stands_beside, words_of
from pipeline.report.tasks.class_table import groups_of, lowest_first, worst_classes
from pipeline.report.tasks.confusion import confusions
from pipeline.report.tasks.decisions import possible_sets, two_classes
from pipeline.report.tasks.feature_plane import plane_of_classes
from pipeline.report.tasks.probabilities import probabilities_part
from pipeline.report.tasks.registry import PageContext, TaskPart, register_task_page
from pipeline.text import percent
from stages.runtime.unicode_text import told_apart

MISTAKES = 12
"""Mistakes that are shown."""

RIGHT_OF_CLASS, RIGHT = 3, 60
"""Rightly predicted images that are shown of each class, and of all classes together."""


@dataclass(frozen=True)
class Misclassified:
    """A test sample that was predicted wrongly.

    Attributes
    ----------
    thumbnails : list of str or None
        Data URIs; None where an image cannot be read.
    location, true, predicted : str
    probability : float
        Of the predicted class.
    others_wrong : int
        How many other methods are wrong too.
    beside : Beside
    """

    thumbnails: list[str | None]
    location: str
    true: str
    predicted: str
    probability: float
    others_wrong: int
    beside: Beside


@dataclass(frozen=True)
class RightOnes:
    """Rightly predicted samples of a class: pictures, probabilities and locations, the surest first."""

    name: str
    samples: list[tuple[str, float, str]]


@register_task_page("single_label")
def classes_part(context: PageContext) -> TaskPart:
    """Confusions and mistakes; of a task that has neither, nothing."""
    comparison = context.comparison
    names = told_apart(comparison.class_names)
    mistakes, mistakes_in_all, note = _mistakes(context, names)
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
            beside=words_of([one.beside for one in mistakes or ()], context, note, "the predicted class"),
            plane=plane_of_classes(context, names),
            right=_right_ones(context, names),
        ),
    )


def _mistakes(context: PageContext, names: Sequence[str]) -> tuple[list[Misclassified] | None, int, str]:
    """Return the mistakes that a method was surest of, with the first seed, how many there are in all, and a note.

    The note is on what stands beside them. None where the task knows neither right nor wrong, or not how sure a
    prediction is.
    """
    comparison, row, predictions = context.comparison, context.first, context.predictions
    confidence, correct = comparison.task.confidence(predictions.statistics), predictions.correct
    if confidence is None or correct is None:
        return None, 0, ""
    mistakes = np.flatnonzero(~correct)
    surest = mistakes[np.argsort(-confidence[mistakes], kind="stable")][:MISTAKES]
    position = context.positions
    others_correct = [other_row.correct for other_row in comparison.rows if other_row is not row]
    shown = dict(zip(comparison.class_names, names, strict=True))
    predicted_classes = None
    if comparison.task.name == "single_label":
        predicted_classes = predictions.statistics["probabilities"][surest].argmax(axis=1).tolist()
    beside, note = what_stands_beside(context, surest, predicted_classes)
    misclassified = []
    for number, index in enumerate(surest):
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
                beside=beside[number],
            )
        )
    return misclassified, len(mistakes), note


def _right_ones(context: PageContext, names: Sequence[str]) -> list[RightOnes]:
    """Return rightly predicted samples of each class: the surest one, one in the middle, the least sure."""
    comparison, predictions = context.comparison, context.predictions
    confidence, correct = comparison.task.confidence(predictions.statistics), predictions.correct
    if confidence is None or correct is None or comparison.task.name != "single_label":
        return []
    of_class = max(min(RIGHT_OF_CLASS, RIGHT // max(len(names), 1)), 1)
    found = []
    for number in range(min(len(names), RIGHT)):
        rows = np.flatnonzero(correct & (predictions.statistics["target"] == number))
        rows = rows[np.argsort(-confidence[rows], kind="stable")]
        if not len(rows):
            continue
        places = np.unique(np.linspace(0, len(rows) - 1, of_class).round().astype(int))
        pictures = [(context.thumbnails(index, SMALL)[0], index) for index in rows[places]]
        samples = [
            (uri, float(confidence[index]), str(predictions.locations[index]))
            for uri, index in pictures
            if uri is not None
        ]
        if samples:
            found.append(RightOnes(names[number], samples))
    return found
