"""What a task's score is made of, sample by sample, and how far the score would be another of other samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import UsageError
from stages.tasks.base import Metric, Statistics, Task, find_metric
from stages.tasks.statistics import bootstrap_variance, resampled_scores

_RESAMPLES = 500
"""Resamples that a standard error is made of: it is known to a thirtieth."""


def require_rising(task: Task, *, on_maps: bool = False) -> Metric:
    """Return the task's primary metric.

    Parameters
    ----------
    task
    on_maps
        Whether heads may give an answer at each pixel.

    Raises
    ------
    UsageError
        If it is better the lower it is: curves rise to a best score of 1, and cuts are ranked from the highest down. Or
        if the task asks for an answer at each pixel, which no head on vectors gives.
    """
    if task.reads == "image" and not on_maps:
        raise UsageError(
            f"learning curves are of heads on vectors, and the task {task.name} asks for a class of each pixel: train "
            "on some of the images at a time (`train`, each in its own `out`), and then `compare`"
        )
    metric = find_metric(task)
    if not metric.higher_is_better:
        raise UsageError(
            f"learning curves and probes are of a score that is the better the higher it is; {metric.name} of the task "
            f"{task.name} is not: name another `metric`"
        )
    return metric


def scored_samples(task: Task, activated: NDArray[Any], targets: NDArray[Any]) -> Statistics:
    """Return what the primary metric of activated outputs, [n, out_features], is made of, an entry for each sample.

    That is its score where the metric is the mean of such scores, bool where it is right or wrong; else its statistic.
    """
    statistics = task.statistic(torch.from_numpy(activated), torch.from_numpy(targets))
    per_sample = find_metric(task).per_sample
    return statistics if per_sample is None else per_sample(statistics)


def score_of(metric: Metric, samples: Statistics) -> float:
    """Return the metric of `scored_samples`; nan where it is not defined for them."""
    return metric.score(samples) if metric.per_sample is None else float(samples.mean())


def variance_of(metric: Metric, samples: Statistics) -> float:
    """Return the variance of the metric over samples drawn anew, from `scored_samples`.

    Of a mean that of the scores over their number, of shares the binomial one, p (1 - p) / n; else of a bootstrap.
    """
    if metric.per_sample is None:
        return bootstrap_variance(metric, samples, resamples=_RESAMPLES)
    mean = float(samples.mean())
    variance = mean * (1 - mean) if samples.dtype == np.bool_ else float(samples.var())
    return variance / len(samples)


def scores_of_resamples(metric: Metric, samples: Statistics, counts: NDArray[np.float64]) -> NDArray[np.floating]:
    """Return the metric of each resample, [resamples], from how often each sample is in it, [resamples, n]."""
    if metric.per_sample is None:
        return resampled_scores(metric, samples, counts)
    return np.asarray(counts.astype(np.float32) @ samples.astype(np.float32) / len(samples))


def mean_of_defined(scores: NDArray[Any]) -> NDArray[Any]:
    """Return means along the last axis of the scores that are not nan; nan where there are none."""
    defined = ~np.isnan(scores)
    if defined.all():
        return np.asarray(scores.mean(axis=-1))
    counts = defined.sum(axis=-1)
    return np.where(counts > 0, np.where(defined, scores, 0).sum(axis=-1) / np.maximum(counts, 1), math.nan)
