"""A linear model on what heads say, fitted to what they said of rows that they were not fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stages.fitting.fit_head import HeadResult, train_foldable_head
from stages.fitting.out_of_fold import OutOfFold
from stages.fitting.problem import FitProblem
from stages.tasks.averaging import LEAST_PROBABILITY, AveragingTask

LINEAR_MODELS = {"logits": "logistic", "values": "ridge"}
"""By what leaves a head: which one is fitted to what the others say."""


def stacked_outputs(task: AveragingTask, answers: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Return what heads say side by side, float32 [n, heads * out_features]: logarithms of probabilities, or numbers.

    As `StackedHead` makes them of its members' outputs.
    """
    joined = np.concatenate([np.asarray(part, np.float64) for part in answers], axis=1)
    if task.activation == "identity":
        return np.asarray(joined.astype(np.float32))
    logarithms = np.log(np.maximum(joined, LEAST_PROBABILITY))
    if task.activation == "sigmoid":
        logarithms -= np.log(np.maximum(1 - joined, LEAST_PROBABILITY))
    return np.asarray(logarithms.astype(np.float32))


def fit_stack(problem: FitProblem) -> tuple[HeadResult, OutOfFold | None]:
    """Fit a linear model to rows of `stacked_outputs`, its penalty chosen as of any linear head.

    Stacking (Wolpert 1992, "Stacked generalization"), by logistic regression as of probabilities (Ting and Witten 1999,
    "Issues in stacked generalization", section 3), of numbers by ridge. What it says out of folds is of models, and
    penalties, of the other folds.
    """
    name = LINEAR_MODELS[problem.task.outputs]
    trained, fold = train_foldable_head(name, replace(problem, config=replace(problem.config, head=(name,))))
    return trained, fold()
