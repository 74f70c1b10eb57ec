"""The standard error of a score, or of the difference of two on the same samples, from the samples' statistics.

What is told apart by it are methods, before any test image is looked at: which of them are tied.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from stages.tasks.base import Metric, Statistics
from stages.tasks.units import Units

MOST_BLOCKS = 50
"""Parts of the samples that are left out one after the other, of a metric that is no mean."""


def standard_error(
    metric: Metric, statistics: Statistics, units: ArrayLike | None = None, *, against: Statistics | None = None
) -> float:
    """Return the standard error of a metric, or of its difference from that of `against`.

    Of a mean over samples that of a ratio of sums over units, which are taken as independent of each other (Cochran
    1977, "Sampling Techniques", section 9.3, clusters of unlike sizes); of any other metric the jackknife that leaves
    out whole groups of units (Shao and Tu 1995, "The Jackknife and Bootstrap", section 2.3), at most `MOST_BLOCKS` of
    them, drawn at random.

    Parameters
    ----------
    metric : Metric
    statistics : array [n, ...]
    units : array [n], optional
        What each sample belongs to: its image where there are several predictions of one, its patient. Without them
        each sample is one.
    against : array [n, ...], optional
        Of the same samples in the same order.

    Returns
    -------
    float
        nan where there are fewer than two units, or the metric is not defined for two parts of the samples.
    """
    if against is not None and len(against) != len(statistics):
        raise ValueError(f"{len(statistics)} and {len(against)} statistics are not those of the same samples")
    if not len(statistics):
        return math.nan
    independent = Units.of(len(statistics), units)
    if metric.per_sample is not None:
        values = metric.per_sample(statistics).astype(np.float64)
        if against is not None:
            values -= metric.per_sample(against).astype(np.float64)
        return independent.error_of_mean(values)
    return _jackknifed(metric, statistics, against, independent) if independent.count > 1 else math.nan


def _jackknifed(metric: Metric, statistics: Statistics, against: Statistics | None, units: Units) -> float:
    blocks = min(units.count, MOST_BLOCKS)
    block_of_unit = np.random.default_rng(0).permutation(np.arange(units.count) % blocks)
    block_of_sample = units.of_samples(block_of_unit)
    scores = []
    for block in range(blocks):
        kept = block_of_sample != block
        score = metric.score(statistics[kept])
        scores.append(score if against is None else score - metric.score(against[kept]))
    defined = np.array(scores)[~np.isnan(scores)]
    if len(defined) < 2:
        return math.nan
    return math.sqrt((len(defined) - 1) * float(defined.var()))
