"""Margins become probabilities by one temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.tasks.base import Task

ABSENT_CLASS_SCORE = -1e4
"""Score of a class that no row is of which a model was fitted to: it is never predicted."""


def fit_temperature(task: Task, margins: NDArray[np.floating], targets: NDArray[Any]) -> float:
    """Return what to divide margins [n, out_features] by so that the task activates them to probabilities.

    Margins of a support vector machine, of ridge or of distances are not logits. One temperature, fitted to the task's
    loss of margins of rows that the model was not fitted on (Guo et al. 2017, "On Calibration of Modern Neural
    Networks", section 4.2), changes no prediction. Values are no margins: theirs is 1.

    Rows of a class that the model was not fitted to have no part in it: no temperature makes them likely, and the one
    that makes them less unlikely would have the model say nothing of all others.
    """
    if task.outputs == "values":
        return 1.0
    from scipy.optimize import minimize_scalar

    margins = np.asarray(margins, dtype=np.float64)
    if targets.ndim == 1:
        known = margins[np.arange(len(targets)), targets] > ABSENT_CLASS_SCORE / 2
        if known.any():
            margins, targets = margins[known], targets[known]

    def loss(log_temperature: float) -> float:
        return task.mean_loss(margins / np.exp(log_temperature), targets)

    return float(np.exp(minimize_scalar(loss, bounds=(-7, 7), method="bounded").x))
