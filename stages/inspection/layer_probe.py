"""Score and cost of each cut, by how much each is below the best on the same images, and which to take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.inspection.sample_scores import mean_of_defined, score_of, scores_of_resamples, variance_of
from stages.tasks.base import Metric, Statistics, mean_metric
from stages.tasks.paired import compare
from stages.tasks.standard_error import standard_error
from stages.tasks.statistics import percentile_interval

MOST_LOST = 0.02
"""What a recommended cut may lose to the best one, as measured: of few images, much more would not be told apart."""

_RESAMPLES = 1000

_SCORES = mean_metric("score", "score", np.asarray)
"""The mean of samples that are scores themselves."""


@dataclass(frozen=True, eq=False)
class CutScore:
    """A cut, what it costs, and how good a ridge head on its features is.

    Attributes
    ----------
    name : str
        The shortest that ``--cut`` takes for it.
    operation : str
        Its full name.
    depth : int
        Its number among all cuts of the network, from the image upwards, as ``list-cuts`` lists them.
    width : int
        Numbers in a row.
    bytes_per_image : int
        What a row takes in the cache, uncompressed.
    multiply_adds_below, multiply_adds_above : int
        Of the network up to the cut and beyond it, for one image.
    samples : tuple of array
        For each seed, what `scored_samples` says of the images of the validation split.
    metric : Metric
        What they are scored by.
    """

    name: str
    operation: str
    depth: int
    width: int
    bytes_per_image: int
    multiply_adds_below: int
    multiply_adds_above: int
    samples: tuple[Statistics, ...]
    metric: Metric

    @property
    def images(self) -> tuple[int, ...]:
        """Images of the validation split of each seed."""
        return tuple(map(len, self.samples))

    @cached_property
    def score(self) -> float:
        """Validation score over all seeds, each image counted as often as it was validated on.

        Of a metric that is no mean over images, the mean of the seeds' scores.
        """
        if self.metric.per_sample is None:
            return float(mean_of_defined(np.array(self.scores)))
        return score_of(self.metric, np.concatenate(self.samples))

    @cached_property
    def scores(self) -> tuple[float, ...]:
        """Validation score of each seed; nan where the metric is not defined."""
        return tuple(score_of(self.metric, samples) for samples in self.samples)

    @cached_property
    def standard_error(self) -> float:
        """Standard error of the score; of what is right or wrong the binomial one, sqrt(p (1 - p) / n)."""
        if self.metric.per_sample is not None:
            return math.sqrt(variance_of(self.metric, np.concatenate(self.samples)))
        variances = [
            variance_of(self.metric, samples)
            for samples, score in zip(self.samples, self.scores, strict=True)
            if not math.isnan(score)
        ]
        return math.sqrt(sum(variances)) / len(variances)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the trunk, for one image."""
        return self.multiply_adds_below

    @property
    def saved(self) -> float:
        """Share of the whole network's multiply-adds that lies above the cut and is not computed."""
        return self.multiply_adds_above / max(self.multiply_adds_below + self.multiply_adds_above, 1)

    @property
    def cost(self) -> tuple[int, int]:
        """What cuts are ordered by, cheapest first: multiply-adds, and of equals the bytes."""
        return self.multiply_adds, self.bytes_per_image


