"""LogME: how well targets can be explained by features and a linear model, without fitting one to held-out data.

With y = F w + e, weights w ~ N(0, 1/a) and errors e ~ N(0, 1/b), the evidence p(y | F, a, b) has the weights
integrated out, so that many features do not win by overfitting; its logarithm is maximized over a and b and divided by
the number of samples (You, Liu, Wang and Long 2021, "LogME: Practical assessment of pre-trained models for transfer
learning", ICML, section 4).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_STEPS = 100
_CHANGE = 1e-6
"""The fixed point is reached when the ratio of the two precisions changes by less than this share."""


def logme(features: NDArray[np.floating], targets: NDArray[np.floating]) -> float:
    """Return the maximum log evidence per sample, averaged over the columns of the targets.

    Parameters
    ----------
    features : array [n, d]
    targets : array [n, k]
        One-hot classes, 0/1 labels, or numbers; rows with NaN in a column take no part in it.
    """
    values = np.asarray(features, dtype=np.float64)
    known = ~np.isnan(targets)
    evidences = np.full(targets.shape[1], np.nan)
    for rows in np.unique(known, axis=1).T:  # columns of which the same samples are known share a decomposition
        columns = np.flatnonzero((known == rows[:, None]).all(axis=0))
        if rows.any():
            left, lengths, _ = np.linalg.svd(values[rows], full_matrices=False)
            for column in columns:
                evidences[column] = _evidence(left, lengths**2, targets[rows, column], values.shape[1])
    return float(np.nanmean(evidences))


def _evidence(
    left: NDArray[np.float64], eigenvalues: NDArray[np.float64], targets: NDArray[np.floating], width: int
) -> float:
    """Return the maximum log evidence per sample of one column, by MacKay's fixed point.

    Parameters
    ----------
    left, eigenvalues : array [n, r] and [r]
        Left singular vectors of the features, and their squared singular values.
    targets : array [n]
    width : int
        Number of features.
    """
    count, y = len(targets), np.asarray(targets, dtype=np.float64)
    projected = (left.T @ y) ** 2
    outside = max(float(y @ y - projected.sum()), 0.0)  # of the target, what no feature reaches
    smallest = np.finfo(np.float64).tiny
    alpha, beta = 1.0, 1.0

    def parts() -> tuple[float, float, float]:
        """Return the squared lengths of weights and errors, and how many weights the targets determine."""
        shrunk = eigenvalues + alpha / beta
        weights = float((eigenvalues * projected / shrunk**2).sum())
        errors = float((projected * (alpha / beta / shrunk) ** 2).sum()) + outside
        return weights, errors, float((eigenvalues / shrunk).sum())

    for _ in range(_STEPS):
        ratio = alpha / beta
        weights, errors, determined = parts()
        alpha = determined / max(weights, smallest)
        beta = max(count - determined, smallest) / max(errors, smallest)
        alpha, beta = float(np.clip(alpha, 1e-12, 1e12)), float(np.clip(beta, 1e-12, 1e12))
        if abs(alpha / beta - ratio) <= _CHANGE * ratio:
            break
    weights, errors, _ = parts()
    determinant = float(np.log(alpha + beta * eigenvalues).sum()) + (width - len(eigenvalues)) * math.log(alpha)
    log_evidence = width * math.log(alpha) + count * math.log(beta / (2 * math.pi)) - determinant
    return (log_evidence - beta * errors - alpha * weights) / (2 * count)
