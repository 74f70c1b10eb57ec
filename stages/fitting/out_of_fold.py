"""What heads say of rows that they were not fitted to, all heads out of the same folds: by that they are compared.

A score by which settings were chosen is too high, the more so the more was tried (Cawley and Talbot 2010, "On
Over-fitting in Model Selection and Subsequent Selection Bias in Performance Evaluation"). So the settings that a fold
is predicted with, a number of epochs among them, are those that are best on the *other* folds: no row has a say in what
is said of it but through models that are compared on other rows. That costs one more fit a fold, where an inner
cross-validation in each would cost a search a fold; a head that does not know its scores by folds is searched so
nevertheless (`nested`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.fitting.folds import CVPlan, divisions
from stages.fitting.problem import FitProblem
from stages.fitting.scores import fold_scores, logits
from stages.network.heads.base import Head
from stages.tasks.base import Task
from stages.tasks.temperature import fit_temperature

INNER_FOLDS = 5
"""One part in so many of the rows of a fold is what a head that is searched there validates on."""


@dataclass(frozen=True)
class OutOfFold:
    """Outputs for train, followed by validation, as many times over as the rows were divided into folds.

    Attributes
    ----------
    folds : ndarray of int64 [repeats, n]
        With which part each row was left out.
    outputs : ndarray of float32 [repeats, n, out_features]
        Logits or values of each row.
    """

    folds: NDArray[np.int64]
    outputs: NDArray[np.float32]

    def activated(self, task: Task) -> NDArray[np.float32]:
        """Return what the task reads in the outputs, [repeats, n, out_features]."""
        return np.stack([np.asarray(task.activate(torch.from_numpy(outputs))) for outputs in self.outputs])


FoldOutputs = Sequence[NDArray[np.float32]]
"""Outputs for the rows of each fold of a division, in the order of its folds."""


def best_on_others(scores: NDArray[np.float64]) -> list[int]:
    """Return for each fold the setting whose mean score on the other folds is highest; of equals the first.

    Parameters
    ----------
    scores : ndarray [settings, folds]
        In the order in which one is preferred to another.
    """
    return [int(np.delete(scores, fold, axis=1).mean(axis=1).argmax()) for fold in range(scores.shape[1])]


def collect(problem: FitProblem, outputs: Sequence[FoldOutputs], *, calibrate: bool = False) -> OutOfFold:
    """Return the outputs of all folds of the problem's divisions at the places of their rows.

    Parameters
    ----------
    problem : FitProblem
    outputs : sequence of FoldOutputs
        One for each division.
    calibrate : bool
        Whether they are margins; then those of each fold are divided by the temperature that fits the others.
    """
    joined = [
        in_places(plan, _calibrated(problem, plan, of_folds) if calibrate else of_folds)
        for plan, of_folds in zip(problem.divisions, outputs, strict=True)
    ]
    folds = np.empty((len(joined), len(problem.labels)), np.int64)
    for of_division, plan in zip(folds, problem.divisions, strict=True):
        for number, (_, scored) in enumerate(plan.splits):
            of_division[scored] = number
    return OutOfFold(folds, np.stack(joined))


def in_places(plan: CVPlan, outputs: FoldOutputs) -> NDArray[np.float32]:
    """Return the outputs of all folds of a division at the places of their rows, [n, out_features]."""
    joined = np.empty((sum(len(part) for part in outputs), *outputs[0].shape[1:]), np.float32)
    for (_, scored), part in zip(plan.splits, outputs, strict=True):
        joined[scored] = part
    return joined


def best_variants(problem: FitProblem, folds: Sequence[Callable[[], OutOfFold | None]]) -> OutOfFold | None:
    """Return the outputs out of folds of rows that may be seen in several ways, each fold's as is best on the others.

    Parameters
    ----------
    problem : FitProblem
    folds : sequence of callable
        The outputs of each way, the preferred one first.
    """
    if not problem.divisions:
        return None
    tried = [variant for fold in folds if (variant := fold()) is not None]
    return put_together(problem, dict(enumerate(tried)), variants_on_others(problem, tried))


def variants_on_others(problem: FitProblem, tried: Sequence[OutOfFold]) -> list[list[int]]:
    """Return which of several ways is best on the other folds, for each fold of each division of the problem."""
    return [
        best_on_others(
            np.array(
                [
                    fold_scores(
                        problem.task, variant.outputs[number], problem.labels, [scored for _, scored in plan.splits]
                    )
                    for variant in tried
                ]
            )
        )
        for number, plan in enumerate(problem.divisions)
    ]


def put_together(problem: FitProblem, tried: Mapping[int, OutOfFold], picks: Sequence[Sequence[int]]) -> OutOfFold:
    """Return the outputs out of folds, of each fold of each division those of the way that was picked."""
    outputs = [
        [tried[pick].outputs[number][scored] for pick, (_, scored) in zip(of_plan, plan.splits, strict=True)]
        for number, (of_plan, plan) in enumerate(zip(picks, problem.divisions, strict=True))
    ]
    return collect(problem, outputs)


def nested(fit: Callable[[FitProblem], Head], problem: FitProblem) -> OutOfFold | None:
    """Return what a head says out of folds that is fitted, and its settings searched, within the rows of each.

    Parameters
    ----------
    fit : callable
        From rows of train and validation to the head that is fitted to both.
    """
    if not problem.divisions:
        return None
    outputs = []
    for plan in problem.divisions:
        parts = [problem.part(*fold) for fold in plan.splits]
        outputs.append([logits(fit(_with_validation(part)), part.val) for part in parts])
    return collect(problem, outputs)


def _with_validation(part: FitProblem) -> FitProblem:
    """Return the rows that a fold is fitted to as train and validation.

    So few rows that none can be left out without leaving a single class are validated on among those fitted to.
    """
    rows = part.in_memory[0]
    strata, are_classes = part.task.strata(rows.labels), part.task.outputs == "logits"
    inner = divisions(INNER_FOLDS, 1, len(rows), strata, part.seed, rows.groups, are_classes=are_classes)
    order, last = np.arange(len(rows)), -max(len(rows) // INNER_FOLDS, 1)
    fitted, held_out = inner[0].splits[0] if inner else (order[:last], order[last:])
    if are_classes and strata is not None and strata.ndim == 1 and len(np.unique(strata[fitted])) < 2:
        fitted = order
    return replace(part, train=rows.at(_places(fitted)), val=rows.at(_places(held_out)))


def _places(selection: Any) -> NDArray[np.int64]:
    return np.asarray(selection, dtype=np.int64)


def _calibrated(problem: FitProblem, plan: CVPlan, outputs: FoldOutputs) -> FoldOutputs:
    labels = [problem.labels[scored] for _, scored in plan.splits]
    calibrated = []
    for number, margins in enumerate(outputs):
        others = [place for place in range(len(outputs)) if place != number]
        temperature = fit_temperature(
            problem.task,
            np.concatenate([outputs[place] for place in others]),
            np.concatenate([labels[place] for place in others]),
        )
        calibrated.append((margins / temperature).astype(np.float32))
    return calibrated
