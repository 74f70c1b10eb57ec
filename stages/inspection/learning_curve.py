"""Score against the number of training images, measured on the validation split; the test split never enters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import DataError
from stages.fitting.feature_rows import require_learnable
from stages.fitting.fit_head import FeatureRows, FitProblem, head_probabilities, train_head
from stages.inspection.sample_scores import mean_of_defined, require_rising, score_of, scored_samples, variance_of
from stages.runtime.progress import progress
from stages.tasks.base import Metric, Statistics
from stages.tasks.strata import interleave

SIZES = 9
"""Sizes, at equal distances on a logarithmic scale."""

PER_CLASS = 2
"""Images of each class in the smallest size, as far as it has them: one to fit, and one to choose settings by.

Of labels, images with each of them and images without it; of numbers, images of each part of their range.
"""

_HELD_OUT = 0.2


@dataclass(frozen=True)
class LearningCurve:
    """What was measured.

    Attributes
    ----------
    sizes : ndarray of int64 [s]
        Numbers of training images, increasing; the last is all of them.
    samples : sequence of sequences of array [v, ...]
        For each size and each draw what `scored_samples` says of the validation images; None where so few training
        images train no head. With all images there is nothing to draw: its draws are the same.
    metric : Metric
        What the images are scored by.
    """

    sizes: NDArray[np.int64]
    samples: Sequence[Sequence[Statistics | None]]
    metric: Metric

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """Score of each draw, [s, draws]; nan where there is none."""
        return np.array(
            [
                [np.nan if samples is None else score_of(self.metric, samples) for samples in draws]
                for draws in self.samples
            ]
        )

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean score of each size, [s], of the draws that have one."""
        return mean_of_defined(self.scores)

    @property
    def images(self) -> int:
        """Validation images."""
        return next(len(samples) for samples in self.samples[-1] if samples is not None)

    @property
    def scored(self) -> NDArray[np.int64]:
        """How many draws of each size have a score, [s]."""
        return np.asarray((~np.isnan(self.scores)).sum(axis=1))

    @property
    def is_measured(self) -> NDArray[np.bool_]:
        """Which sizes have draws enough to say how far they differ, [s]: two."""
        return np.asarray(self.scored >= min(2, self.scores.shape[1]))

    @cached_property
    def errors(self) -> NDArray[np.float64]:
        """Standard error of each size's mean score, [s]: of the draws, and of the finite validation split."""
        errors = np.full(len(self.sizes), np.nan)
        for size in np.flatnonzero(self.is_measured).tolist():
            scores = self.scores[size][~np.isnan(self.scores[size])]
            draw_variance = scores.var(ddof=1) / len(scores) if len(scores) > 1 else 0.0
            image_variance = self._image_variance(size, scores.mean())
            errors[size] = np.sqrt(draw_variance + np.maximum(image_variance, 1 / self.images) / self.images)
        return errors

    def _image_variance(self, size: int, mean: float) -> float:
        """Return the variance of a size's score over the validation images, times their number."""
        samples = [kept for kept in self.samples[size] if kept is not None]
        if self.metric.per_sample is None:
            variances = np.array([variance_of(self.metric, kept) for kept in samples])
            return float(np.nan_to_num(mean_of_defined(variances))) * self.images
        right_or_wrong = samples[0].dtype == np.bool_
        return mean * (1 - mean) if right_or_wrong else float(np.mean([kept.var() for kept in samples]))


def curve_sizes(strata: NDArray[Any], count: int = SIZES) -> NDArray[np.int64]:
    """Return the sizes of a curve, int64 [s]: from two images of each stratum to all.

    Parameters
    ----------
    strata : int64 [n] or bool [n, strata]
        As `Task.strata` gives them.
    count : int

    Raises
    ------
    DataError
        If there are not even twice as many as the smallest size needs.
    """
    if strata.ndim > 1:
        kind, number = "labels", strata.shape[1]
        smallest = len(_with_and_without(strata, np.random.default_rng(0).permutation(len(strata))))
    else:
        counts = np.unique(strata, return_counts=True)[1]
        kind, number, smallest = "classes", len(counts), int(np.minimum(counts, PER_CLASS).sum())
    if len(strata) < 2 * smallest:
        raise DataError(
            f"{len(strata)} training images of {number} {kind} are too few for a learning curve; "
            f"it goes from {smallest} images to all, which should be {2 * smallest} at least"
        )
    return np.unique(np.geomspace(smallest, len(strata), count).round().astype(np.int64))


