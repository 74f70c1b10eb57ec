"""Accuracy against the number of training images, measured on the validation split; the test split never enters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cache.errors import DataError
from stages.fitting.fit_head import FeatureRows, FitProblem, head_probabilities, train_head
from stages.runtime.progress import progress
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
    correct : ndarray of bool [s, draws, v]
        Which validation images were right. With all images there is nothing to draw: its draws are the same.
    """

    sizes: NDArray[np.int64]
    correct: NDArray[np.bool_]

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """Accuracy, [s, draws]."""
        return np.asarray(self.correct.mean(axis=2))

    @property
    def errors(self) -> NDArray[np.float64]:
        """Standard error of each size's mean accuracy, [s]: of the draws, and of the finite validation split."""
        _, draws, images = self.correct.shape
        mean = self.accuracies.mean(axis=1)
        of_draws = self.accuracies.var(axis=1, ddof=1) / draws if draws > 1 else np.zeros_like(mean)
        return np.asarray(np.sqrt(of_draws + np.maximum(mean * (1 - mean), 1 / images) / images))


def curve_sizes(labels: NDArray[np.int64], count: int = SIZES) -> NDArray[np.int64]:
    """Return the sizes of a curve, int64 [s]: from two images of each class to all.

    Raises
    ------
    DataError
        If there are not even twice as many as the smallest size needs.
    """
    counts = np.bincount(labels)
    least = int(np.minimum(counts, PER_CLASS).sum())
    if len(labels) < 2 * least:
        raise DataError(
            f"{len(labels)} training images of {np.count_nonzero(counts)} classes are too few for a learning curve; "
            f"it goes from {least} images to all, which should be {2 * least} at least"
        )
    return np.unique(np.geomspace(least, len(labels), count).round().astype(np.int64))


def stratified_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the samples in a random order, int64 [n], of which every beginning is stratified.

    First two of each class, then image i of the n of a class at (i + 1/2) / n of the list.
    """
    generator = np.random.default_rng(seed)
    shuffled = [generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    ties = generator.random(len(labels))
    return interleave(labels, np.concatenate(shuffled), first=PER_CLASS, ties=ties)


def measure_curve(head: str, problem: FitProblem, draws: int) -> LearningCurve:
    """Return the accuracy on the validation split of heads trained on more and more of train.

    A head's settings are chosen within the images it may have, and it is refitted on all of them: validation images
    judge and do nothing else. The images of a draw contain those of its smaller sizes.
    """
    (train, val), seed = problem.in_memory, problem.seed
    sizes = curve_sizes(train.labels)
    correct = np.empty((len(sizes), draws, len(val)), dtype=bool)
    todo = [(number, draw) for draw in range(draws) for number in range(len(sizes) if draw == 0 else len(sizes) - 1)]
    orders = [stratified_order(train.labels, seed + draw) for draw in range(draws)]
    for number, draw in progress(todo, label="learning curve", unit="heads"):
        some = orders[draw][: sizes[number]]
        cut = len(some) - max(int(_HELD_OUT * len(some)), 1)
        within = replace(problem, train=_select(train, some[:cut]), val=_select(train, some[cut:]))
        trained = train_head(head, within)
        predicted = head_probabilities(trained.module, val.features, problem.task).argmax(axis=1)
        correct[number, draw] = predicted == val.labels
    correct[-1] = correct[-1, 0]
    return LearningCurve(sizes, correct)


def _select(rows: FeatureRows, places: NDArray[np.int64]) -> FeatureRows:
    groups = rows.groups[places] if rows.groups is not None else None
    return FeatureRows(rows.features[places], rows.labels[places], groups=groups)
