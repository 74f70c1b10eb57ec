"""The bootstrap of any metric, and of the difference of two, from samples' statistics.

Samples that are not independent of each other, one image under several seeds or several images of one patient, are
resampled as whole groups: pass `groups`, what each row belongs to. Without them each sample is a group. Which interval
is made of resamples, and of which metrics none is, say ``stages.tasks.intervals`` and ``stages.tasks.paired``.

Nothing here holds a table of resamples by samples: memory grows with the samples alone, however many resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.tasks.base import Metric, OfCounts, Statistics
from stages.tasks.units import Units

RESAMPLES = 10_000

_RESAMPLES_OF_A_CHOICE = 400
"""Resamples that a choice is made of: its error is a twentieth of what one of them says."""

_FEWEST_UNITS_OF_A_CHOICE = 10
"""Units below which what is left out of a resample is too little to score by: a method may lose more than it has."""

_FEWEST_RESAMPLES = 2_000
"""Resamples that are made in any case: the ends of an interval are known to a fiftieth of its width."""

_MOST_WORK = 6_000_000_000
"""Numbers that are gone through for the resamples beyond those: some ten seconds."""

_NUMBERS_AT_ONCE = 1 << 22
"""How many draws are held at once, 32 MB of them; a resample of more groups than that is held whole."""

_ScoresOf = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Difference(NamedTuple):
    """A difference of a metric with the ends of its 95 % interval; of shares, 0.02 is two points."""

    value: float
    low: float
    high: float


def replicates(
    metric: Metric,
    statistics_by_method: tuple[Statistics, ...],
    units: Units,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> NDArray[np.float64]:
    """Return the metric of each method over the same resamples of the units, float64 [methods, resamples].

    nan where it is not defined for a resample.
    """
    weighted = [metric.weighted and metric.weighted(statistics) for statistics in statistics_by_method]
    scorers = [
        _scorer(metric, statistics, of_counts, units)
        for statistics, of_counts in zip(statistics_by_method, weighted, strict=True)
    ]
    affordable = _affordable(resamples, *(of_counts for of_counts in weighted if of_counts is not None))
    draws = _draws(units.count, np.random.default_rng(seed), affordable)
    return np.concatenate([[scorer(drawn) for scorer in scorers] for drawn in draws], axis=1)


def expanded_interval(made: NDArray[np.float64], units: int) -> tuple[float, float]:
    """Return the ends of the 95 % expanded percentile interval of replicates over so many units.

    A resample varies by a factor of sqrt((n - 1) / n) less than a sample does, and knows no tails: the quantiles lie
    as far out as those of Student's t, and that factor, ask for (Hesterberg 2015, "What teachers should know about the
    bootstrap", section 5.3). They are values of replicates, so that `expanded_level` says exactly whether the interval
    holds a value. Replicates that are nan do not count; of none, and of one unit, both ends are nan.
    """
    defined = np.sort(made[~np.isnan(made)])
    if not len(defined) or units < 2:
        return float("nan"), float("nan")
    outside = _expanded(0.05, units) / 2
    place = max(int(np.floor(outside * (len(defined) + 1))) - 1, 0)
    return float(defined[place]), float(defined[len(defined) - 1 - place])


def expanded_level(made: NDArray[np.float64], units: int, value: float) -> float:
    """Return the p-value of a true value: the largest 1 - level at which the expanded interval still holds it."""
    defined = made[~np.isnan(made)]
    if not len(defined) or units < 2:
        return 1.0
    below = min(int((defined <= value).sum()), int((defined >= value).sum()))
    return _unexpanded(min(2 * (below + 1) / (len(defined) + 1), 1.0), units)


def _expanded(level: float, units: int) -> float:
    from scipy.special import ndtr, stdtrit

    return float(2 * ndtr(np.sqrt(units / (units - 1)) * stdtrit(units - 1, level / 2)))


def _unexpanded(level: float, units: int) -> float:
    from scipy.special import ndtri, stdtr

    return float(min(2 * stdtr(units - 1, ndtri(level / 2) * np.sqrt((units - 1) / units)), 1.0))


def bootstrap_variance(metric: Metric, statistics: Statistics, *, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Return the variance of a metric over bootstrap resamples of the samples; nan where it is not defined for two.

    Resamples for which it is not defined are left out.
    """
    made = replicates(metric, (statistics,), Units.of(len(statistics), None), seed, resamples)[0]
    defined = made[~np.isnan(made)]
    return float(defined.var()) if len(defined) > 1 else float("nan")


