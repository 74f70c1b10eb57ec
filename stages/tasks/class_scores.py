"""Precision, recall and F1 of each class, each with its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COVERAGE = 0.95


@dataclass(frozen=True)
class ShareOf:
    """A share of a class's samples with its 95 % interval; nan where there is none to have a share of.

    Attributes
    ----------
    value, low, high : float64 [classes]
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class ClassScores:
    """How each class fares.

    Attributes
    ----------
    support : int64 [classes]
        Samples that are of it.
    predicted : int64 [classes]
        Samples that are said to be.
    precision, recall, f1 : ShareOf
    """

    support: NDArray[np.int64]
    predicted: NDArray[np.int64]
    precision: ShareOf
    recall: ShareOf
    f1: ShareOf


def class_scores(
    target: NDArray[np.bool_], predicted: NDArray[np.bool_], groups: NDArray[np.int64] | None = None
) -> ClassScores:
    """Return the scores of each class.

    Intervals are Wilson's (1927, "Probable inference, the law of succession, and statistical inference"). F1 follows
    from the share that is right of all samples that are of the class or said to be (Jaccard's J) as 2 J / (1 + J), and
    so do the ends of its interval. Samples of one group are not independent: they count as so many fewer as the
    variance of the share between groups says (the design effect of Rao & Scott 1992, "A simple method for the analysis
    of clustered binary data", section 2).

    Parameters
    ----------
    target, predicted : bool [n, classes]
        Whether each sample is of each class, and is said to be.
    groups : int64 [n], optional
        Numbers of the groups that samples belong to, from 0.
    """
    hits = target & predicted
    jaccard = _share(hits, target | predicted, groups)
    return ClassScores(
        target.sum(axis=0),
        predicted.sum(axis=0),
        _share(hits, predicted, groups),
        _share(hits, target, groups),
        ShareOf(*(2 * share / (1 + share) for share in (jaccard.value, jaccard.low, jaccard.high))),
    )


def _share(part: NDArray[np.bool_], of: NDArray[np.bool_], groups: NDArray[np.int64] | None) -> ShareOf:
    """Return which share `part` is of `of`, bool [n, classes] each, for each class."""
    from scipy.special import ndtri

    counts = of.sum(axis=0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = part.sum(axis=0) / counts
        samples = counts if groups is None else _effective(part, of, groups, share, counts)
        z = float(ndtri((1 + COVERAGE) / 2))
        middle = (share + z**2 / (2 * samples)) / (1 + z**2 / samples)
        half = z / (1 + z**2 / samples) * np.sqrt(share * (1 - share) / samples + z**2 / (4 * samples**2))
    # rounding alone would leave the share itself outside
    return ShareOf(
        share, np.minimum(np.maximum(middle - half, 0), share), np.maximum(np.minimum(middle + half, 1), share)
    )


def _effective(
    part: NDArray[np.bool_],
    of: NDArray[np.bool_],
    groups: NDArray[np.int64],
    share: NDArray[np.float64],
    counts: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return as many independent samples as these are worth, for each class: no more than there are."""
    parts, ofs = (np.zeros((int(groups.max()) + 1, part.shape[1])) for _ in range(2))
    np.add.at(parts, groups, part)
    np.add.at(ofs, groups, of)
    present = (ofs > 0).sum(axis=0)
    variance = present / np.maximum(present - 1, 1) * ((parts - share * ofs) ** 2).sum(axis=0) / counts**2
    binomial = share * (1 - share)
    # where all are right, or none, nothing is seen of how alike the samples of a group are: each group counts once
    worth = np.where(variance > 0, binomial / variance, present)
    worth_at_most: NDArray[np.float64] = np.minimum(worth, counts)
    return worth_at_most
