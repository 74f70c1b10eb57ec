"""How sure one can be of a score: bootstrap intervals and paired tests, of any metric, from samples' statistics.

Samples that are not independent of each other, one image under several seeds or several images of one patient, are
resampled and swapped as whole groups: pass `groups`, what each row belongs to. Without them each sample is a group.
What the numbers mean for a choice between methods is said by whoever compares them.

Nothing here holds a table of resamples by samples: memory grows with the samples alone, however many resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.tasks.base import Metric, OfCounts, Statistics, mean_metric

RESAMPLES = 10_000

_FEWEST_RESAMPLES = 2_000
"""Resamples that are made in any case: the ends of an interval are known to a fiftieth of its width."""

_MOST_WORK = 6_000_000_000
"""Numbers that are gone through for the resamples beyond those: some ten seconds."""

_NUMBERS_AT_ONCE = 1 << 22
"""How many draws are held at once, 32 MB of them; a resample of more groups than that is held whole."""

_ScoresOf = Callable[[NDArray[np.float64]], NDArray[np.float64]]
_DifferenceOf = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_RIGHT = mean_metric("accuracy", "accuracy", lambda correct: np.asarray(correct, dtype=bool))
"""Accuracy of statistics that say of each sample whether it is right."""


class Difference(NamedTuple):
    """A difference of a metric with the ends of its 95 % interval; of shares, 0.02 is two points."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    metric: Metric,
    statistics: Statistics,
    groups: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a metric over samples, or over whole groups of them.

    Percentile bootstrap (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13); over groups the
    cluster bootstrap (Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 3.8). Resamples for
    which the metric is not defined are left out; if it never is, both ends are nan.

    Parameters
    ----------
    metric : Metric
    statistics : array [n, ...]
        What the task keeps of each sample.
    groups : array [n], optional
    seed : int
    resamples : int
        A metric that is no function of sums is computed that many times: allow for it. One that scores resamples
        together (`Metric.weighted`) takes as many as six billion ranks allow, and 2,000 at least: for 12,500 samples
        with 80 labels 6,000.
    """
    units = _Units.of(len(statistics), groups)
    if metric.per_sample is not None:
        return percentile_interval(_resampled_means(units, metric.per_sample(statistics), seed, resamples))
    return percentile_interval(_resampled(metric, (statistics,), units, seed, resamples)[0])


def bootstrap_difference(
    metric: Metric,
    statistics_a: Statistics,
    statistics_b: Statistics,
    groups: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """Return a metric of `a` minus that of `b`, with its 95 % interval: both resampled by the same draws.

    Parameters
    ----------
    metric : Metric
    statistics_a, statistics_b : array [n, ...]
        Of the same samples in the same order.
    groups : array [n], optional
    seed : int
    resamples : int
    """
    units = _Units.of(_common_length(statistics_a, statistics_b), groups)
    if metric.per_sample is not None:
        gains = _gains(metric.per_sample(statistics_a), metric.per_sample(statistics_b))
        return Difference(
            float(gains.sum() / len(gains)), *percentile_interval(_resampled_means(units, gains, seed, resamples))
        )
    scores_of_a, scores_of_b = _resampled(metric, (statistics_a, statistics_b), units, seed, resamples)
    return Difference(
        metric.score(statistics_a) - metric.score(statistics_b), *percentile_interval(scores_of_a - scores_of_b)
    )


def bootstrap_variance(metric: Metric, statistics: Statistics, *, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Return the variance of a metric over bootstrap resamples of the samples; nan where it is not defined for two.

    Resamples for which it is not defined are left out.
    """
    replicates = _resampled(metric, (statistics,), _Units.of(len(statistics), None), seed, resamples)[0]
    defined = replicates[~np.isnan(replicates)]
    return float(defined.var()) if len(defined) > 1 else float("nan")


