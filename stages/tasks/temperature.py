"""Margins become probabilities by one temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.tasks.base import Task

ABSENT_CLASS_SCORE = -1e4
"""Score of a class that no row is of which a model was fitted to: it is never predicted."""

_LOGARITHMS = -7.0, 7.0
"""Between which a temperature is looked for."""


def fit_temperature(task: Task, margins: NDArray[np.floating], targets: NDArray[Any]) -> float:
    """Return what to divide margins [n, out_features] by so that the task activates them to probabilities.

    Margins of a support vector machine, of ridge or of distances are not logits. One temperature, fitted to the task's
    loss of margins of rows that the model was not fitted on (Guo et al. 2017, "On Calibration of Modern Neural
    Networks", section 4.2), changes no prediction. Values are no margins: theirs is 1.

    Where no row is wrong, the loss is the lower the lower the temperature, down to probabilities of 0 and 1, of which
    the first error would be as unlikely as can be. Then the loss is brought to 1 / (n + 2), about the share of errors
    that is to be expected after none in n (Laplace's rule of succession).

    Rows of a class that the model was not fitted to have no part in it: no temperature makes them likely, and the one
    that makes them less unlikely would have the model say nothing of all others.
    """
    if task.outputs == "values":
        return 1.0
    from scipy.optimize import brentq, minimize_scalar

    margins = np.asarray(margins, dtype=np.float64)
    if targets.ndim == 1:
        known = margins[np.arange(len(targets)), targets] > ABSENT_CLASS_SCORE / 2
        if known.any():
            margins, targets = margins[known], targets[known]

    def loss(log_temperature: float) -> float:
        return task.mean_loss(margins / np.exp(log_temperature), targets)

    found = minimize_scalar(loss, bounds=_LOGARITHMS, method="bounded")
    lowest, highest = _LOGARITHMS
    expected = 1 / (len(targets) + 2)
    if loss(lowest) <= min(found.fun, expected) and loss(highest) > expected:
        return float(np.exp(brentq(lambda at: loss(at) - expected, lowest, highest)))
    return float(np.exp(found.x))
