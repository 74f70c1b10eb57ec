"""Score against the number of training images, measured on the validation split; the test split never enters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import DataError
from stages.fitting.fit_head import FeatureRows, FitProblem, head_probabilities, train_head
from stages.inspection.sample_scores import require_share, sample_scores
from stages.runtime.progress import progress
from stages.tasks.base import Metric, find_metric
from stages.tasks.strata import interleave

SIZES = 9
"""Sizes, at equal distances on a logarithmic scale."""

PER_CLASS = 2
"""Images of each class in the smallest size, as far as it has them: one to fit, and one to choose settings by."""

_HELD_OUT = 0.2


@dataclass(frozen=True)
class LearningCurve:
    """What was measured.

    Attributes
    ----------
    sizes : ndarray of int64 [s]
        Numbers of training images, increasing; the last is all of them.
    per_sample : ndarray [s, draws, v]
        Score of each validation image; bool where it is right or wrong. With all images there is nothing to draw: its
        draws are the same.
    metric : Metric
        What the images are scored by: the mean of their scores.
    """

    sizes: NDArray[np.int64]
    per_sample: NDArray[Any]
    metric: Metric

    @property
    def scores(self) -> NDArray[np.float64]:
        """Score of each draw, [s, draws]."""
        return np.asarray(self.per_sample.mean(axis=2))

    @property
    def errors(self) -> NDArray[np.float64]:
        """Standard error of each size's mean score, [s]: of the draws, and of the finite validation split."""
        _, draws, images = self.per_sample.shape
        mean = self.scores.mean(axis=1)
        draw_variance = self.scores.var(axis=1, ddof=1) / draws if draws > 1 else np.zeros_like(mean)
        right_or_wrong = self.per_sample.dtype == np.bool_
        image_variance = mean * (1 - mean) if right_or_wrong else self.per_sample.var(axis=2).mean(axis=1)
        return np.asarray(np.sqrt(draw_variance + np.maximum(image_variance, 1 / images) / images))


def curve_sizes(strata: NDArray[np.int64], count: int = SIZES) -> NDArray[np.int64]:
    """Return the sizes of a curve, int64 [s]: from two images of each stratum, [n], to all.

    Raises
    ------
    DataError
        If there are not even twice as many as the smallest size needs.
    """
    counts = np.unique(strata, return_counts=True)[1]
    smallest = int(np.minimum(counts, PER_CLASS).sum())
    if len(strata) < 2 * smallest:
        raise DataError(
            f"{len(strata)} training images of {len(counts)} classes are too few for a learning curve; "
            f"it goes from {smallest} images to all, which should be {2 * smallest} at least"
        )
    return np.unique(np.geomspace(smallest, len(strata), count).round().astype(np.int64))


def stratified_order(strata: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the samples in a random order, int64 [n], of which every beginning has its share of each stratum.

    First two of each stratum, then image i of the n of a stratum at (i + 1/2) / n of the list.
    """
    generator = np.random.default_rng(seed)
    shuffled = [generator.permutation(np.flatnonzero(strata == stratum)) for stratum in np.unique(strata)]
    ties = generator.random(len(strata))
    return interleave(strata, np.concatenate(shuffled), first=PER_CLASS, ties=ties)


def measure_curve(head: str, problem: FitProblem, draws: int) -> LearningCurve:
    """Return the score on the validation split of heads trained on more and more of train.

    Scored is by the task's primary metric. A head's settings are chosen within the images it may have, and it is
    refitted on all of them: validation images judge and do nothing else. The images of a draw contain those of its
    smaller sizes.

    Raises
    ------
    UsageError
        If that metric is not a share that is averaged over samples.
    """
    (train, val), seed, task = problem.in_memory, problem.seed, problem.task
    require_share(task)
    strata = task.strata(train.labels)
    strata = np.zeros(len(train), dtype=np.int64) if strata is None else strata
    sizes = curve_sizes(strata)
    scores_by_size: list[list[NDArray[Any]]] = [[] for _ in sizes]
    todo = [(number, draw) for draw in range(draws) for number in range(len(sizes) if draw == 0 else len(sizes) - 1)]
    orders = [stratified_order(strata, seed + draw) for draw in range(draws)]
    for number, draw in progress(todo, label="learning curve", unit="heads"):
        subset = orders[draw][: sizes[number]]
        cut = len(subset) - max(int(_HELD_OUT * len(subset)), 1)
        subset_problem = replace(problem, train=_select(train, subset[:cut]), val=_select(train, subset[cut:]))
        trained = train_head(head, subset_problem)
        activated = head_probabilities(trained.module, val.features, task)
        scores_by_size[number].append(sample_scores(task, activated, val.labels))
    scores_by_size[-1] *= draws
    return LearningCurve(sizes, np.array(scores_by_size), find_metric(task))


def _select(rows: FeatureRows, indices: NDArray[np.int64]) -> FeatureRows:
    groups = rows.groups[indices] if rows.groups is not None else None
    return FeatureRows(rows.features[indices], rows.labels[indices], groups=groups)
