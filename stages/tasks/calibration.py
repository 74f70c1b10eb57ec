"""Whether probabilities are what they say: of images that are called 80 % sure, four in five should be right.

Confidences and what came of them, in whatever task: of one class a sample the probability of the predicted class, of
several labels that of each label. Bins hold equally many samples, since the confidences of a good model crowd at the
top, and bins of equal width would leave most of them empty (Nixon et al. 2019, "Measuring Calibration in Deep
Learning", section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_BINS = 15
"""Bins of equal mass; fewer where they would hold fewer than `SMALLEST_BIN` samples."""

SMALLEST_BIN = 20

COVERAGE = 0.95
"""Of consistency bars: so often the share that is right lies within, where confidences are what they say."""


@dataclass(frozen=True)
class Reliability:
    """Confidences in bins of equally many samples, from the lowest up, and what came of them.

    Attributes
    ----------
    confidence, right : float64 [bins]
        Mean confidence, and share that is right.
    counts : int64 [bins]
    low, high : float64 [bins]
        Consistency bars: between which the share that is right lies in 95 % of cases, where confidences are what they
        say (Bröcker & Smith 2007, "Increasing the Reliability of Reliability Diagrams", section 3).
    """

    confidence: NDArray[np.float64]
    right: NDArray[np.float64]
    counts: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @property
    def outside(self) -> int:
        """How many bins lie outside their bars; of twenty one does by chance."""
        return int(((self.right < self.low - 1e-12) | (self.right > self.high + 1e-12)).sum())


def reliability(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> Reliability:
    """Return confidences [n] in bins, and the share of each that is right."""
    from scipy.stats import binom

    sums = _bin_sums(confidence, right)
    counts = sums[0].astype(np.int64)
    means, shares = sums[1] / counts, sums[2] / counts
    tail = (1 - COVERAGE) / 2
    low, high = (binom.ppf(quantile, counts, means) / counts for quantile in (tail, 1 - tail))
    return Reliability(means, shares, counts, low, high)


def calibration_error(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Return how far confidences [n] are from the share that is right: root mean square over the samples, debiased.

    The plain expected calibration error takes what chance does to the share of a bin for error, some 5 points where
    15 bins hold 20 samples each. Its square can be freed of that: of the squared distance of a bin the variance of its
    share is taken off (Kumar, Liang & Ma 2019, "Verified Uncertainty Calibration", section 5, in bins of equal mass). 0
    where no more than chance is left.
    """
    counts, confidences, rights = _bin_sums(confidence, right)
    shares = rights / counts
    variances = shares * (1 - shares) / np.maximum(counts - 1, 1)
    squares = (confidences / counts - shares) ** 2 - variances
    return float(np.sqrt(max((counts * squares).sum() / counts.sum(), 0.0)))


def brier_scores(probabilities: NDArray[np.floating], is_true: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the Brier score of each sample, float64 [n], of the probabilities of its classes, [n, classes].

    The squared distance from 1 for the true class and 0 for the others, summed (Brier 1950, "Verification of forecasts
    expressed in terms of probability"); of two classes half of it, which is the squared error of either one's
    probability. 0 is best; scikit-learn's ``brier_score_loss``.
    """
    squares = (probabilities.astype(np.float64) - is_true) ** 2
    return np.asarray(squares.sum(axis=1) / (2 if probabilities.shape[1] == 2 else 1))


def _bin_sums(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return counts, and sums of confidences and of what is right, of bins of about equally many samples, [3, bins].

    Samples of the same confidence are in the same bin, so that their order does not matter.
    """
    values, inverse, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    bins = max(min(MOST_BINS, len(confidence) // SMALLEST_BIN), 1)
    middle = np.cumsum(counts) - (counts + 1) / 2  # the mean rank of the samples of a value
    number = np.minimum((middle / len(confidence) * bins).astype(np.int64), bins - 1)[inverse]
    sums = np.stack(
        [
            np.bincount(number, minlength=bins),
            np.bincount(number, confidence.astype(np.float64), minlength=bins),
            np.bincount(number, right, minlength=bins),
        ]
    ).astype(np.float64)
    return sums[:, sums[0] > 0] if len(values) else sums