def resampled_scores(metric: Metric, statistics: Statistics, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a metric of each resample, [resamples], from how often each sample is in it, [resamples, n]."""
    weighted = metric.weighted and metric.weighted(statistics)
    return _scorer(metric, statistics, weighted, Units.of(len(statistics), None))(counts)


def score_of_choosing(
    metric: Metric, statistics_by_method: Sequence[Statistics], units: Units, *, seed: int = 0
) -> float:
    """Return what the best of several methods is expected to score on samples that had no say in which one it is.

    The best of many scores is in part luck. Of each resample the method that is best there is scored on the units that
    are not in it (Tsamardinos, Greasidou and Borboudakis 2018, "Bootstrapping the out-of-sample predictions for
    efficient and accurate cross-validation", algorithm 3); what that lacks of the score, there, of the method that is
    best by all units is taken off the score of the latter, which has the same mean and varies less.

    Parameters
    ----------
    metric : Metric
    statistics_by_method : sequence of array [n, ...]
        Of the same samples in the same order, predicted by what was not fitted to them; at least one.
    units : Units
        What is independent of each other among the samples.
    seed : int

    Returns
    -------
    float
        Never better than the best score; that score where there are fewer than ten units, or the metric is defined for
        no resample and its rest.
    """
    sign = 1 if metric.higher_is_better else -1
    scores = [metric.score(statistics) for statistics in statistics_by_method]
    best = max(range(len(scores)), key=lambda number: sign * scores[number])
    if len(scores) < 2 or units.count < _FEWEST_UNITS_OF_A_CHOICE:
        return scores[best]
    scorers = [
        _scorer(metric, statistics, metric.weighted and metric.weighted(statistics), units)
        for statistics in statistics_by_method
    ]
    lost: list[float] = []
    for drawn in _draws(units.count, np.random.default_rng(seed), _RESAMPLES_OF_A_CHOICE):
        drawn = drawn[(drawn == 0).any(axis=1)]  # of two units, one draw in two leaves none out
        inside, outside = (
            sign * np.stack([scorer(counts) for scorer in scorers]) for counts in (drawn, (drawn == 0).astype(float))
        )
        taken = np.where(np.isnan(inside), -np.inf, inside).argmax(axis=0)
        lost += list(outside[best] - outside[taken, np.arange(len(taken))])
    known = np.array(lost)[~np.isnan(lost)]
    return scores[best] - sign * max(float(known.mean()), 0.0) if len(known) else scores[best]


def percentile_interval(replicates: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of the 95 % interval of replicates, of which those that are nan do not count."""
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def _scorer(metric: Metric, statistics: Statistics, weighted: OfCounts | None, units: Units) -> _ScoresOf:
    """Return a function from how often each unit is in resamples, [resamples, units], to their metrics, [resamples]."""
    if weighted is not None:
        return lambda drawn: _of_units(weighted, units, drawn)
    if metric.per_sample is not None:
        of_units = units.sums(metric.per_sample(statistics).astype(np.float64))
        return lambda drawn: np.asarray((drawn @ of_units) / (drawn @ units.sizes))
    sums, of_sum = _flat_sums(metric, statistics, units), metric.of_sum
    if sums is None or of_sum is None:
        return lambda drawn: np.array(
            [metric.score(np.repeat(statistics, units.of_samples(times).astype(np.int64), axis=0)) for times in drawn],
            dtype=np.float64,
        )
    return lambda drawn: np.array(
        [of_sum(total) for rows in _portions(len(drawn), sums.shape[1]) for total in drawn[rows] @ sums],
        dtype=np.float64,
    )


def _affordable(resamples: int, *weighted: OfCounts) -> int:
    """Return how many of the resamples are made: fewer of more samples, but enough of any."""
    work = sum(of_counts.work for of_counts in weighted)
    return min(resamples, max(_FEWEST_RESAMPLES, _MOST_WORK // max(work, 1)))


def _of_units(of_counts: OfCounts, units: Units, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the metric of resamples from how often each unit is in them, [resamples, units]."""
    portions = _portions(len(drawn), int(units.sizes.sum()))
    return np.concatenate([of_counts(units.of_samples(drawn[rows])) for rows in portions])


def _flat_sums(metric: Metric, statistics: Statistics, units: Units) -> Any:
    """Return the summands of each unit, float64 [units, k], dense or sparse; None for a metric that has none."""
    if metric.summands is None:
        return None
    summands = metric.summands(statistics)
    if isinstance(summands, np.ndarray):
        summands = summands.reshape(len(summands), -1)
    return units.sums(summands.astype(np.float64))  # floats, which products are quick for, and exact for counts


def _draws(count: int, generator: np.random.Generator, resamples: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each of `count` units is in each resample, float64 [some resamples, count]."""
    for rows in _portions(resamples, count):
        drawn = np.empty((rows.stop - rows.start, count))
        for times in drawn:
            times[:] = np.bincount(generator.integers(count, size=count), minlength=count)
        yield drawn


def _portions(total: int, width: int) -> Iterator[slice]:
    """Cut `total` rows of that width into slices that fit into memory."""
    at_once = max(_NUMBERS_AT_ONCE // width, 1)
    return (slice(start, min(start + at_once, total)) for start in range(0, total, at_once))
