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
from stages.tasks.temperature import fit_temperature

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
    temperature : float
        What logits are divided by first. It changes how sure predictions are, and no prediction.
    threshold : Threshold, optional
    least : float, optional
        The probability from which on a class is possible.
    """

    temperature: float = 1.0
    threshold: Threshold | None = None
    least: float | None = None

    def calibrated(self, probabilities: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return probabilities, [n, classes], as the others are asked about: by the temperature."""
        return probabilities if self.temperature == 1 else _divided(probabilities, self.temperature)

    def predicted(self, probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the class of each row of [n, classes]."""
        return probabilities.argmax(axis=1) if self.threshold is None else self.threshold.predicted(probabilities)

    def possible(self, probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which classes are possible, bool [n, classes]; all of them without a promise of coverage."""
        return possible_classes(probabilities, self.least or 0.0)


def require_decidable(task: Task, goal: Goal | None, coverage: float | None, *, calibrate: bool = False) -> None:
    """Refuse a goal, or a coverage, that the task cannot have.

    Raises
    ------
    UsageError
        If the task is not one class a sample, a goal is stated for other than two classes, or there is no such class.
    """
    if goal is None and coverage is None and not calibrate:
        return
    if task.name != ONE_CLASS:
        raise UsageError(f"`{_option(goal, coverage)}` is for one class a sample, and the task is {task.name}")
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


def _option(goal: Goal | None, coverage: float | None) -> str:
    """Return the option that asks for something."""
    return "threshold_for" if goal is not None else "coverage" if coverage is not None else "calibrate"


def _logarithms(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return logits that give these probabilities, [n, classes]; one of 0 counts as the least that float32 tells."""
    return np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))


def _divided(probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Return probabilities, [n, classes], of logits divided by a temperature."""
    powers = _logarithms(probabilities) / temperature
    powers = np.exp(powers - powers.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


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


def decide(result: Result, goal: Goal | None, coverage: float | None, *, calibrate: bool = False) -> Decision:
    """Return how the probabilities of a method are read.

    Parameters
    ----------
    result : Result
        A loaded one.
    goal : Goal, optional
    coverage : float, optional
        In how many of the cases the true class is to be among those that are possible.
    calibrate : bool
        Whether a temperature is fitted first.

    Raises
    ------
    UsageError
        As `require_decidable`.
    DataError
        If the result, of an earlier version, kept no predictions to choose by, or too few of the class looked for.
    """
    require_decidable(result.task, goal, coverage, calibrate=calibrate)
    if goal is None and coverage is None and not calibrate:
        return Decision()
    statistics = held_out(result)
    if statistics is None:
        raise DataError(
            f"{result.directory} kept no predictions for validation images, as results of earlier versions did not: "
            f"`{_option(goal, coverage)}` needs them; train it again with `overwrite`"
        )
    probabilities, target = statistics["probabilities"], statistics["target"]
    temperature = 1.0
    if calibrate:
        temperature = fit_temperature(result.task, _logarithms(probabilities), target)
        probabilities = _divided(probabilities, temperature)
    return Decision(
        temperature,
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
