"""The nearest neighbours of every sample among all others, by cosine.

Exact, in blocks of matrix products: each pair of samples is compared once, and what is kept does not grow with the
number of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.runtime.connected_groups import connected_groups
from stages.runtime.float32 import float32_products
from stages.runtime.products import linear
from stages.runtime.progress import progress
from stages.runtime.topk import merge_topk

BLOCK_ROWS = 4096
"""Rows that are compared with as many others at a time: 64 MiB of cosines."""


class UnitFeatures:
    """Features, [n, d], as vectors of length 1; float32 a few rows at a time, while the features stay as they are.

    Centred, they start at the features' common mean. Features behind a ReLU have no negative numbers, so that the
    cosine of any two is near 1, and whether they show the same is told better from the mean. What is unlike everything
    has no direction of its own from there, so that outliers are told better from zero.
    """

    def __init__(self, features: NDArray[Any], device: torch.device, *, centered: bool) -> None:
        self.features, self.device = features, device
        self.mean = torch.zeros(features.shape[1], device=device)
        if not centered:
            return
        total = torch.zeros(features.shape[1], dtype=torch.float64)
        for start in range(0, len(features), BLOCK_ROWS):
            total += torch.from_numpy(features[start : start + BLOCK_ROWS]).float().sum(dim=0, dtype=torch.float64)
        self.mean = (total / max(len(features), 1)).float().to(device)

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, indices: slice | NDArray[np.int64]) -> Tensor:
        """Return some rows, float32 [b, d]; one that has no direction is 0."""
        block = torch.from_numpy(self.features[indices]).to(self.device).float()
        # not in place: float32 features would be changed where they lie
        return torch.nn.functional.normalize(block - self.mean, dim=1)


@dataclass(frozen=True)
class Neighbors:
    """The nearest neighbours of every sample.

    Attributes
    ----------
    indices : ndarray of int64 [n, k]
        Nearest first; never the sample itself.
    distances : ndarray of float32 [n, k]
        1 - cosine, from 0 to 2.
    groups : ndarray of int64 [n]
        Samples that a chain of pairs connects, each with at least the cosine `threshold`, have the same number.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float32]
    groups: NDArray[np.int64]

    @property
    def kth_distance(self) -> NDArray[np.float32]:
        """Distance to the last of the neighbours, float32 [n]."""
        return self.distances[:, -1]


@float32_products()
def find_neighbors(directions: UnitFeatures, count: int, threshold: float, block_rows: int = BLOCK_ROWS) -> Neighbors:
    """Return the `count` nearest neighbours of every sample (all others, where there are fewer).

    Parameters
    ----------
    directions : UnitFeatures
        Of n samples, at least 2.
    count : int
    threshold : float
        Cosine from which on two samples belong to one group.
    block_rows : int
        Memory grows with its square.
    """
    samples = len(directions)
    count = min(count, samples - 1)
    best = torch.full((samples, count), -torch.inf, device=directions.device)
    indices = torch.zeros((samples, count), dtype=torch.int64, device=directions.device)
    groups = np.arange(samples)
    starts = range(0, samples, block_rows)
    pairs = [(first, second) for first in starts for second in starts if first <= second]
    rows, loaded = torch.empty(0), -1
    for first, second in progress(pairs, label="compare images", unit="blocks"):
        if first != loaded:
            rows, loaded = directions.rows(slice(first, first + block_rows)), first
        columns = rows if second == first else directions.rows(slice(second, second + block_rows))
        cosines = linear(rows, columns)
        if second == first:
            cosines.fill_diagonal_(-torch.inf)
        else:
            _keep_nearest(best[second : second + block_rows], indices[second : second + block_rows], cosines.T, first)
        _keep_nearest(best[first : first + block_rows], indices[first : first + block_rows], cosines, second)
        groups = merge_groups(groups, (cosines >= threshold).nonzero().cpu().numpy() + np.array([first, second]))
    distances = (1 - best).clamp_(min=0).cpu().numpy()
    return Neighbors(indices.cpu().numpy(), distances, groups)


@float32_products()
def nearest_rows(
    queries: NDArray[Any], directions: UnitFeatures, count: int, block_rows: int = BLOCK_ROWS
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return which rows are nearest to each of some others, that are not among them, and their cosines.

    Parameters
    ----------
    queries : array [m, d]
        Features as they are; they are centered as the rows are.
    directions : UnitFeatures
        Of n rows.
    count : int
    block_rows : int
        Rows that are compared at a time.

    Returns
    -------
    indices : int64 [m, count]
        The nearest first; as many as there are, where these are fewer.
    cosines : float32 [m, count]
    """
    asked = torch.from_numpy(np.asarray(queries, dtype=np.float32)).to(directions.device)
    asked = torch.nn.functional.normalize(asked - directions.mean, dim=1)
    best = torch.empty((len(asked), 0), device=directions.device)
    indices = torch.empty((len(asked), 0), dtype=torch.int64, device=directions.device)
    for start in range(0, len(directions), block_rows):
        cosines = linear(asked, directions.rows(slice(start, start + block_rows)))
        best, indices = merge_topk(best, indices, cosines, start, count)
    return indices.cpu().numpy(), best.cpu().numpy()


def merge_groups(groups: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return groups [n] in which the samples of each pair [m, 2], and all of their groups, are one."""
    linked = groups[pairs]
    unmerged = linked[linked[:, 0] != linked[:, 1]]
    return connected_groups(unmerged, len(groups))[groups] if len(unmerged) else groups


def equal_pairs(names: Sequence[str]) -> NDArray[np.int64]:
    """Return pairs of places, [m, 2], that chain all samples of the same name; '' is no name."""
    last_index: dict[str, int] = {}
    pairs = []
    for index, name in enumerate(names):
        if name and name in last_index:
            pairs.append((last_index[name], index))
        last_index[name] = index
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _keep_nearest(best: Tensor, indices: Tensor, cosines: Tensor, start: int) -> None:
    """Merge cosines [b, others], of which the first is sample `start`, into the best known and their places."""
    nearest, nearest_indices = merge_topk(best, indices, cosines, start, best.shape[1])
    best.copy_(nearest)
    indices.copy_(nearest_indices)
