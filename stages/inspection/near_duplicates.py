"""Near-duplicates: images that show the same picture, within a split or, which is leakage, across splits.

Two criteria make a pair; a chain of pairs is a group.

- The cosine of the centred features reaches the threshold. Alone it would miss a small or strongly compressed copy.
- It is up to `RELAXED_FACTOR` times as far from 1, and the two are `CONTRAST_FACTOR` times nearer to each other than
  either to its tenth neighbour: a copy stands out from what is around it, where two images of a uniform set, however
  alike, do not.

Where the same bytes stand twice, no feature is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.inspection.nearest_neighbors import Neighbors, UnitFeatures, equal_pairs, merge_groups
from stages.runtime.float32 import float32_products
from stages.runtime.products import linear

THRESHOLD = 0.98
"""Cosine of the centred features from which on two images are near-duplicates. On flowers, digits and solar cells no
pair of images that differ reached it but cells of one module that look the same."""

RELAXED_FACTOR, CONTRAST_FACTOR = 5.0, 5.0

REFERENCE_NEIGHBOR = 10
"""The neighbour whose distance says how near images are around a pair."""

_ORDER = ("test", "val", "train")
_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class NearDuplicate:
    """An image that shows what another one does.

    Attributes
    ----------
    index : int
        The image that could go.
    other_index : int
        The one most like it of those that could stay: of a split further from training if the group has one there.
    cosine : float
    exact : bool
        Whether the two are the same, byte for byte.
    group : int
        The same number for all that show the same.
    leakage : bool
        Whether the two are in different splits.
    """

    index: int
    other_index: int
    cosine: float
    exact: bool
    group: int
    leakage: bool


@float32_products()
def find_duplicates(
    directions: UnitFeatures, neighbors: Neighbors, threshold: float, keys: list[str], splits: list[str]
) -> list[NearDuplicate]:
    """Return the near-duplicates: all images of a group but one, leakage first, then the most alike.

    Parameters
    ----------
    neighbors : Neighbors
        Of `directions`, with groups made at the same threshold.
    keys, splits : list of str
    """
    groups = merge_groups(neighbors.groups, _standing_out(neighbors, threshold))
    groups = merge_groups(groups, equal_pairs(keys))
    split_order = np.array([_ORDER.index(split) for split in splits])
    order = np.lexsort((np.arange(len(groups)), split_order, groups))
    ends = np.flatnonzero(np.diff(groups[order])) + 1
    copies = [
        copy
        for number, members in enumerate(part for part in np.split(order, ends) if len(part) > 1)
        for copy in _copies(directions, members, number, keys, splits)
    ]
    return sorted(copies, key=lambda copy: (not copy.leakage, -copy.cosine, copy.index))


def _standing_out(neighbors: Neighbors, threshold: float) -> NDArray[np.int64]:
    """Return the pairs [m, 2] that stand out from what is around them."""
    kth_distance = neighbors.kth_distance
    around = np.minimum(kth_distance[:, None], kth_distance[neighbors.indices])
    stands_out = (neighbors.distances <= RELAXED_FACTOR * (1 - threshold)) & (
        CONTRAST_FACTOR * neighbors.distances <= around
    )
    stands_out &= around > 0
    row, column = stands_out.nonzero()
    return np.stack([row, neighbors.indices[row, column]], axis=1)


def _copies(
    directions: UnitFeatures, members: NDArray[np.int64], number: int, keys: list[str], splits: list[str]
) -> list[NearDuplicate]:
    """Return a copy for each member after the first; the partner stands before it, in another split where one does."""
    rows, split = directions.rows(members), np.array([splits[index] for index in members])
    copies = []
    for start in range(0, len(members), _BLOCK_ROWS):
        cosines = linear(rows[start : start + _BLOCK_ROWS], rows).cpu().numpy()
        for row, cosine in enumerate(cosines, start=start):
            if row == 0:
                continue
            earlier = np.flatnonzero(split[:row] != split[row])
            earlier = earlier if len(earlier) else np.arange(row)
            # the same bytes first, which are the same features but for rounding
            same_bytes = np.array([keys[members[candidate]] == keys[members[row]] for candidate in earlier])
            partner = earlier[np.argmax(cosine[earlier] + 2 * same_bytes)]
            exact = keys[members[partner]] == keys[members[row]]
            index, other = int(members[row]), int(members[partner])
            alike = 1.0 if exact else min(float(cosine[partner]), 1.0)
            copies.append(NearDuplicate(index, other, alike, exact, number, bool(split[row] != split[partner])))
    return copies
