"""Scores of predicted numbers: share of the variance, errors in the target's unit, rank correlation, kappa."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.tasks.base import Metric, Statistics, mean_metric, sum_metric
from stages.tasks.metrics import quadratic_kappa

ToScale = Callable[[NDArray[Any]], NDArray[Any]]
"""From numbers in their own unit to the scale on which they are predicted, such as a logarithm."""

ToLevels = Callable[[NDArray[Any]], NDArray[np.int64]]
"""From numbers [n, 1] to the number of the nearest level, [n]."""


def number_metrics(
    names: Sequence[str], to_scale: ToScale, to_levels: ToLevels | None, *, num_levels: int, log: bool
) -> dict[str, Metric]:
    """Return the metrics of numbers.

    Each takes structured statistics [n] with the fields ``prediction``, ``target``, ``low`` and ``high``, float64
    [targets] in the target's own unit; nan where it is not known, which counts in none. Of several targets a metric is
    the mean over them.

    - ``r2``: share of the variance that is predicted, of the logarithms where those are predicted; ``r2_original``, in
      the original unit, stands beside it then.
    - ``mae``, ``rmse``: mean absolute error, root of the mean squared error.
    - ``median_relative_error``: median of the errors, each divided by the true number.
    - ``spearman``: rank correlation.
    - ``interval_coverage``: share of the true numbers that lie in their prediction interval.
    - ``qwk`` and ``accuracy`` where there are levels: see ``stages.tasks.metrics.quadratic_kappa``; share of samples
      whose nearest level is the true one.
    """
    width = len(names)

    def moments(scale: ToScale) -> Callable[[Statistics], NDArray[np.float64]]:
        def summands(statistics: Statistics) -> NDArray[np.float64]:
            target, prediction = scale(statistics["target"]), scale(statistics["prediction"])
            known = ~np.isnan(target)
            target, squares = np.where(known, target, 0), np.where(known, (target - prediction) ** 2, 0)
            return np.stack([known, target, target**2, squares], axis=1).astype(np.float64)

        return summands

    def determination(sums: NDArray[Any]) -> float:
        count, total, squares, residual = sums.reshape(4, width)
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = squares - total**2 / count
            shares = np.where(variance > _ROUNDING * np.maximum(squares, 1e-300), 1 - residual / variance, np.nan)
        return _mean(shares)

    def root_mean_square(sums: NDArray[Any]) -> float:
        count, _, _, residual = sums.reshape(4, width)
        with np.errstate(divide="ignore", invalid="ignore"):
            return _mean(np.sqrt(residual / count))

    def absolute_errors(statistics: Statistics) -> NDArray[np.float64]:
        errors = np.abs(statistics["prediction"] - statistics["target"])
        known = ~np.isnan(errors)
        return np.stack([known, np.where(known, errors, 0)], axis=1).astype(np.float64)

    def mean_of_sums(sums: NDArray[Any]) -> float:
        count, total = sums.reshape(2, width)
        with np.errstate(divide="ignore", invalid="ignore"):
            return _mean(total / count)

    def inside(statistics: Statistics) -> NDArray[np.float64]:
        target, low, high = (statistics[field] for field in ("target", "low", "high"))
        known = ~(np.isnan(target) | np.isnan(low))
        return np.stack([known, known & (low <= target) & (target <= high)], axis=1).astype(np.float64)

    unit = "the target's own unit"
    scaled = "of the logarithm " if log else ""
    metrics = [
        sum_metric(
            "r2",
            "R²",
            moments(to_scale),
            determination,
            note=f"R² {scaled}is the share of the variance that is predicted; 0 is no better than the mean.",
        ),
        sum_metric("mae", "mean error", absolute_errors, mean_of_sums, higher_is_better=False, note=f"In {unit}."),
        sum_metric(
            "rmse",
            "RMSE",
            moments(lambda numbers: numbers),
            root_mean_square,
            higher_is_better=False,
            note=f"In {unit}.",
        ),
        Metric(
            "median_relative_error",
            "median relative error",
            lambda statistics: _mean_over(_median_relative_error, statistics),
            higher_is_better=False,
            as_percent=True,
        ),
        Metric("spearman", "rank correlation", lambda statistics: _mean_over(_spearman, statistics)),
        sum_metric("interval_coverage", "interval coverage", inside, mean_of_sums, as_percent=True),
    ]
    if log:
        metrics.insert(1, sum_metric("r2_original", "R² in the unit", moments(lambda numbers: numbers), determination))
    if to_levels is not None:
        levels = to_levels

        def kappa(statistics: Statistics) -> float:
            return quadratic_kappa(levels(statistics["target"]), levels(statistics["prediction"]), num_levels)

        def is_right(statistics: Statistics) -> NDArray[np.bool_]:
            return np.asarray(levels(statistics["target"]) == levels(statistics["prediction"]))

        metrics += [
            Metric("qwk", "quadratic kappa", kappa, note="Kappa is 1 for agreement and 0 for what chance gives."),
            mean_metric("accuracy", "accuracy", is_right, as_percent=True),
        ]
    return {metric.name: metric for metric in metrics}


_ROUNDING = 1e-12
"""Variance against the mean square up to which numbers are the same but for rounding."""


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _mean_over(score: Callable[[NDArray[Any], NDArray[Any]], float], statistics: Statistics) -> float:
    """Return the mean over the targets of a score of true and predicted numbers, those that are known."""
    scores = []
    for target, prediction in zip(statistics["target"].T, statistics["prediction"].T, strict=True):
        known = ~np.isnan(target)
        scores.append(score(target[known], prediction[known]) if known.any() else np.nan)
    return _mean(np.array(scores))


def _median_relative_error(target: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Return the median over the samples whose true number is not 0; nan where all are."""
    counted = target != 0
    errors = np.abs(prediction[counted] - target[counted]) / np.abs(target[counted])
    return float(np.median(errors)) if counted.any() else float("nan")


def _spearman(target: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Return the correlation of the ranks, ties at their mean; nan where one of both does not vary."""
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(target), rankdata(prediction)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    lengths = np.sqrt((ranks**2).sum(axis=1))
    return float(ranks[0] @ ranks[1] / lengths.prod()) if lengths.all() else float("nan")