@dataclass(frozen=True, eq=False)
class LayerProbe:
    """What was found: cuts from the image upwards, and which of them to take.

    Attributes
    ----------
    cuts : tuple of CutScore
        At least one.
    seeds : tuple of int
    groups : tuple of array [v], optional
        For each seed, what each of its validation images belongs to, as `paired_loss` takes it.
    """

    cuts: tuple[CutScore, ...]
    seeds: tuple[int, ...]
    groups: tuple[NDArray[Any], ...] | None = None

    @property
    def metric(self) -> Metric:
        """What the cuts are scored by."""
        return self.cuts[0].metric

    @property
    def ranked(self) -> list[CutScore]:
        """The cuts by validation score, best first; of equals the cheapest first."""
        return sorted(self.cuts, key=lambda score: (-score.score, score.cost))

    @property
    def best(self) -> CutScore:
        """The cut with the highest validation score."""
        return self.ranked[0]

    @cached_property
    def losses(self) -> tuple[PairedLoss, ...]:
        """By how much each cut is below the best on the same validation images, in the order of the cuts."""
        return tuple(paired_loss(self.best, cut, self.groups) for cut in self.cuts)

    def loss_of(self, cut: CutScore) -> PairedLoss:
        """Return by how much a cut is below the best."""
        return self.losses[self.cuts.index(cut)]

    @property
    def recommended(self) -> CutScore:
        """The best cut, or the cheapest that is not told apart from it: `PairedLoss.is_tie`."""
        return min(
            (cut for cut, loss in zip(self.cuts, self.losses, strict=True) if cut is self.best or loss.is_tie),
            key=lambda cut: cut.cost,
        )


@dataclass(frozen=True)
class PairedLoss:
    """By how much the score of a cut is below the best one's, of the same validation images.

    Attributes
    ----------
    value, standard_error : float
    low, high : float
        Ends of the 95 % interval.
    """

    value: float
    standard_error: float
    low: float
    high: float

    @property
    def is_tie(self) -> bool:
        """Whether the cut is taken for as good as the best.

        It is within one standard error of the paired difference (the one-standard-error rule of Breiman, Friedman,
        Olshen and Stone 1984, "Classification and Regression Trees", section 3.4.3, with the error of what is asked, a
        difference of two scores of the same images), and measured no more than `MOST_LOST` below it.
        """
        return self.value <= min(self.standard_error, MOST_LOST)


def groups_of(groups: Sequence[str], keys: Sequence[str]) -> NDArray[np.str_]:
    """Return what each validation sample belongs to: its group where it has one, else itself."""
    named = groups or [""] * len(keys)
    return np.array([f"group {group}" if group else key for group, key in zip(named, keys, strict=True)])


def paired_loss(best: CutScore, cut: CutScore, groups: tuple[NDArray[Any], ...] | None = None) -> PairedLoss:
    """Return by how much a cut is below the best, of the same validation images.

    Parameters
    ----------
    best, cut : CutScore
    groups : tuple of array [v], optional
        For each seed, what each of its validation images belongs to: itself, or all images of a patient. What is the
        same is drawn and counted as one, also under several seeds. Without them all tests are independent.
    """
    sizes = best.images
    belongs = np.arange(sum(sizes)) if groups is None else np.unique(np.concatenate(groups), return_inverse=True)[1]
    value = best.score - cut.score
    if best.metric.per_sample is not None:
        scores = np.concatenate(best.samples), np.concatenate(cut.samples)
        _, low, high = compare(_SCORES, scores[0], scores[1], belongs).difference
        return PairedLoss(value, standard_error(_SCORES, scores[0], belongs, against=scores[1]), low, high)
    replicates = _replicates(best, belongs) - _replicates(cut, belongs)
    return PairedLoss(value, float(np.nanstd(replicates)), *percentile_interval(replicates))


def _replicates(cut: CutScore, belongs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the score of a cut over resamples of the groups, [resamples]: the same draws for every cut."""
    drawn = int(belongs.max()) + 1
    times = np.random.default_rng(0).multinomial(drawn, np.full(drawn, 1 / drawn), size=_RESAMPLES).astype(np.float64)
    by_seed = np.split(belongs, np.cumsum(cut.images)[:-1])
    scores = [
        scores_of_resamples(cut.metric, samples, times[:, of_seed])
        for samples, of_seed in zip(cut.samples, by_seed, strict=True)
    ]
    return np.asarray(mean_of_defined(np.stack(scores, axis=1)), dtype=np.float64)
