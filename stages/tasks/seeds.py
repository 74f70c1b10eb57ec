"""How much less sure several seeds make a score than as many independent test sets would.

Seeds share images: of a fixed test split all, where each seed splits anew those that were drawn twice; and what they
train on overlaps. So what differs between seeds says less than it seems to.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from stages.tasks.base import Metric, Statistics
from stages.tasks.intervals import quantile
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
    seeds differ by, whichever is more. Where all are tested on the same samples, the variance between the seeds over
    their number is added to that of the samples.

    What few seeds say of a variance is little known. So the factor is larger by as much as the quantile of Student's t
    is, with the degrees of freedom that the sum of the two variances has (Satterthwaite 1946, "An approximate
    distribution of estimates of variance components"), and no interval is shorter than Student's t of the seeds' own
    scores, with the seeds less one degrees of freedom, as in Nadeau and Bengio's test.

    Parameters
    ----------
    metric : Metric
    statistics : array [n, ...]
        Of all seeds.
    units : array [n]
        What is independent of each other: images, or their groups.
    seeds : array [n]
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
        share = 1 / len(numbers)
        of_samples, of_seeds = over_units**2, share * between
    else:
        of_one_seed, share = float(np.nanmean(within)), 1 / len(numbers) + resplit
        of_samples, of_seeds = share * of_one_seed, share * max(between - of_one_seed, 0.0)
    variance = of_samples + of_seeds
    degrees = math.inf if not of_seeds else (len(numbers) - 1) * (variance / of_seeds) ** 2
    margin = max(math.sqrt(variance) * quantile(degrees), math.sqrt(share * between) * quantile(len(numbers) - 1))
    factor = margin / (over_units * quantile(math.inf))
    return factor if factor > 1 + 1e-9 else 1.0