def resampled_scores(metric: Metric, statistics: Statistics, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a metric of each resample, [resamples], from how often each sample is in it, [resamples, n]."""
    weighted = metric.weighted and metric.weighted(statistics)
    return _scorer(metric, statistics, weighted, _Units.of(len(statistics), None))(counts)


def paired_test(
    metric: Metric,
    statistics_a: Statistics,
    statistics_b: Statistics,
    groups: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> float:
    """Return the two-sided p-value of `a` and `b` being equally good on the same samples.

    McNemar's exact test where a sample is right or wrong, else `permutation_test`. Parameters as there.
    """
    if metric.per_sample is not None:
        scores_a, scores_b = metric.per_sample(statistics_a), metric.per_sample(statistics_b)
        if scores_a.dtype == np.bool_ and scores_b.dtype == np.bool_:
            return mcnemar(scores_a, scores_b, groups)
    return permutation_test(metric, statistics_a, statistics_b, groups, seed=seed, resamples=resamples)


def permutation_test(
    metric: Metric,
    statistics_a: Statistics,
    statistics_b: Statistics,
    groups: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> float:
    """Return how often a difference as large comes about when it is chance which of two results is whose.

    If `a` and `b` are equally good, their statistics of a sample may be swapped, those of a group together. The p-value
    is the share of swaps whose difference of metrics is at least the one observed, in either direction: of all swaps
    where there are no more than `resamples` of them, else of random ones, with the observed one among them so that it
    is never 0 (Phipson and Smyth 2010, "Permutation p-values should never be zero"; for metrics that are no means, as
    Noreen 1989, "Computer-Intensive Methods for Testing Hypotheses", section 2.4). A swap for which the metric is not
    defined counts as large.

    Parameters
    ----------
    metric : Metric
    statistics_a, statistics_b : array [n, ...]
        Of the same samples in the same order.
    groups : array [n], optional
    seed : int
    resamples : int
        As in `bootstrap_interval`.
    """
    units = _Units.of(_common_length(statistics_a, statistics_b), groups)
    if metric.per_sample is not None:
        # the divisor of the means is the same for every swap
        difference_of = _swapped_sums(
            units.sums(_gains(metric.per_sample(statistics_a), metric.per_sample(statistics_b)))
        )
    elif metric.weighted is not None:
        of_counts = metric.weighted(np.concatenate([statistics_a, statistics_b]))
        difference_of, resamples = _swapped_counts(of_counts, units), _affordable(resamples, of_counts, of_counts)
    else:
        difference_of = _swapped_metrics(metric, statistics_a, statistics_b, units)
    observed = abs(difference_of(np.zeros((1, units.count)))[0])
    threshold = observed * (1 - 1e-9) - 1e-12  # sums in another order differ in their last digits
    is_exhaustive = units.count < 63 and 2**units.count <= resamples
    large, swaps = 0, 0
    for swapped in _all_swaps(units.count) if is_exhaustive else _random_swaps(units.count, seed, resamples):
        large += int((~(np.abs(difference_of(swapped)) < threshold)).sum())
        swaps += len(swapped)
    return large / swaps if is_exhaustive else (large + 1) / (swaps + 1)


def accuracy_interval(correct: ArrayLike, groups: ArrayLike | None = None, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of an accuracy (`correct`: bool [n])."""
    return bootstrap_interval(_RIGHT, np.asarray(correct), groups, seed=seed)


def paired_difference(
    correct_a: ArrayLike, correct_b: ArrayLike, groups: ArrayLike | None = None, *, seed: int = 0
) -> Difference:
    """Return accuracy of `a` minus accuracy of `b` on the same tests (bool [n] each), with its bootstrap interval."""
    return bootstrap_difference(_RIGHT, np.asarray(correct_a), np.asarray(correct_b), groups, seed=seed)


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike, groups: ArrayLike | None = None) -> float:
    """Return the two-sided p-value of `a` and `b` being right equally often on the same tests (bool [n] each).

    The exact form of McNemar's test: of the samples on which the two differ, each is as likely to favor the one as
    the other, so the count is binomial with probability 1/2 (McNemar 1947, "Note on the sampling error of the
    difference between correlated proportions or percentages"; Dietterich 1998, "Approximate statistical tests for
    comparing supervised classification learning algorithms", section 3.1). A group has one vote, for the method that
    was right on it more often; without groups this is McNemar's test itself, otherwise the sign test over groups.
    """
    from scipy.stats import binomtest

    gains = _gains(np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool))
    sums = _Units.of(len(gains), groups).sums(gains)
    for_a, for_b = int((sums > 0).sum()), int((sums < 0).sum())
    return float(binomtest(for_a, for_a + for_b).pvalue) if for_a + for_b else 1.0


