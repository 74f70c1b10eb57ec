"""What to answer beyond the most probable class: by a threshold for a stated goal, and the classes that are possible.

Both are set after training, from what a result keeps of images that its method was not fitted to: predictions out of
folds or, where nothing was folded, those for the validation split. So another goal costs no training, and is never
chosen by test images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.errors import DataError, UsageError, suggestion
from pipeline.evaluation.results import Result
from stages.config.goals import Goal
from stages.tasks.base import Statistics, Task
from stages.tasks.decisions import least_possible, possible_classes, threshold_for_cost, threshold_for_recall

ONE_CLASS = "single_label"

FEWEST = 5
"""Held-out images of the class that is looked for, below which no threshold is chosen."""


@dataclass(frozen=True)
class Threshold:
    """From which probability on a class is predicted, of two.

    Attributes
    ----------
    goal : Goal
    positive : int
        The class that is looked for.
    value : float
    """

    goal: Goal
    positive: int
    value: float

    def predicted(self, probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the class of each row of [n, 2]."""
        return np.where(probabilities[:, self.positive] >= self.value, self.positive, 1 - self.positive)


@dataclass(frozen=True)
class Decision:
    """How probabilities are read.

    Attributes
    ----------
    threshold : Threshold, optional
    least : float, optional
        The probability from which on a class is possible.
    """

    threshold: Threshold | None = None
    least: float | None = None

    def predicted(self, probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the class of each row of [n, classes]."""
        return probabilities.argmax(axis=1) if self.threshold is None else self.threshold.predicted(probabilities)

    def possible(self, probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which classes are possible, bool [n, classes]; all of them without a promise of coverage."""
        return possible_classes(probabilities, self.least or 0.0)


def require_decidable(task: Task, goal: Goal | None, coverage: float | None) -> None:
    """Refuse a goal, or a coverage, that the task cannot have.

    Raises
    ------
    UsageError
        If the task is not one class a sample, a goal is stated for other than two classes, or there is no such class.
    """
    if goal is None and coverage is None:
        return
    option = "threshold_for" if goal is not None else "coverage"
    if task.name != ONE_CLASS:
        raise UsageError(f"`{option}` is for one class a sample, and the task is {task.name}")
    if goal is None:
        return
    names = class_names_of(task)
    if len(names) != 2:
        raise UsageError(f"`threshold_for` {goal.text} tells two classes apart, and there are {len(names)}")
    if goal.class_name is not None and goal.class_name not in names:
        raise UsageError(
            f"`threshold_for` {goal.text}: there is no class {goal.class_name!r}, but {' and '.join(names)}."
            f"{suggestion(goal.class_name, names)}"
        )


def class_names_of(task: Task) -> tuple[str, ...]:
    """Return the names of the classes of a task; none where it has none."""
    names: tuple[str, ...] = getattr(task, "class_names", ())
    return names


def held_out(result: Result) -> Statistics | None:
    """Return what is kept of predictions for images that a method was not fitted to, each once; None where none is."""
    folded = result.out_of_fold
    if folded is not None:
        of_first: Statistics = folded.statistics[folded.repeat == folded.repeat.min()]
        return of_first
    validation = result.validation_predictions
    return None if validation is None else validation.statistics


def decide(result: Result, goal: Goal | None, coverage: float | None) -> Decision:
    """Return how the probabilities of a method are read.

    Parameters
    ----------
    result : Result
        A loaded one.
    goal : Goal, optional
    coverage : float, optional
        In how many of the cases the true class is to be among those that are possible.

    Raises
    ------
    UsageError
        As `require_decidable`.
    DataError
        If the result, of an earlier version, kept no predictions to choose by, or too few of the class looked for.
    """
    require_decidable(result.task, goal, coverage)
    if goal is None and coverage is None:
        return Decision()
    statistics = held_out(result)
    if statistics is None:
        raise DataError(
            f"{result.directory} kept no predictions for validation images, as results of earlier versions did not: "
            f"{'`threshold_for`' if goal is not None else '`coverage`'} needs them; train it again with `overwrite`"
        )
    probabilities, target = statistics["probabilities"], statistics["target"]
    return Decision(
        None if goal is None else _threshold(goal, class_names_of(result.task), probabilities, target),
        None if coverage is None else least_possible(probabilities, target, coverage),
    )


def _threshold(
    goal: Goal, names: tuple[str, ...], probabilities: NDArray[np.floating], target: NDArray[np.int64]
) -> Threshold:
    positive = 1 if goal.class_name is None else names.index(goal.class_name)
    scores, is_positive = probabilities[:, positive], target == positive
    if is_positive.sum() < FEWEST:
        raise DataError(
            f"`threshold_for` {goal.text}: {is_positive.sum()} held-out images of {names[positive]} are too few to "
            f"choose by; there have to be {FEWEST}"
        )
    if goal.costs is not None:
        return Threshold(goal, positive, threshold_for_cost(scores, is_positive, *goal.costs))
    assert goal.recall is not None
    return Threshold(goal, positive, threshold_for_recall(scores, is_positive, goal.recall))
