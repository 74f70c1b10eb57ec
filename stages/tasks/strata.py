"""An order of samples of which every beginning has its share of each stratum."""

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