@dataclass(frozen=True)
class _Units:
    """What is drawn: groups of samples, or single ones. `index` is the unit of each sample, None if they are single."""

    index: NDArray[np.int64] | None
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, samples: int, groups: ArrayLike | None) -> _Units:
        if not samples:
            raise ValueError("there is nothing to draw from")
        if groups is None:
            return cls(None, np.ones(samples, dtype=np.int64))
        _, index, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
        if index.size != samples:
            raise ValueError(f"{index.size} groups for {samples} samples")
        return cls(index.reshape(-1), sizes)

    @property
    def count(self) -> int:
        return len(self.sizes)

    def of_samples(self, unit_values: NDArray[Any]) -> NDArray[Any]:
        """Return for each sample what its unit has, from values of units along the last axis."""
        return unit_values if self.index is None else unit_values[..., self.index]

    def sums(self, values: Any) -> Any:
        """Return the sums, [units, ...], of values of samples, [n, ...], dense or sparse."""
        if self.index is None:
            return values
        if values.ndim == 1:
            sums = np.zeros(self.count, dtype=values.dtype)
            np.add.at(sums, self.index, values)
            return sums
        from scipy.sparse import csr_array

        samples = len(self.index)
        members = csr_array((np.ones(samples, dtype=np.int64), (self.index, np.arange(samples))))
        return members @ values


def _common_length(statistics_a: Statistics, statistics_b: Statistics) -> int:
    if len(statistics_a) != len(statistics_b):
        raise ValueError(f"{len(statistics_a)} and {len(statistics_b)} statistics are not those of the same samples")
    return len(statistics_a)


def _gains(scores_a: NDArray[Any], scores_b: NDArray[Any]) -> NDArray[Any]:
    """Return by how much the score of each sample is higher for `a`; int64 where scores are right or wrong."""
    return np.subtract(*(scores.astype(_summed_as(scores)) for scores in (scores_a, scores_b)))


def _summed_as(values: NDArray[Any]) -> type[np.int64] | type[np.float64]:
    return np.float64 if np.issubdtype(values.dtype, np.floating) else np.int64


