"""What heads in closed form need of rows: sums over them, taken block by block; rows may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from stages.fitting.feature_rows import AnyFeatureRows
from stages.fitting.standardize import safe_std


@dataclass
class ClassSums:
    """Weighted sums over rows less `center`, or, for l2, over rows at length 1.

    Attributes
    ----------
    total, squares : ndarray of float64 [d]
    by_class : ndarray of float64 [classes, d]
    class_weight : ndarray of float64 [classes]
    center : ndarray of float32 [d]
    l2 : bool
    """

    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    by_class: NDArray[np.float64]
    class_weight: NDArray[np.float64]
    center: NDArray[np.float32]
    l2: bool

    @classmethod
    def empty(cls, out_features: int, center: NDArray[np.float32], *, l2: bool) -> ClassSums:
        """Return the sums over no row."""
        width = len(center)
        by_class, class_weight = np.zeros((out_features, width)), np.zeros(out_features)
        return cls(np.zeros(width), np.zeros(width), by_class, class_weight, center, l2)

    @classmethod
    def of(
        cls,
        rows: AnyFeatureRows,
        out_features: int,
        weights: NDArray[np.float32],
        center: NDArray[np.float32],
        *,
        l2: bool,
    ) -> ClassSums:
        """Return the sums over rows with their weights, float32 [n]."""
        sums = cls.empty(out_features, center, l2=l2)
        for indices, block in iter_scaled(rows, center, l2=l2):
            sums.add(block, rows.labels[indices], weights[indices])
        return sums

    def add(self, block: Tensor, labels: NDArray[np.int64], weights: NDArray[np.float32]) -> Tensor:
        """Take up some `iter_scaled` rows, [b, d]; return them times their weights."""
        weighted = block * torch.from_numpy(weights)[:, None]
        class_totals = torch.zeros(self.by_class.shape, dtype=block.dtype)
        class_totals.index_add_(0, torch.from_numpy(labels), weighted)
        self.by_class += class_totals.double().numpy()
        self.total += weighted.double().sum(dim=0).numpy()
        self.squares += (weighted * block).double().sum(dim=0).numpy()
        self.class_weight += np.bincount(labels, weights, len(self.class_weight))
        return weighted

    @property
    def weight(self) -> float:
        """Sum of the rows' weights."""
        return float(self.class_weight.sum())

    def standardization(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean of the rows (less the centre, or at length 1) and their standard deviation, [d].

        Not by `Standardizer`: its rows all weigh the same, and what it took up cannot be taken off again, as a fold is.
        """
        mean = self.total / self.weight
        return mean, safe_std(self.squares / self.weight - mean**2, mean + self.center)

    def __add__(self, other: ClassSums) -> ClassSums:
        """Return the sums over the rows of both."""
        return self._with(other, 1.0)

    def __sub__(self, other: ClassSums) -> ClassSums:
        """Return the sums over the rows that `other` lacks."""
        return self._with(other, -1.0)

    def _with(self, other: ClassSums, sign: float) -> ClassSums:
        return ClassSums(
            self.total + sign * other.total,
            self.squares + sign * other.squares,
            self.by_class + sign * other.by_class,
            self.class_weight + sign * other.class_weight,
            self.center,
            self.l2,
        )


def iter_scaled(
    rows: AnyFeatureRows, center: NDArray[np.float32], *, l2: bool
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield places and rows as they are summed, float32 [b, d]: of length 1, or less the centre."""
    for indices, block in rows.blocks():
        values = torch.from_numpy(block).float()
        yield indices, (normalize(values) if l2 else values - torch.from_numpy(center))


def approximate_mean(rows: AnyFeatureRows) -> NDArray[np.float32]:
    """Return the mean of the first block of rows, float32 [d]: near enough to the mean to keep sums small."""
    _, block = next(rows.blocks())
    return np.asarray(torch.from_numpy(block).float().mean(dim=0).numpy())
