"""Outliers: images far from all others, by the distance to the k-th nearest neighbour.

Ramaswamy, Rastogi & Shim (2000), "Efficient Algorithms for Mining Outliers from Large Data Sets"; for features of deep
networks Sun, Ming, Zhu & Li (2022), "Out-of-Distribution Detection with Deep Nearest Neighbors". Neighbours of any
class count, so that an image in the middle of another class is a label error and no outlier. Some classes are more
varied than others, so the distance is relative to the median of the image's class.

Of large sets a part of the images is what the others are compared with: the second paper does with one in a hundred.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stages.inspection.nearest_neighbors import BLOCK_ROWS, UnitFeatures
from stages.runtime.float32 import float32_products
from stages.runtime.products import linear
from stages.runtime.progress import progress
from stages.runtime.topk import merge_topk

NEIGHBOUR = 10
"""The neighbour whose distance counts."""

REFERENCES = 20_000
"""Samples up to which all are compared with all."""

FENCE = 1.5
"""Interquartile ranges above the third quartile from which on a value lies outside (Tukey 1977)."""

LISTED = 12
"""The furthest samples are listed, so many at least, whether they lie outside or not; at most a tenth of all."""


@dataclass(frozen=True)
class Outliers:
    """Samples far from all others, the furthest first.

    Attributes
    ----------
    indices : ndarray of int64 [m]
    scores : ndarray of float32 [m]
        Distance to the k-th neighbour, as a multiple of the median of the class.
    outside : int
        How many, from the first on, lie outside the fence; the others are merely the furthest.
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]
    outside: int

    def __len__(self) -> int:
        return len(self.indices)


@float32_products()
def distances_to_neighbor(directions: UnitFeatures, seed: int, references: int = REFERENCES) -> NDArray[np.float32]:
    """Return the distance, 1 - cosine, of every sample to its k-th nearest neighbour, float32 [n].

    Where there are more samples than `references`, neighbours are looked for among so many, drawn by `seed`.
    """
    samples = len(directions)
    reference_rows = np.arange(samples)
    if samples > references:
        reference_rows = np.sort(np.random.default_rng(seed).choice(samples, references, replace=False))
    # one more than the k-th, since a reference finds itself first, at a distance of 0
    count = min(NEIGHBOUR, len(reference_rows) - 1) + 1
    is_reference = np.isin(np.arange(samples), reference_rows)
    distances = np.empty(samples, np.float32)
    for start in progress(range(0, samples, BLOCK_ROWS), label="look for outliers", unit="blocks"):
        rows = directions.rows(slice(start, start + BLOCK_ROWS))
        best = torch.empty((len(rows), 0), device=rows.device)
        indices = torch.empty((len(rows), 0), dtype=torch.int64, device=rows.device)
        for first in range(0, len(reference_rows), BLOCK_ROWS):
            cosines = linear(rows, directions.rows(reference_rows[first : first + BLOCK_ROWS]))
            best, indices = merge_topk(best, indices, cosines, first, count)
        column = np.where(is_reference[start : start + len(rows)], count - 1, count - 2)
        distances[start : start + len(rows)] = 1 - best.cpu().numpy()[np.arange(len(rows)), column]
    return np.maximum(distances, 0)


def outlier_scores(distances: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return distances to the k-th neighbour, [n], as multiples of the median of the sample's class."""
    scores = np.ones_like(distances)
    for label in np.unique(labels):
        in_class = labels == label
        scores[in_class] = distances[in_class] / max(float(np.median(distances[in_class])), 1e-6)
    return scores


def find_outliers(distances: NDArray[np.float32], labels: NDArray[np.int64]) -> Outliers:
    """Return the samples whose score lies outside on a logarithmic scale, and the furthest in any case."""
    scores = outlier_scores(distances, labels)
    logarithms = np.log(np.maximum(scores, 1e-6))
    low, high = np.quantile(logarithms, [0.25, 0.75])
    num_outside = int((logarithms > high + FENCE * (high - low)).sum())
    listed = max(num_outside, min(LISTED, len(scores) // 10))
    furthest = np.argsort(-scores, kind="stable")[:listed]
    return Outliers(furthest, scores[furthest], num_outside)
