"""Margins become probabilities by one temperature."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax


def fit_temperature(margins: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Return what to divide margins [n, classes] by so that their softmax is a probability.

    Margins of a support vector machine, of ridge or of distances are not logits. One temperature, fitted to the log
    loss of margins of rows that the model was not fitted on (Guo et al. 2017, "On Calibration of Modern Neural
    Networks", section 4.2), changes no prediction.
    """
    margins = np.asarray(margins, dtype=np.float64)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(margins / np.exp(log_temperature), axis=1)[rows, labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-7, 7), method="bounded").x))
