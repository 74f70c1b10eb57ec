"""Two results on the same samples: their difference with its 95 % interval, and a test that says the same as that.

An interval that holds 0 and a p-value of 0.05 or more are one statement, so each pair is made by one method: p is one
minus the level up to which the interval does not hold 0. Before several differences are called more than chance, their
p-values are adjusted: `holm`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.tasks.base import Metric, Statistics
from stages.tasks.intervals import FEWEST_GROUPS, quantile, right_or_wrong
from stages.tasks.proportions import difference_of_shares, mcnemar
from stages.tasks.standard_error import standard_error
from stages.tasks.statistics import RESAMPLES, Difference, expanded_interval, expanded_level, replicates
from stages.tasks.units import Units


class Compared(NamedTuple):
    """A metric of `a` minus that of `b`.

    Attributes
    ----------
    difference : Difference
        With the ends of its 95 % interval.
    p_value : float
        Two-sided; below 0.05 where the interval does not hold 0.
    method : str
        How both were made, in words: ``McNemar``, ``paired t``, ``bootstrap``.
    """

    difference: Difference
    p_value: float
    method: str


def compare(
    metric: Metric,
    statistics_a: Statistics,
    statistics_b: Statistics,
    groups: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    widened: float = 1.0,
) -> Compared:
    """Return the difference of a metric of two results on the same samples, and the p-value of there being none.

    - Right and wrong of independent samples: McNemar's exact test and the interval that goes with it
      (`difference_of_shares`).
    - A mean of samples' scores, and right and wrong of groups: Student's t of the sums of the groups (of a ratio, as
      groups differ in size: Cochran 1977, "Sampling Techniques", section 9.3). Only groups in which the two differ
      count as degrees of freedom, as only samples on which they differ count for McNemar's test, and the standard error
      is never less than that of independent samples.
    - Any other metric: the bootstrap over samples or groups with expanded percentiles; below ten groups Student's t of
      the jackknife's pseudo-values of the groups.

    An interval ends where the metric does: two shares differ by 100 points at most, whatever Student's t says of a few
    groups.

    Parameters
    ----------
    metric : Metric
    statistics_a, statistics_b : array [n, ...]
        Of the same samples in the same order.
    groups : array [n], optional
        What samples that are not independent of each other belong to; of one group the samples are taken as
        independent.
    seed : int
    resamples : int
    widened : float
        By how much the standard error is larger than these samples say: see ``stages.tasks.seeds``.
    """
    compared = _compare(metric, statistics_a, statistics_b, groups, seed, resamples, widened)
    (value, low, high), widest = compared.difference, metric.limits[1] - metric.limits[0]
    return compared._replace(difference=Difference(value, max(low, -widest), min(high, widest)))


def _compare(
    metric: Metric,
    statistics_a: Statistics,
    statistics_b: Statistics,
    groups: ArrayLike | None,
    seed: int,
    resamples: int,
    widened: float,
) -> Compared:
    """Return what `compare` does, with an interval that may end beyond what the metric can be."""
    if len(statistics_a) != len(statistics_b):
        raise ValueError(f"{len(statistics_a)} and {len(statistics_b)} statistics are not those of the same samples")
    units = Units.of(len(statistics_a), groups)
    if units.count == 1 or units.count == len(statistics_a):
        units, groups = Units.of(len(statistics_a), None), None
    right = [right_or_wrong(metric, statistics) for statistics in (statistics_a, statistics_b)]
    if right[0] is not None and right[1] is not None:
        gains = right[0].astype(np.int64) - right[1].astype(np.int64)
        single = gains if units.index is None else units.as_one_each(gains)
        if single is not None and widened == 1:
            return _of_single_images(single)
        return _of_gains(gains.astype(np.float64), units, widened)
    if metric.per_sample is not None:
        scores = [np.asarray(metric.per_sample(statistics), np.float64) for statistics in (statistics_a, statistics_b)]
        return _of_gains(scores[0] - scores[1], units, widened)
    value = metric.score(statistics_a) - metric.score(statistics_b)
    if math.isnan(value):
        return Compared(Difference(value, math.nan, math.nan), 1.0, "not defined")
    if units.count < 2:  # how far other samples differ is not known
        return Compared(Difference(value, min(value, 0.0), max(value, 0.0)), 1.0, "bootstrap")
    if units.index is not None and units.count < FEWEST_GROUPS:
        error = standard_error(metric, statistics_a, groups, against=statistics_b)
        return _of_error(value, error * widened, units.count - 1)
    made = np.subtract(*replicates(metric, (statistics_a, statistics_b), units, seed, resamples))
    low, high = (value + widened * (end - value) for end in expanded_interval(made, units.count))
    if value == 0 and low == high:
        return Compared(Difference(0.0, 0.0, 0.0), 1.0, "bootstrap")
    # what the widened interval says of 0, the interval says of a value nearer to its middle
    p_value = expanded_level(made, units.count, value * (1 - 1 / widened))
    if p_value >= 0.05:  # of fewer than five units no resample lies as far out as their interval would have to reach
        low, high = min(low, 0.0), max(high, 0.0)
    return Compared(Difference(value, low, high), p_value, "bootstrap")


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that are below 0.05 with a chance of 5 % at most for any of them where there is no difference.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    adjusted, least = [1.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        least = max(least, min((len(p_values) - rank) * p_values[number], 1.0))
        adjusted[number] = least
    return adjusted


def _of_single_images(gains: NDArray[np.int64]) -> Compared:
    only_a, only_b = int((gains > 0).sum()), int((gains < 0).sum())
    value = float(gains.sum() / len(gains))
    return Compared(
        Difference(value, *difference_of_shares(only_a, only_b, len(gains))), mcnemar(only_a, only_b), "McNemar"
    )


def _of_gains(gains: NDArray[np.float64], units: Units, widened: float) -> Compared:
    value, sums = float(gains.mean()), units.sums(gains)
    differing = int((sums != 0).sum())
    if differing < 2 and set(np.unique(gains)) <= {-1.0, 0.0, 1.0}:
        # where at most one group differs its sign is all that is known of it
        ends = difference_of_shares(int((sums > 0).sum()), int((sums < 0).sum()), units.count)
        return Compared(Difference(value, min(ends[0], value), max(ends[1], value)), 1.0, "McNemar")
    if differing < 2:
        return Compared(Difference(value, min(value, 0.0), max(value, 0.0)), 1.0, "paired t")
    single = Units.of(len(gains), None)
    error = max(units.error_of_mean(gains), single.error_of_mean(gains))
    return _of_error(value, error * widened, differing - 1)


def _of_error(value: float, error: float, degrees: int) -> Compared:
    """Return Student's t of a difference with that standard error."""
    if math.isnan(error) or not error:  # all units say the very same: how far others differ is not known
        return Compared(Difference(value, min(value, 0.0), max(value, 0.0)), 1.0, "paired t")
    from scipy.special import stdtr

    margin = quantile(degrees) * error
    return Compared(
        Difference(value, value - margin, value + margin), float(2 * stdtr(degrees, -abs(value) / error)), "paired t"
    )