def stratified_order(strata: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """Return the samples in a random order, int64 [n], of which every beginning has its share of each stratum.

    First two of each stratum, then image i of the n of a stratum at (i + 1/2) / n of the list. Where a sample may be in
    several strata, bool [n, strata]: first two in each and two that are not, then all others as chance has them.
    """
    generator = np.random.default_rng(seed)
    if strata.ndim > 1:
        order = generator.permutation(len(strata))
        first = _with_and_without(strata, order)
        return np.concatenate([first, order[~np.isin(order, first)]])
    shuffled = [generator.permutation(np.flatnonzero(strata == stratum)) for stratum in np.unique(strata)]
    ties = generator.random(len(strata))
    return interleave(strata, np.concatenate(shuffled), first=PER_CLASS, ties=ties)


def _with_and_without(membership: NDArray[np.bool_], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return samples, int64, among which `PER_CLASS` have each label, and as many have it not, if there are as many.

    First one of each, the rarest before the others, since a sample may be that of several; then the second.
    """
    sides = np.column_stack([membership, ~membership])[order]
    counts = sides.sum(axis=0)
    chosen = np.zeros(len(order), dtype=bool)
    places: list[int] = []
    for times in range(1, PER_CLASS + 1):
        for side in np.argsort(counts, kind="stable"):
            if sides[chosen, side].sum() < min(times, counts[side]):
                places.append(int(np.argmax(sides[:, side] & ~chosen)))
                chosen[places[-1]] = True
    return order[places]


def measure_curve(head: str, problem: FitProblem, draws: int) -> LearningCurve:
    """Return the score on the validation split of heads trained on more and more of train.

    Scored is by the task's primary metric. A head's settings are chosen within the images it may have, and it is
    refitted on all of them: validation images judge and do nothing else. The images of a draw contain those of its
    smaller sizes.

    Raises
    ------
    UsageError
        If that metric is better the lower it is.
    DataError
        If no head can be trained on train, there are too few images for a curve, or the metric is not defined on the
        validation split.
    """
    (train, val), seed, task = problem.in_memory, problem.seed, problem.task
    metric = require_rising(task)
    require_learnable(train, val, task)
    strata = task.strata(train.labels)
    strata = np.zeros(len(train), dtype=np.int64) if strata is None else strata
    sizes = curve_sizes(strata)
    samples_by_size: list[list[Statistics | None]] = [[] for _ in sizes]
    todo = [(number, draw) for draw in range(draws) for number in range(len(sizes) if draw == 0 else len(sizes) - 1)]
    orders = [stratified_order(strata, seed + draw) for draw in range(draws)]
    for number, draw in progress(todo, label="learning curve", unit="heads"):
        subset = orders[draw][: sizes[number]]
        cut = len(subset) - max(int(_HELD_OUT * len(subset)), 1)
        subset_problem = replace(
            problem, train=_select(train, subset[:cut]), val=_select(train, subset[cut:]), shared={}
        )
        try:
            trained = train_head(head, subset_problem)
        except DataError:
            if number == len(sizes) - 1:
                raise
            # all of train can be learned from, so that these are too few: one class, or one and the same number
            samples_by_size[number].append(None)
            continue
        activated = head_probabilities(trained.module, val.features, task)
        samples_by_size[number].append(scored_samples(task, activated, val.labels))
    samples_by_size[-1] *= draws
    curve = LearningCurve(sizes, samples_by_size, metric)
    if not curve.is_measured[-1]:
        raise DataError(
            f"{metric.label} is not defined on these {len(val)} validation images; give more images, or a larger "
            "`val_size`"
        )
    return curve


def _select(rows: FeatureRows, indices: NDArray[np.int64]) -> FeatureRows:
    groups = rows.groups[indices] if rows.groups is not None else None
    return FeatureRows(rows.features[indices], rows.labels[indices], groups=groups)
