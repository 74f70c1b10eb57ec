"""Scores of predicted numbers: share of the variance, errors in the target's unit, rank correlation, kappa."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.tasks.base import Metric, Statistics, mean_metric, sum_metric, with_limits
from stages.tasks.metrics import kappa_of_sums, kappa_summands
from stages.tasks.weighted_scores import (
    WeightedMean,
    WeightedScore,
    weighted_median,
    weighted_rank_correlation,
)

Numbers = NDArray[np.float64]
"""[n, targets], nan where one is not known."""

ToScale = Callable[[Numbers], Numbers]
"""From numbers in their own unit to another scale."""

ToLevels = Callable[[Numbers], NDArray[np.int64]]
"""From numbers [n, 1] to the number of the nearest level, [n]."""


def number_metrics(
    width: int, to_outputs: ToScale, from_center: ToScale | None, to_levels: ToLevels | None, *, num_levels: int
) -> dict[str, Metric]:
    """Return the metrics of numbers.

    Each takes structured statistics [n] with the fields ``prediction``, ``target``, ``low`` and ``high``, float64
    [targets] in the target's own unit; nan where it is not known, which counts in none. Of several targets a metric is
    the mean over them.

    - ``r2``: share of the variance that is predicted, of the logarithms where those are predicted; ``r2_original``, in
      the original unit, stands beside it then.
    - ``mae``, ``rmse``: mean absolute error, root of the mean squared error.
    - ``median_relative_error``: median of the errors, each divided by the true number.
    - ``spearman``: rank correlation; 0 of predictions that are all the same.
    - ``interval_coverage``: share of the true numbers that lie in their prediction interval.
    - ``qwk`` and ``accuracy`` where there are levels: see ``stages.tasks.metrics.quadratic_kappa``; share of samples
      whose nearest level is the true one.

    Parameters
    ----------
    width : int
        How many targets there are.
    to_outputs : callable
        To the scale on which numbers are predicted, their middle near 0: squares of large numbers would leave nothing
        of a small variance.
    from_center : callable, optional
        Where logarithms are predicted: to the distance from some middle, in the original unit.
    to_levels : callable, optional
        Where there are levels.
    num_levels : int
    """

    def r2_of_outputs(outputs: NDArray[Any], target: NDArray[Any]) -> float:
        return determination(_moments(target, outputs).sum(axis=0))

    def r2_sums(scale: ToScale) -> Callable[[Statistics], NDArray[np.float64]]:
        return lambda statistics: _moments(scale(statistics["target"]), scale(statistics["prediction"]))

    def determination(sums: NDArray[Any]) -> float:
        count, total, squares, residual = sums.reshape(4, width)
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = squares - total**2 / count
            return _mean(np.where(variance > _ROUNDING * squares, 1 - residual / variance, np.nan))

    def mean_of_sums(sums: NDArray[Any]) -> float:
        return _mean(_ratio(*sums.reshape(2, width)))

    def root_of_sums(sums: NDArray[Any]) -> float:
        return _mean(np.sqrt(_ratio(*sums.reshape(2, width))))

    metrics = [
        sum_metric(
            "r2",
            "R²",
            r2_sums(to_outputs),
            determination,
            note=f"R²{'' if from_center is None else ' of the logarithms'} is the share of the variance that is "
            "predicted; 0 is no better than the mean.",
            of_outputs=r2_of_outputs,
        ),
        sum_metric(
            "mae",
            "mean error",
            _absolute_errors,
            mean_of_sums,
            higher_is_better=False,
            note="Mean error and RMSE are in the unit of what is predicted.",
        ),
        sum_metric("rmse", "RMSE", _squared_errors, root_of_sums, higher_is_better=False),
        Metric(
            "median_relative_error",
            "median relative error",
            lambda statistics: _mean_over(_median_relative_error, statistics),
            higher_is_better=False,
            as_percent=True,
            weighted=lambda statistics: _each_target(_weighted_relative_error, statistics),
        ),
        Metric(
            "spearman",
            "rank correlation",
            lambda statistics: _mean_over(_spearman, statistics),
            weighted=lambda statistics: _each_target(weighted_rank_correlation, statistics),
        ),
        replace(
            sum_metric("interval_coverage", "interval coverage", _inside_interval, mean_of_sums, as_percent=True),
            ranks=False,  # endless intervals cover all
        ),
    ]
    if from_center is not None:
        metrics.insert(1, sum_metric("r2_original", "R² in the unit", r2_sums(from_center), determination))
    if to_levels is not None:
        metrics += _level_metrics(to_levels, num_levels)
    return with_limits(metrics)


def _level_metrics(to_levels: ToLevels, num_levels: int) -> list[Metric]:
    def of_levels(statistics: Statistics) -> Any:
        return kappa_summands(to_levels(statistics["target"]), to_levels(statistics["prediction"]), num_levels)

    def is_right(statistics: Statistics) -> NDArray[np.bool_]:
        return np.asarray(to_levels(statistics["target"]) == to_levels(statistics["prediction"]))

    note = "Kappa is 1 for agreement and 0 for what chance gives; a prediction counts as the nearest class."
    return [
        sum_metric("qwk", "quadratic kappa", of_levels, kappa_of_sums, note=note),
        mean_metric("accuracy", "accuracy", is_right, as_percent=True),
    ]


_ROUNDING = 1e-12
"""Variance against the mean square up to which numbers are the same but for rounding."""


def _moments(target: Numbers, prediction: NDArray[Any]) -> NDArray[np.float64]:
    """Return what the share of the variance is made of, [n, 4, targets]."""
    known = ~np.isnan(target)
    squares = np.where(known, (target - prediction) ** 2, 0)
    target = np.where(known, target, 0)
    return np.stack([known, target, target**2, squares], axis=1).astype(np.float64)


def _squared_errors(statistics: Statistics) -> NDArray[np.float64]:
    return _counted((statistics["prediction"] - statistics["target"]) ** 2)


def _absolute_errors(statistics: Statistics) -> NDArray[np.float64]:
    return _counted(np.abs(statistics["prediction"] - statistics["target"]))


def _inside_interval(statistics: Statistics) -> NDArray[np.float64]:
    target, low, high = (statistics[field] for field in ("target", "low", "high"))
    return _counted(np.where(np.isnan(target) | np.isnan(low), np.nan, (low <= target) & (target <= high)))


def _counted(values: Numbers) -> NDArray[np.float64]:
    """Return the values and 1, or twice 0 for one that is not known, [n, 2, targets]: what their mean is made of."""
    known = ~np.isnan(values)
    return np.stack([np.where(known, values, 0), known], axis=1).astype(np.float64)


def _ratio(total: NDArray[Any], count: NDArray[Any]) -> NDArray[np.float64]:
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


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


def _each_target(score: Callable[..., WeightedScore], statistics: Statistics) -> WeightedMean:
    """Return the mean over the targets of a score of the samples of which each is known."""
    scores = []
    for target, prediction in zip(statistics["target"].T, statistics["prediction"].T, strict=True):
        known = np.flatnonzero(~np.isnan(target))
        scores.append(score(target[known], prediction[known], known, len(target)))
    return WeightedMean(scores)


def _relative_errors(target: NDArray[Any], prediction: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the errors, each divided by the true number, of those that are not 0, and which these are."""
    counted = target != 0
    return np.abs(prediction[counted] - target[counted]) / np.abs(target[counted]), counted


def _median_relative_error(target: NDArray[Any], prediction: NDArray[Any]) -> float:
    errors, _ = _relative_errors(target, prediction)
    return float(np.median(errors)) if len(errors) else float("nan")


def _weighted_relative_error(
    target: NDArray[Any], prediction: NDArray[Any], rows: NDArray[np.int64], num_rows: int
) -> WeightedScore:
    errors, counted = _relative_errors(target, prediction)
    return weighted_median(errors, rows[counted], num_rows)


def _spearman(target: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Return the correlation of the ranks, ties at their mean.

    It is nan where what is true does not vary, and 0 where what is predicted alone does not, which orders nothing.
    """
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(target), rankdata(prediction)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    lengths = np.sqrt((ranks**2).sum(axis=1))
    if not lengths.all():
        return 0.0 if lengths[0] else float("nan")
    return float(ranks[0] @ ranks[1] / lengths.prod())
