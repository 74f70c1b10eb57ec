"""What heads in closed form need of rows: sums over them, taken block by block; rows may be larger than memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from stages.fitting.feature_rows import AnyFeatureRows
from stages.fitting.standardize import moderated_std
from stages.runtime.products import product

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class RowSums(ABC):
    """Weighted sums over rows less `center`, or, for l2, over rows at length 1.

    Attributes
    ----------
    total, squares : ndarray of float64 [d]
    center : ndarray of float32 [d]
    l2 : bool
    """

    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    center: NDArray[np.float32]
    l2: bool

    @property
    @abstractmethod
    def weight(self) -> float:
        """Sum of the rows' weights."""

    @property
    @abstractmethod
    def target_mean(self) -> NDArray[np.float64]:
        """Weighted mean of the targets, [out_features]."""

    @property
    @abstractmethod
    def present(self) -> NDArray[np.bool_]:
        """What there is a row of, [out_features]."""

    @abstractmethod
    def target_products(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weighted products of targets and rows, both less their `mean`, [out_features, d]."""

    def add(self, block: Tensor, labels: NDArray[Any], weights: NDArray[np.float32]) -> Tensor:
        """Take up some `iter_scaled` rows, [b, d]; return them times their weights."""
        weighted = block * torch.from_numpy(weights).to(block.device)[:, None]
        self._add_targets(weighted, labels, weights)
        self.total += weighted.sum(dim=0, dtype=torch.float64).cpu().numpy()
        self.squares += (weighted * block).sum(dim=0, dtype=torch.float64).cpu().numpy()
        return weighted

    @abstractmethod
    def _add_targets(self, weighted: Tensor, labels: NDArray[Any], weights: NDArray[np.float32]) -> None:
        """Take up the targets of some rows, which are given times their weights."""

    def standardization(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean of the rows (less the centre, or at length 1) and their standard deviation, [d].

        Not by `Standardizer`: its rows all weigh the same, and what it took up cannot be taken off again, as a fold is.
        """
        mean = self.total / self.weight
        variance = self.squares / self.weight - mean**2
        return mean, moderated_std(variance, mean + self.center, self.weight)

    def __add__(self, other: Self) -> Self:
        """Return the sums over the rows of both."""
        return self._with(other, 1.0)

    def __sub__(self, other: Self) -> Self:
        """Return the sums over the rows that `other` lacks."""
        return self._with(other, -1.0)

    def _with(self, other: Self, sign: float) -> Self:
        names = [field.name for field in fields(self) if field.name not in ("center", "l2")]
        return replace(self, **{name: getattr(self, name) + sign * getattr(other, name) for name in names})


@dataclass
class ClassSums(RowSums):
    """Sums over rows of one class each, which are quicker by class than by a matrix of targets.

    Attributes
    ----------
    by_class : ndarray of float64 [classes, d]
    class_weight : ndarray of float64 [classes]
    """

    by_class: NDArray[np.float64]
    class_weight: NDArray[np.float64]

    @classmethod
    def empty(cls, out_features: int, center: NDArray[np.float32], *, l2: bool) -> ClassSums:
        """Return the sums over no row."""
        width = len(center)
        by_class, class_weight = np.zeros((out_features, width)), np.zeros(out_features)
        return cls(np.zeros(width), np.zeros(width), center, l2, by_class, class_weight)

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

    def _add_targets(self, weighted: Tensor, labels: NDArray[Any], weights: NDArray[np.float32]) -> None:
        class_totals = torch.zeros(self.by_class.shape, dtype=weighted.dtype, device=weighted.device)
        class_totals.index_add_(0, torch.from_numpy(labels).to(weighted.device), weighted)
        self.by_class += class_totals.double().cpu().numpy()
        self.class_weight += np.bincount(labels, weights, len(self.class_weight))

    @property
    def weight(self) -> float:
        """Sum of the rows' weights."""
        return float(self.class_weight.sum())

    @property
    def target_mean(self) -> NDArray[np.float64]:
        """Mean of the targets, 1 for the class of a row and -1 for the others, [classes]."""
        return np.asarray(2 * self.class_weight / self.weight - 1)

    @property
    def present(self) -> NDArray[np.bool_]:
        """The classes that have a row, [classes]."""
        return np.asarray(self.class_weight > 0)

    def target_products(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the products of these targets and the rows: the constant drops out, since the rows are centred."""
        return np.asarray(2 * (self.by_class - np.outer(self.class_weight, mean)))


@dataclass
class TargetSums(RowSums):
    """Sums over rows with several targets each.

    Attributes
    ----------
    by_target : ndarray of float64 [targets, d]
    target_total : ndarray of float64 [targets]
    row_weight : float
    """

    by_target: NDArray[np.float64]
    target_total: NDArray[np.float64]
    row_weight: float = 0.0

    @classmethod
    def empty(cls, out_features: int, center: NDArray[np.float32], *, l2: bool) -> TargetSums:
        """Return the sums over no row."""
        width = len(center)
        by_target, target_total = np.zeros((out_features, width)), np.zeros(out_features)
        return cls(np.zeros(width), np.zeros(width), center, l2, by_target, target_total)

    def _add_targets(self, weighted: Tensor, labels: NDArray[Any], weights: NDArray[np.float32]) -> None:
        targets = torch.from_numpy(labels).to(weighted.device)
        self.by_target += product(targets.T, weighted).double().cpu().numpy()
        self.target_total += weights.astype(np.float64) @ labels
        self.row_weight += float(weights.sum(dtype=np.float64))

    @property
    def weight(self) -> float:
        """Sum of the rows' weights; of no row as good as none, by which sums of nothing may be divided."""
        return max(self.row_weight, float(np.finfo(np.float32).tiny))

    @property
    def target_mean(self) -> NDArray[np.float64]:
        """Mean of the targets, [targets]."""
        return np.asarray(self.target_total / self.weight)

    @property
    def present(self) -> NDArray[np.bool_]:
        """All of them."""
        return np.ones(len(self.target_total), dtype=bool)

    def target_products(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the products of targets and rows, [targets, d]."""
        return np.asarray(self.by_target - np.outer(self.target_total, mean))


def iter_scaled(
    rows: AnyFeatureRows, center: NDArray[np.float32], *, l2: bool, device: torch.device | None = None
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield places and rows as they are summed, float32 [b, d], on a device: of length 1, or less the centre."""
    taken = torch.from_numpy(center).to(device or "cpu")
    for indices, block in rows.blocks():
        values = torch.from_numpy(block).to(taken.device).float()
        yield indices, (normalize(values) if l2 else values - taken)


def approximate_mean(rows: AnyFeatureRows) -> NDArray[np.float32]:
    """Return the mean of the first block of rows, float32 [d]: near enough to the mean to keep sums small."""
    _, block = next(rows.blocks())
    return np.asarray(torch.from_numpy(block).float().mean(dim=0).numpy())
