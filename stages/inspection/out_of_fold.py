"""What a classifier says of each sample that it was not fitted on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import DataError, UsageError
from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.folds import stratified_folds
from stages.fitting.heads.ridge import RidgeFits
from stages.fitting.problem import FitProblem
from stages.fitting.solvers.grid_search import cross_val_proba
from stages.fitting.solvers.linear_models import LinearModelFactory
from stages.runtime.float32 import float32_products
from stages.tasks.base import Task
from stages.tasks.temperature import fit_temperature

FOLDS = 5
"""Folds; fewer only where even the largest class has fewer samples, or there are fewer groups."""

REGULARISATION = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Values of C, from the strongest regularization: the one whose left-out rows have the lowest log loss is taken."""


RIDGE_REGULARISATION = tuple(np.geomspace(1e-6, 1, 25).tolist())
"""The same for ridge, which costs nothing more for more of them."""


@float32_products()
def out_of_fold_probabilities(
    features: NDArray[Any],
    labels: NDArray[np.int64],
    task: Task,
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
    task : Task
        Of one class a sample.
    seed : int
        Of the folds.
    groups : ndarray of int64 [n], optional
        Samples with the same number stay in the same fold: copies of an image, images of one patient.

    Returns
    -------
    ndarray of float32 [n, classes]
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
    make_of: Callable[..., Any] = partial(LinearModelFactory, "logistic", task)
    return cross_val_proba(make_of, REGULARISATION, features, labels, _folds(labels, seed, groups))


@float32_products()
def out_of_fold_outputs(
    features: NDArray[Any], targets: NDArray[Any], task: Task, seed: int, groups: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """Return the outputs that ridge regression gives to samples it was not fitted on: of labels, or of numbers.

    Five folds of features of mean 0 and variance 1; the penalty is the one of the lowest mean loss over all left-out
    rows, margins of labels being brought to logits by one temperature.

    Parameters
    ----------
    features : ndarray [n, d]
    targets : ndarray of float [n, out_features]
        nan where one is not known.
    task : Task
        Of any number of labels a sample, or of numbers.
    seed : int
        Of the folds.
    groups : ndarray of int64 [n]
        Samples with the same number stay in the same fold.

    Returns
    -------
    ndarray of float32 [n, out_features]
        Logits or values; None where there are too few samples, or groups, to make folds of.
    """
    if (folds := min(FOLDS, len(np.unique(groups)))) < 2:
        return None
    middle = len(targets) // 2  # all rows are fitted and scored; that they are in two parts means nothing here
    train, val = (
        FeatureRows(features[part], targets[part], groups=groups[part]) for part in (slice(middle), slice(middle, None))
    )
    problem = FitProblem(train, val, task, HeadConfig(cv=folds), seed, torch.device("cpu"))
    penalties = [1 / (2 * c) for c in RIDGE_REGULARISATION]
    candidates: list[tuple[float, NDArray[np.float32]]] = []
    for margins in RidgeFits(problem, train, val).left_out("standard", penalties, problem.cv):
        outputs = margins / np.float32(fit_temperature(task, margins, targets))
        candidates.append((task.mean_loss(outputs.astype(np.float64), targets), outputs))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _folds(
    labels: NDArray[np.int64], seed: int, groups: NDArray[np.int64] | None
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return (fitted rows, left-out rows) pairs; each row is left out once."""
    if len(np.unique(labels)) < 2:
        raise DataError("all samples are of one class: there is nothing to tell apart")
    folds = min(FOLDS, int(np.bincount(labels).max()), len(np.unique(groups)) if groups is not None else FOLDS)
    if folds < 2:
        raise DataError("no class has two samples of different groups: folds cannot be made")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return stratified_folds(folds, labels, seed, groups)
