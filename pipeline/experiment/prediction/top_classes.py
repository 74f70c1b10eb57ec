"""Of predictions of one class: the next probable ones too, and none where none is probable enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cache.errors import UsageError
from pipeline.evaluation.decision import ONE_CLASS, class_names_of
from pipeline.experiment.prediction.prediction import POSSIBLE, Prediction
from stages.tasks.base import Task

ABSTAINED = ""
"""What stands in the column of the class where none is predicted."""


def with_top_classes(
    predictions: Sequence[Prediction], task: Task, top_k: int | None = None, abstain_below: float | None = None
) -> list[Prediction]:
    """Return predictions with columns ``top_1``, ``top_1_probability``, ``top_2``, ..., and without unsure classes.

    Parameters
    ----------
    predictions : sequence of Prediction
    task : Task
    top_k : int, optional
        How many classes are named, the most probable first.
    abstain_below : float, optional
        A class that is less probable than this is not predicted: its cell is empty.

    Raises
    ------
    UsageError
        As `require_top_classes`.
    """
    require_top_classes(task, top_k, abstain_below)
    if top_k is None and abstain_below is None:
        return list(predictions)
    names = class_names_of(task)
    return [_refined(prediction, names, top_k, abstain_below) for prediction in predictions]


def require_top_classes(task: Task, top_k: int | None, abstain_below: float | None) -> None:
    """Refuse what there cannot be, before anything is computed.

    Raises
    ------
    UsageError
        If the task is not one class a sample, or a number is out of range.
    """
    if top_k is None and abstain_below is None:
        return
    if task.name != ONE_CLASS:
        option = "`top_k`" if top_k is not None else "`abstain_below`"
        raise UsageError(f"{option} is for one class a sample, and the task is {task.name}")
    names = class_names_of(task)
    if top_k is not None and not 1 <= top_k <= len(names):
        raise UsageError(f"`top_k` {top_k} has to be from 1 to {len(names)}, the number of the classes")
    if abstain_below is not None and not 0 < abstain_below <= 1:
        raise UsageError(f"`abstain_below` {abstain_below} has to be above 0 and at most 1")


def _refined(
    prediction: Prediction, names: Sequence[str], top_k: int | None, abstain_below: float | None
) -> Prediction:
    probabilities, cells = prediction.activated, dict(prediction.cells)
    predicted = names.index(cells["class"])
    words, possible_follow, possible = prediction.words.partition(f"  {POSSIBLE}: ")
    abstained = abstain_below is not None and probabilities[predicted] < abstain_below
    if abstained:
        cells["class"] = ABSTAINED
        words = f"none ({names[predicted]} {probabilities[predicted]:.3f} is below {abstain_below:g})"
    if top_k is not None:
        order = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
        for rank, place in enumerate(order, 1):
            cells |= {f"top_{rank}": names[place], f"top_{rank}_probability": f"{probabilities[place]:.6f}"}
        most_probable = "  ".join(f"{names[place]} {probabilities[place]:.3f}" for place in order)
        # by a threshold another class is predicted than the first of them
        words = most_probable if order[0] == predicted and not abstained else f"{words}; most probable: {most_probable}"
    return replace(prediction, cells=cells, words=f"{words}{possible_follow}{possible}")
