"""Shares of every stratum: an order of samples of which every beginning has them, and folds that have them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def interleave(
    strata: ArrayLike, order: ArrayLike | None = None, *, first: int = 0, ties: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Return the samples, int64 [n], so ordered that every beginning of the list is stratified.

    Sample i of the n in its stratum stands at (i + 1/2) / n of the list. Where the list is cut at a share x, of each
    stratum n x samples are in front of the cut, give or take half a sample.

    Parameters
    ----------
    strata : array [n]
        Of each sample, integers or words.
    order : int [n], optional
        A permutation: in which order the members of a stratum come. As they stand, if left out.
    first : int
        That many of each stratum, as far as it has them, come before all others: the first of each, then the second.
    ties : array [n], optional
        Of samples that would stand at one place, the one with the smaller number comes first; their place in `order`,
        if left out.
    """
    numbers = np.unique(np.asarray(strata), return_inverse=True)[1].reshape(-1)
    arrival = np.arange(len(numbers)) if order is None else np.asarray(order, dtype=np.int64)
    sizes = np.bincount(numbers)
    grouped = arrival[np.argsort(numbers[arrival], kind="stable")]  # stratum after stratum, each in the order asked for
    rank = np.empty(len(numbers), dtype=np.int64)
    rank[grouped] = np.arange(len(numbers)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    if ties is None:
        position = np.empty(len(numbers), dtype=np.int64)
        position[arrival] = np.arange(len(numbers))
        ties = position
    return np.lexsort((np.asarray(ties), (rank + 0.5) / sizes[numbers], np.minimum(rank, first)))


def multi_label_folds(
    membership: NDArray[np.bool_], n_folds: int, seed: int, groups: ArrayLike | None = None
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return pairs of rows fitted on and rows left out, int64: each fold has its share of every stratum.

    Iterative stratification (Sechidis et al. 2011, "On the stratification of multi-label data", algorithm 1): the
    stratum with the fewest samples that are left is dealt out first, as frequent ones can still be evened out later.
    A sample goes to the fold that lacks most of all that it has, where they look at the one stratum alone; so sizes of
    folds are even too, and groups, the largest of a stratum first, stay whole.

    Parameters
    ----------
    membership : bool [n, strata]
        In which strata each sample is: several, one or none.
    n_folds : int
        At most as many as there are samples, or groups.
    seed : int
    groups : array [n], optional
        A group is never torn apart.
    """
    members = np.column_stack([membership, np.ones(len(membership), dtype=bool)])  # the last stratum: all there are
    unit = np.arange(len(members)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    num_units = int(unit.max()) + 1
    if not 1 < n_folds <= num_units:
        raise ValueError(f"{num_units} samples, or groups, are not dealt out to {n_folds} folds")
    unit = np.random.default_rng(seed).permutation(num_units)[unit.reshape(-1)]
    counts = np.zeros((num_units, members.shape[1]))
    np.add.at(counts, unit, members)
    left = counts.sum(axis=0)
    lacking = np.tile(left / n_folds, (n_folds, 1))
    weight = 1 / np.maximum(left, 1) ** 2  # a share of a stratum counts alike, whatever its size
    fold = np.full(num_units, -1)
    while left[-1]:
        rarest = np.argmin(np.where(left > 0, left, np.inf)[:-1]) if left[:-1].any() else len(left) - 1
        dealt = np.flatnonzero((fold < 0) & (counts[:, rarest] > 0))
        for number in dealt[np.argsort(-counts[dealt, rarest], kind="stable")]:
            fold[number] = (lacking @ (counts[number] * weight)).argmax()
            lacking[fold[number]] -= counts[number]
        left -= counts[dealt].sum(axis=0)
    held = fold[unit]
    return [(np.flatnonzero(held != number), np.flatnonzero(held == number)) for number in range(n_folds)]
