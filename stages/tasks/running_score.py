"""A metric of samples that come batch by batch, in as little memory as the metric allows.

Most metrics are functions of sums over the samples, so the sums are all that is kept of them. Of the others the
statistics of all samples are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.tasks.base import Metric, Statistics

Sums = NDArray[np.float64]
"""What the statistics of some samples add up to, flat."""


def is_of_sums(metric: Metric) -> bool:
    """Return whether sums over the samples are all that the metric needs to know of them."""
    return metric.per_sample is not None or metric.summands is not None


def sums_of(metric: Metric, statistics: Statistics) -> Sums | None:
    """Return the sums of which `score_of_sums` makes the metric; None where it is no function of sums."""
    if metric.per_sample is not None:
        return np.array([metric.per_sample(statistics).sum()], dtype=np.float64)
    if metric.summands is not None:
        return np.asarray(metric.summands(statistics).sum(axis=0), dtype=np.float64).ravel()
    return None


def score_of_sums(metric: Metric, sums: Sums, count: int) -> float:
    """Return the metric of `count` samples from what their statistics add up to; a share is a count over a count."""
    return metric.of_sum(sums) if metric.of_sum is not None else float(sums[0]) / count


class RunningScore:
    """The metric of all samples that were added.

    Parameters
    ----------
    metric : Metric

    Attributes
    ----------
    count : int
        Samples that were added.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._sums: Sums | None = None
        self._statistics: list[Statistics] = []
        self.count = 0

    def add(self, statistics: Statistics) -> None:
        """Take up the statistics of some samples."""
        sums = sums_of(self._metric, statistics)
        self._take(sums, [] if sums is not None else [statistics], len(statistics))

    @property
    def state(self) -> tuple[Sums | None, list[Statistics], int]:
        """All that was taken up, which another process can `merge`."""
        return self._sums, self._statistics, self.count

    def merge(self, state: tuple[Sums | None, list[Statistics], int]) -> None:
        """Take up what another one has."""
        self._take(*state)

    def value(self) -> float:
        """Return the metric; nan of no samples."""
        if not self.count:
            return float("nan")
        if self._sums is not None:
            return score_of_sums(self._metric, self._sums, self.count)
        return self._metric.score(np.concatenate(self._statistics))

    def _take(self, sums: Sums | None, statistics: list[Statistics], count: int) -> None:
        if sums is not None:
            self._sums = sums if self._sums is None else self._sums + sums
        self._statistics = [*self._statistics, *statistics]
        self.count += count
