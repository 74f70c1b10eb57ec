"""What a classifier says of each sample that it was not fitted on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler

from cache.errors import DataError, UsageError
from stages.runtime.threads import one_thread_per_fit

FOLDS = 5
"""Folds; fewer only where even the largest class has fewer samples, or there are fewer groups."""

REGULARISATION = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Values of C, from the strongest regularisation: the one whose left-out rows have the lowest log loss is taken."""

FITTING_BYTES = 1 << 30
"""Most bytes of features in float32 that are fitted side by side, unless one fold alone takes more."""

_BLOCK_ROWS = 2048

_LEAST = float(np.finfo(np.float32).tiny)


def out_of_fold_probabilities(
    features: NDArray[Any],
    labels: NDArray[np.int64],
    num_classes: int,
    seed: int,
    groups: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Return the probabilities that logistic regression gives to samples it was not fitted on.

    Stratified 5-fold cross-validation on features of mean 0 and variance 1, both taken from the rows that are fitted.
    The regularisation is the one of the lowest log loss over all left-out rows: the probabilities matter here, and not
    only which one is highest.

    Parameters
    ----------
    features : ndarray [n, d]
        Float16 or float32; rows become float32 as they are needed.
    labels : ndarray of int64 [n]
    num_classes : int
    seed : int
        Of the folds.
    groups : ndarray of int64 [n], optional
        Samples with the same number stay in the same fold: copies of an image, images of one patient.

    Returns
    -------
    ndarray of float32 [n, num_classes]
        0 exactly where the class was not among the rows that were fitted, and only there.

    Raises
    ------
    UsageError
        If the features are not vectors.
    DataError
        If there are fewer than two classes, or no two samples (or groups) to make folds of.
    """
    if features.ndim != 2:
        raise UsageError(
            f"label errors are looked for in vectors, but the cached features have the shape {features.shape[1:]}; "
            "use `pool` avg (or max, avgmax, cls)"
        )
    folds = _folds(labels, seed, groups)
    models: list[Any] = [LogisticRegression(max_iter=300, warm_start=True) for _ in folds]
    largest = max(len(fitted) for fitted, _ in folds) * features.shape[1] * np.dtype(np.float32).itemsize
    jobs = max(1, min(len(folds), os.cpu_count() or 1, FITTING_BYTES // max(largest, 1)))
    best, lowest = np.zeros((len(labels), num_classes), np.float32), np.inf
    for c in REGULARISATION:
        probabilities = np.zeros_like(best)
        with one_thread_per_fit():
            done = Parallel(n_jobs=jobs, prefer="threads")(
                delayed(_fit_fold)(model, c, features, labels, *pair) for model, pair in zip(models, folds, strict=True)
            )
        for (model, given), (_, left_out) in zip(done, folds, strict=True):
            probabilities[left_out[:, None], model.classes_] = given
        models = [model for model, _ in done]
        own = probabilities[np.arange(len(labels)), labels]
        loss = -np.log(own[own > 0]).mean() if (own > 0).any() else np.inf
        if loss >= lowest:
            break
        best, lowest = probabilities, loss
    return best


def _folds(
    labels: NDArray[np.int64], seed: int, groups: NDArray[np.int64] | None
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return (fitted rows, left-out rows) pairs; each row is left out once."""
    if len(np.unique(labels)) < 2:
        raise DataError("all samples are of one class: there is nothing to tell apart")
    folds = min(FOLDS, int(np.bincount(labels).max()), len(np.unique(groups)) if groups is not None else FOLDS)
    if folds < 2:
        raise DataError("no class has two samples of different groups: folds cannot be made")
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return list(kind(folds, shuffle=True, random_state=seed).split(labels, labels, groups))


def _fit_fold(
    model: Any,
    c: float,
    features: NDArray[Any],
    labels: NDArray[np.int64],
    fitted: NDArray[np.int64],
    left_out: NDArray[np.int64],
) -> tuple[Any, NDArray[np.float32]]:
    """Go on with a model at another C; return it and the probabilities of the rows that were left out."""
    with one_thread_per_fit():
        scaler = StandardScaler()
        for block in _blocks(fitted):
            scaler.partial_fit(features[block].astype(np.float32))
        rows = np.empty((len(fitted), features.shape[1]), np.float32)
        for block, at in zip(_blocks(fitted), range(0, len(fitted), _BLOCK_ROWS), strict=True):
            rows[at : at + len(block)] = scaler.transform(features[block].astype(np.float32))
        model.set_params(C=c).fit(rows, labels[fitted])
        del rows
        given = [
            model.predict_proba(scaler.transform(features[block].astype(np.float32))) for block in _blocks(left_out)
        ]
    return model, np.maximum(np.concatenate(given), _LEAST).astype(np.float32)


def _blocks(places: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    return (places[at : at + _BLOCK_ROWS] for at in range(0, len(places), _BLOCK_ROWS))