def percentile_interval(replicates: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of the 95 % interval of replicates, of which those that are nan do not count."""
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def _resampled_means(units: _Units, scores: NDArray[Any], seed: int, resamples: int) -> NDArray[np.float64]:
    """Return means of scores [n] over resamples of the units, float64 [resamples].

    Units of the same sum and size are interchangeable, and where sums are counts there are few kinds of them: how
    often each kind is drawn in a resample with replacement is one multinomial draw, so that no resample of the units
    has to be made.
    """
    sums, generator = units.sums(scores.astype(_summed_as(scores))), np.random.default_rng(seed)
    if sums.dtype == np.float64:
        drawn_means = [(drawn @ sums) / (drawn @ units.sizes) for drawn in _draws(units.count, generator, resamples)]
        return np.concatenate(drawn_means)
    kinds, counts = np.unique(np.stack([sums, units.sizes], axis=1), axis=0, return_counts=True)
    means = np.empty(resamples)
    for rows in _portions(resamples, len(kinds)):
        drawn = generator.multinomial(units.count, counts / units.count, size=rows.stop - rows.start)
        means[rows] = (drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1])
    return means


def _resampled(
    metric: Metric, statistics_by_method: tuple[Statistics, ...], units: _Units, seed: int, resamples: int
) -> NDArray[np.float64]:
    """Return the metric of each method over the same resamples of the units, float64 [methods, resamples]."""
    weighted = [metric.weighted and metric.weighted(statistics) for statistics in statistics_by_method]
    scorers = [
        _scorer(metric, statistics, of_counts, units)
        for statistics, of_counts in zip(statistics_by_method, weighted, strict=True)
    ]
    affordable = _affordable(resamples, *(of_counts for of_counts in weighted if of_counts is not None))
    draws = _draws(units.count, np.random.default_rng(seed), affordable)
    return np.concatenate([[scorer(drawn) for scorer in scorers] for drawn in draws], axis=1)


def _scorer(metric: Metric, statistics: Statistics, weighted: OfCounts | None, units: _Units) -> _ScoresOf:
    """Return a function from how often each unit is in resamples, [resamples, units], to their metrics, [resamples]."""
    if weighted is not None:
        return lambda drawn: _of_units(weighted, units, drawn)
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


def _of_units(of_counts: OfCounts, units: _Units, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the metric of resamples from how often each unit is in them, [resamples, units]."""
    portions = _portions(len(drawn), int(units.sizes.sum()))
    return np.concatenate([of_counts(units.of_samples(drawn[rows])) for rows in portions])


def _swapped_sums(gains: NDArray[Any]) -> _DifferenceOf:
    """Return a function from which units are swapped, [swaps, units], to the sum of their gains, [swaps]."""
    return lambda swapped: np.asarray(gains.sum() - 2 * (swapped @ gains))


def _swapped_counts(of_counts: OfCounts, units: _Units) -> _DifferenceOf:
    """Return what `_swapped_metrics` does of a metric of the samples of `a`, and of `b`, one after the other."""

    def difference_of(swapped: NDArray[np.float64]) -> NDArray[np.float64]:
        differences = []
        for rows in _portions(len(swapped), 2 * int(units.sizes.sum())):
            moved = units.of_samples(swapped[rows])
            differences.append(
                of_counts(np.concatenate([1 - moved, moved], axis=1))
                - of_counts(np.concatenate([moved, 1 - moved], axis=1))
            )
        return np.concatenate(differences)

    return difference_of


def _swapped_metrics(
    metric: Metric, statistics_a: Statistics, statistics_b: Statistics, units: _Units
) -> _DifferenceOf:
    """Return a function from which units are swapped, [swaps, units], to the differences of metrics, [swaps]."""
    sums_a, sums_b = (_flat_sums(metric, statistics, units) for statistics in (statistics_a, statistics_b))
    of_sum = metric.of_sum

    def difference_for(rows: NDArray[np.bool_]) -> float:
        mixed_a, mixed_b = statistics_a.copy(), statistics_b.copy()
        mixed_a[rows], mixed_b[rows] = statistics_b[rows], statistics_a[rows]
        return metric.score(mixed_a) - metric.score(mixed_b)

    if sums_a is None or sums_b is None or of_sum is None:
        return lambda swapped: np.array([difference_for(units.of_samples(swap).astype(bool)) for swap in swapped])
    total_a, total_b = (np.asarray(sums.sum(axis=0)).ravel() for sums in (sums_a, sums_b))
    between = sums_a - sums_b

    return lambda swapped: np.array(
        [
            of_sum(total_a - moved_sums) - of_sum(total_b + moved_sums)
            for rows in _portions(len(swapped), len(total_a))
            for moved_sums in swapped[rows] @ between
        ]
    )


def _flat_sums(metric: Metric, statistics: Statistics, units: _Units) -> Any:
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


def _random_swaps(count: int, seed: int, swaps: int) -> Iterator[NDArray[np.float64]]:
    """Yield which of `count` units are swapped, 0 or 1, float64 [some swaps, count]."""
    generator = np.random.default_rng(seed)
    for rows in _portions(swaps, count):
        yield generator.integers(2, size=(rows.stop - rows.start, count)).astype(np.float64)


def _all_swaps(count: int) -> Iterator[NDArray[np.float64]]:
    """Yield all ways to swap some of `count` units."""
    for rows in _portions(2**count, count):
        yield (np.arange(rows.start, rows.stop)[:, None] >> np.arange(count) & 1).astype(np.float64)


def _portions(total: int, width: int) -> Iterator[slice]:
    """Cut `total` rows of that width into slices that fit into memory."""
    at_once = max(_NUMBERS_AT_ONCE // width, 1)
    return (slice(start, min(start + at_once, total)) for start in range(0, total, at_once))
