"""How much less sure several seeds make a score than as many independent test sets would.

Seeds share images: of a fixed test split all, where each seed splits anew those that were drawn twice; and what they
train on overlaps. So what differs between seeds says less than it seems to.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from stages.tasks.base import Metric, Statistics
from stages.tasks.standard_error import standard_error


def widening(
    metric: Metric,
    statistics: Statistics,
    units: ArrayLike,
    seeds: ArrayLike,
    *,
    resplit: float | None,
    against: Statistics | None = None,
) -> float:
    """Return by what the standard error over the units is to be multiplied, 1 at least.

    Where each seed splits the samples anew, the variance of the mean over J seeds is taken as (1 / J + tested /
    trained) times that of one seed, the correction of Nadeau and Bengio 2003, "Inference for the generalization error",
    section 3, for what trains on overlapping samples; that of one seed is what its own test samples say, or what the
    seeds differ by, whichever is more. Where all are tested on the same samples, what whole trainings differ by is
    added: its variance between the seeds over their number. Of a mean over samples that is the component of a table of
    samples by seeds, without what single samples differ by, which the units' standard error has already (Searle,
    Casella and McCulloch 1992, "Variance Components", section 4.3).

    Parameters
    ----------
    metric : Metric
    statistics : array [n, ...]
        Of all seeds.
    units : array [n]
        What is independent of each other: images, or their groups.
    seeds : array [n]
        Of a fixed test split the samples of all seeds stand in the same order.
    resplit : float, optional
        Tested samples over those trained on, where each seed splits anew; None where all have the same test samples.
    against : array [n, ...], optional
        For the difference from another result on the same samples.
    """
    of_seed, belongs = np.asarray(seeds), np.asarray(units)
    numbers = np.unique(of_seed)
    over_units = standard_error(metric, statistics, belongs, against=against)
    if len(numbers) < 2 or not over_units > 0:
        return 1.0
    scores, within = [], []
    for number in numbers:
        rows = of_seed == number
        other = None if against is None else against[rows]
        scores.append(metric.score(statistics[rows]) - (0.0 if other is None else metric.score(other)))
        within.append(standard_error(metric, statistics[rows], belongs[rows], against=other) ** 2)
    between = float(np.var(scores, ddof=1))
    if math.isnan(between):
        return 1.0
    if resplit is None:
        if metric.per_sample is not None:
            between -= _of_single_samples(metric, statistics, against, len(numbers))
        variance = over_units**2 + max(between, 0.0) / len(numbers)
    else:
        variance = (1 / len(numbers) + resplit) * max(between, float(np.nanmean(within)))
    factor = math.sqrt(variance) / over_units
    return factor if factor > 1 + 1e-9 else 1.0


def _of_single_samples(metric: Metric, statistics: Statistics, against: Statistics | None, seeds: int) -> float:
    """Return the variance between seeds that comes of single samples, whose mean differs from seed to seed."""
    assert metric.per_sample is not None
    values = metric.per_sample(statistics).astype(np.float64)
    if against is not None:
        values -= metric.per_sample(against).astype(np.float64)
    table = values.reshape(seeds, -1)
    samples = table.shape[1]
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float(np.square(rest).sum()) / ((seeds - 1) * max(samples - 1, 1)) / samples
