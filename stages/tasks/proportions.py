"""Intervals of shares: of images that are right, and of the difference of two such shares on the same images."""

from __future__ import annotations

import math

LEVEL = 0.95
"""Of every interval."""


def wilson(share: float, number: float, quantile: float) -> tuple[float, float]:
    """Return the ends of Wilson's interval of a share of `number` independent ones, which need not be a whole number.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference". Of the intervals of a share it
    is one of those that Brown, Cai and DasGupta 2001, "Interval estimation for a binomial proportion", recommend.

    Parameters
    ----------
    share, number : float
    quantile : float
        Of the normal distribution, or of one with wider tails: 1.96 for 95 %.
    """
    squared = quantile**2
    center = (share + squared / (2 * number)) / (1 + squared / number)
    half = quantile / (1 + squared / number) * math.sqrt(share * (1 - share) / number + squared / (4 * number**2))
    # at 0 and at 1 the end is that very number, which rounding would miss
    return 0.0 if share == 0 else max(center - half, 0.0), 1.0 if share == 1 else min(center + half, 1.0)


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of `a` and `b` being right equally often, from the images only one is right on.

    The exact form of McNemar's test: each of these is as likely to favor the one as the other, so the count is
    binomial with probability 1/2 (McNemar 1947, "Note on the sampling error of the difference between correlated
    proportions or percentages"; Dietterich 1998, "Approximate statistical tests for comparing supervised
    classification learning algorithms", section 3.1).
    """
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def difference_of_shares(only_a: int, only_b: int, number: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two shares on the same images; it holds 0 unless `mcnemar` < 0.05.

    The wider, at each end, of two intervals. One holds the differences that the score test does not reject (Tango 1998,
    "Equivalence test and confidence interval for the difference in proportions for the paired-sample design"); it
    covers well, and its test is McNemar's without a correction, which rejects more than the exact one. The other is the
    exact interval (Clopper and Pearson 1934) of the share that `a` has of the images only one is right on, times how
    many there are; it holds 1/2 just where the exact test does not reject.

    Parameters
    ----------
    only_a, only_b : int
        Images that `a` alone, and `b` alone, is right on.
    number : int
        All images.
    """
    low, high = _score_interval(only_a, only_b, number)
    differing = only_a + only_b
    if differing:
        from scipy.stats import binomtest

        exact = binomtest(only_a, differing).proportion_ci(LEVEL, method="exact")
        low = min(low, (2 * float(exact.low) - 1) * differing / number)
        high = max(high, (2 * float(exact.high) - 1) * differing / number)
    return low, high


def _score_interval(only_a: int, only_b: int, number: int) -> tuple[float, float]:
    from scipy.optimize import brentq
    from scipy.stats import norm

    quantile = float(norm.ppf((1 + LEVEL) / 2))

    def beyond(difference: float, sign: int) -> float:
        """Return by how much the score statistic of that true difference is above the quantile, on one side."""
        product = -only_b * difference * (1 - difference)
        linear = -only_a - only_b + (2 * number - only_a + only_b) * difference
        root = math.sqrt(max(linear**2 - 8 * number * product, 0))
        alone_b = (root - linear) / (4 * number)  # the likeliest share that b alone is right on
        variance = number * (2 * alone_b + difference * (1 - difference))
        distance = only_a - only_b - number * difference
        return sign * distance - quantile * math.sqrt(max(variance, 0))

    # beside what is observed: there the statistic has no variance where no image differs
    observed, beside = (only_a - only_b) / number, 1e-9
    low = -1.0 if observed == -1 else float(brentq(beyond, -1, observed - beside, args=(1,)))
    high = 1.0 if observed == 1 else float(brentq(beyond, observed + beside, 1, args=(-1,)))
    return low, high
