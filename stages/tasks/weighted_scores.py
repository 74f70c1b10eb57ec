"""Scores of many resamples at once, each given as how often it holds each sample.

A score of ranks needs the samples in order, and their order is the same in every resample. So they are sorted once;
what remains for a resample are sums along that order, which are made for many resamples together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Counts = NDArray[np.floating]
"""How often each sample is in each resample, [n, resamples]: whole numbers, of which sums are exact."""


class WeightedScore(NamedTuple):
    """A score of some samples, whose order is known.

    Attributes
    ----------
    of_counts : callable
        From counts to the score of each resample, [resamples]; nan where it is not defined.
    work : int
        Numbers that are gone through for a resample.
    copies : int
        How many of them are one row of the counts, at most.
    """

    of_counts: Callable[[Counts], NDArray[np.float64]]
    work: int
    copies: int = 1


_COUNTS_AT_ONCE = 400_000
_FEWEST_AT_ONCE = 32
"""Counts, of as many resamples as that is, that are gone through together: they stay in the processor's cache."""

_EXACT_UP_TO = 1 << 23
"""Samples in a resample up to which their number, and the half of it, is exact in float32."""

_NEXT_TO_NOTHING = 1e-30
"""Where nothing is drawn yet: divides, and is lost in any count."""


class WeightedMean:
    """The mean of some scores, of those that are defined, over many resamples.

    Parameters
    ----------
    scores : sequence of callable

    Attributes
    ----------
    work : int
        Counts that are gone through for a resample.
    """

    def __init__(self, scores: Sequence[WeightedScore]) -> None:
        self._scores = scores
        self.work = sum(score.work for score in scores)

    def __call__(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean for each resample, [resamples], from how often each sample is in it, [resamples, n]."""
        from stages.runtime.threads import single_threaded  # resamples alone need it

        means = np.full(len(counts), np.nan)
        most = counts.sum(axis=1).max(initial=0) * max(score.copies for score in self._scores)
        dtype: type[np.floating[Any]] = np.float32 if most < _EXACT_UP_TO else np.float64
        at_once = max(_COUNTS_AT_ONCE // counts.shape[1], _FEWEST_AT_ONCE)
        for start in range(0, len(counts), at_once):
            rows = slice(start, start + at_once)
            by_sample = np.ascontiguousarray(counts[rows].T, dtype=dtype)
            with single_threaded():
                values = np.stack([score.of_counts(by_sample) for score in self._scores])
            defined = ~np.isnan(values)
            totals, number = np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0)
            means[rows] = np.where(number > 0, totals / np.maximum(number, 1), np.nan)
        return means


def weighted_average_precision(
    positive: NDArray[np.bool_], scores: NDArray[np.floating], rows: NDArray[np.int64], num_rows: int
) -> WeightedScore:
    """Return the average precision of some rows of the counts, ties together; nan without a positive.

    Parameters
    ----------
    positive : bool [m]
    scores : float [m]
    rows : int64 [m]
        Which rows of the counts these are; a row may be there more than once, as one of several labels.
    num_rows : int
    """
    ranking = _Ranking(positive, scores, rows, num_rows)

    def average_precision(counts: Counts) -> NDArray[np.float64]:
        true, hits, drawn = ranking.sums(counts)
        total = hits[-1].astype(np.float64)
        return _divided(np.einsum("ij,ij->j", np.divide(hits, drawn, dtype=np.float64), true), total)

    return WeightedScore(average_precision, len(rows), int(np.bincount(rows, minlength=1).max()))


def weighted_area_under_roc(
    positive: NDArray[np.bool_], scores: NDArray[np.floating], rows: NDArray[np.int64], num_rows: int
) -> WeightedScore:
    """Return the area under the ROC curve, ties as one half; nan where all or none is positive.

    Parameters as in `weighted_average_precision`.
    """
    if 2 * positive.sum() > len(positive):  # the same area, and work goes with the number of those that are positive
        positive, scores = ~positive, -scores
    ranking = _Ranking(positive, scores, rows, num_rows)

    def area(counts: Counts) -> NDArray[np.float64]:
        true, hits, drawn = ranking.sums(counts)
        total = hits[-1].astype(np.float64)
        others = drawn[-1] - total
        # of each positive the others above it are what is drawn up to its score, without the hits
        above = _sums_of_products(true, drawn) - _sums_of_products(true, hits)
        return _divided(total * others - above + ranking.tied(counts) / 2, total * others)

    return WeightedScore(area, len(rows))


def weighted_median(values: NDArray[np.floating], rows: NDArray[np.int64], num_rows: int) -> WeightedScore:
    """Return the median of values [m]; nan of none. `rows` and `num_rows` as in `weighted_average_precision`."""
    order = np.argsort(values, kind="stable")
    ranked = np.append(values[order], np.nan).astype(np.float64)
    each = _RunningSums(np.arange(len(order)), rows[order], len(order), num_rows)

    def median(counts: Counts) -> NDArray[np.float64]:
        up_to = each.cumulated(each.sums(counts))
        total = up_to[-1]
        # of an even number the mean of the two in the middle, of an odd one that in the middle twice
        middle = [(up_to < np.floor(place)).sum(axis=0) for place in ((total + 1) / 2, total / 2 + 1)]
        return np.where(total > 0, (ranked[middle[0]] + ranked[middle[1]]) / 2, np.nan)

    return WeightedScore(median, 3 * len(rows))


def weighted_rank_correlation(
    target: NDArray[np.floating], prediction: NDArray[np.floating], rows: NDArray[np.int64], num_rows: int
) -> WeightedScore:
    """Return Spearman's correlation of true and predicted values [m], ties at their mean rank.

    It is nan where what is true is constant, and 0 where what is predicted alone is, which orders nothing.

    `rows` and `num_rows` as in `weighted_average_precision`.
    """
    members = [np.unique(values, return_inverse=True)[1].reshape(-1) for values in (target, prediction)]
    columns = [_RunningSums(member, rows, int(member.max(initial=-1)) + 1, num_rows) for member in members]

    def correlation(counts: Counts) -> NDArray[np.float64]:
        ranks, lengths = [], []
        for sums, member in zip(columns, members, strict=True):
            drawn = sums.sums(counts)
            up_to = sums.cumulated(drawn.copy())
            from_mean = up_to - (drawn + up_to[-1]) / 2
            lengths.append(_sums_of_products(drawn, from_mean, from_mean))
            ranks.append(from_mean[sums.place(member)])
        together = _sums_of_products(counts[rows], *ranks)
        # of constant predictions no product is other than 0, whatever it is divided by
        return _divided(together, np.sqrt(lengths[0] * np.where(lengths[1] > 0, lengths[1], 1)))

    return WeightedScore(correlation, 10 * len(rows))


def _sums_of_products(*columns: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(np.einsum(",".join(["ij"] * len(columns)) + "->j", *columns, dtype=np.float64))


def _divided(values: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(by > 0, values / np.where(by > 0, by, 1), np.nan)


class _Members:
    """Which rows of the counts each sum is of."""

    def __init__(self, number: NDArray[np.int64], rows: NDArray[np.int64], num_sums: int) -> None:
        self._rows = torch.from_numpy(np.asarray(rows, dtype=np.int64)[np.argsort(number, kind="stable")])
        sizes = np.bincount(number, minlength=num_sums)
        self._begins = torch.from_numpy(np.cumsum(sizes) - sizes)

    def sums(self, counts: Counts) -> Counts:
        # adding up rows is torch's embedding_bag, several times as quick as a product with a sparse matrix
        return np.asarray(functional.embedding_bag(self._rows, torch.from_numpy(counts), self._begins, mode="sum"))


class _RunningSums:
    """Sums of counts over members of segments that follow one another, and what they add up to.

    Segment s stands in row ``s % steps * runs + s // steps``: runs of segments side by side, which add up in few long
    steps. The last row is the last segment, or an empty one after it.

    Parameters
    ----------
    segment : int64 [m]
        Of each member.
    rows : int64 [m]
        The row of the counts that a member is.
    num_segments, num_rows : int
    """

    def __init__(self, segment: NDArray[np.int64], rows: NDArray[np.int64], num_segments: int, num_rows: int) -> None:
        self._steps = math.isqrt(num_segments) + 1
        self._runs = -(-num_segments // self._steps) or 1
        self._members = _Members(self.place(segment), rows, self._steps * self._runs)

    def place(self, segment: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows in which segments stand."""
        return segment % self._steps * self._runs + segment // self._steps

    def sums(self, counts: Counts) -> Counts:
        """Return the sum of each segment, [segments and empty ones, resamples]."""
        return self._members.sums(counts)

    def cumulated(self, sums: Counts) -> Counts:
        """Add to each sum those of all segments in front of it, in place."""
        table = sums.reshape(self._steps, self._runs, -1)
        for step in range(1, self._steps):
            np.add(table[step], table[step - 1], out=table[step])
        table[:, 1:] += np.cumsum(table[-1], axis=0)[:-1]
        return sums


class _Ranking:
    """Samples from the highest score down, in segments that each end with the last one of a score that a positive has.

    What is not positive and stands below all of these is in a segment of its own, the last.
    """

    def __init__(
        self, positive: NDArray[np.bool_], scores: NDArray[np.floating], rows: NDArray[np.int64], num_rows: int
    ) -> None:
        levels, level = np.unique(-scores, return_inverse=True)
        level = level.reshape(-1)
        has_positive = np.bincount(level[positive], minlength=len(levels)) > 0
        segment: NDArray[np.int64] = (np.cumsum(has_positive) - has_positive)[level]
        number = int(has_positive.sum()) + 1
        self._true = _RunningSums(segment[positive], rows[positive], number, num_rows)
        self._all = _RunningSums(segment, rows, number, num_rows)
        tied = ~positive & has_positive[level]
        has_tie = np.zeros(number, dtype=bool)
        has_tie[segment[tied]] = True
        beside = positive & has_tie[segment]
        self._tied = [_Members(segment[chosen], rows[chosen], number) for chosen in (tied, beside) if tied.any()]

    def sums(self, counts: Counts) -> tuple[Counts, Counts, Counts]:
        """Return the positives of each segment, and how many of them, and of all, there are up to its end."""
        true, drawn = self._true.sums(counts), self._all.sums(counts)
        drawn[0] += _NEXT_TO_NOTHING
        return true, self._true.cumulated(true.copy()), self._all.cumulated(drawn)

    def tied(self, counts: Counts) -> NDArray[np.float64]:
        """Return the number of pairs, of a positive and another, that have one score, [resamples]."""
        if not self._tied:
            return np.zeros(counts.shape[1])
        false, true = (members.sums(counts) for members in self._tied)
        return _sums_of_products(false, true)
