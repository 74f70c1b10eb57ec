"""What is independent of each other: samples, or groups of them that stand or fall together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Units:
    """Groups of samples, or single ones.

    Attributes
    ----------
    index : int64 [n], optional
        The unit of each sample; None where each is one.
    sizes : int64 [units]
    """

    index: NDArray[np.int64] | None
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, samples: int, groups: ArrayLike | None) -> Units:
        """Return the units of so many samples by what each belongs to, [n]; without that each is one.

        Raises
        ------
        ValueError
            If there are no samples, or groups of another number of them.
        """
        if not samples:
            raise ValueError("there is nothing to draw from")
        if groups is None:
            return cls(None, np.ones(samples, dtype=np.int64))
        _, index, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
        if index.size != samples:
            raise ValueError(f"{index.size} groups for {samples} samples")
        return cls(index.reshape(-1), sizes)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.sizes)

    @property
    def effective(self) -> float:
        """As how many samples they count where those of a unit are all alike (Kish 1965, "Survey Sampling", 11.7)."""
        return float(self.sizes.sum() ** 2 / np.square(self.sizes.astype(np.float64)).sum())

    def as_one_each(self, values: NDArray[Any]) -> NDArray[Any] | None:
        """Return the value of each unit where all of its samples have the same, and all units are of one size.

        Then a unit is one sample that was looked at several times, as an image under seeds that change nothing.
        """
        if self.index is None or len(np.unique(self.sizes)) > 1:
            return None
        first = values[np.unique(self.index, return_index=True)[1]]
        return first if np.array_equal(self.of_samples(first), values) else None

    def of_samples(self, unit_values: NDArray[Any]) -> NDArray[Any]:
        """Return for each sample what its unit has, from values of units along the last axis."""
        return unit_values if self.index is None else unit_values[..., self.index]

    def error_of_mean(self, values: NDArray[Any]) -> float:
        """Return the standard error of the mean of values, [n], whose units are independent; nan of a single unit.

        That of a ratio of sums over units of unlike sizes (Cochran 1977, "Sampling Techniques", section 9.3).
        """
        if self.count < 2:
            return math.nan
        deviations = self.sums(values - values.mean())
        return math.sqrt(self.count / (self.count - 1) * float(np.square(deviations).sum())) / len(values)

    def sums(self, values: Any) -> Any:
        """Return the sums, [units, ...], of values of samples, [n, ...], dense or sparse."""
        if self.index is None:
            return values
        if values.ndim == 1:
            sums = np.zeros(self.count, dtype=values.dtype)
            np.add.at(sums, self.index, values)
            return sums
        from scipy.sparse import csr_array

        samples = len(self.index)
        members = csr_array((np.ones(samples, dtype=np.int64), (self.index, np.arange(samples))))
        return members @ values
