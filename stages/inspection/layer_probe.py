"""Score and cost of each cut, and which to take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stages.inspection.sample_scores import mean_of_defined, score_of, variance_of
from stages.tasks.base import Metric, Statistics


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


@dataclass(frozen=True)
class LayerProbe:
    """What was found: cuts from the image upwards, and which of them to take.

    Attributes
    ----------
    cuts : tuple of CutScore
        At least one.
    seeds : tuple of int
    """

    cuts: tuple[CutScore, ...]
    seeds: tuple[int, ...]

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

    @property
    def one_se_threshold(self) -> float:
        """The score that is as good as the best: one standard error below it."""
        return self.best.score - self.best.standard_error

    @property
    def recommended(self) -> CutScore:
        """The cheapest cut whose score is within one standard error of the best.

        The one-standard-error rule: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 7.10.
        """
        return min((score for score in self.cuts if score.score >= self.one_se_threshold), key=lambda score: score.cost)
