"""Scalings of features: as they are, standardized (mean 0, variance about 1), or each row at length 1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.fitting.feature_rows import AnyFeatureRows
from stages.network.aggregate import split_bags
from stages.runtime.device import uploaded
from stages.runtime.products import linear, product

Scaling = Literal["none", "standard", "l2"]

_BLOCK_ROWS = 2048

_MOMENT_NUMBERS = 1 << 19
"""Numbers that moments are taken of at a time: in float64 they are to stay near the core."""

NOISE = 1e-6
"""Standard deviation, against the mean, up to which a feature is constant but for rounding."""


PRIOR_ROWS = 16
"""Rows that the variance of a feature's neighbors counts for, beside those that its own is taken of."""

NEIGHBORS = 16
"""Features on either side of one, among those that vary, of which its neighbors' variance is the median."""

ALIKE, UNLIKE = 3.0, 4.0
"""How many orders of magnitude may lie between the quartiles of variances, each against that of its neighbors: up to
the first they are all of one layer (`benchmarks/few_images.py` prints it of layers), from the second on columns of a
table, each in its own unit."""


def moderated_std(
    variance: NDArray[np.floating], mean: NDArray[np.floating], rows: float | NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the standard deviations of features, to divide them by, as far as some rows can tell them.

    A feature that is nearly always off varies by next to nothing among some dozens of rows, by chance: divided by that,
    it is thousands of its deviations in the first row that has it on, and what was learned of it is noise. So each
    variance is taken together with that of the features beside it, which come from the same layer, as if that had been
    seen in `PRIOR_ROWS` further rows: (n s^2 + k s0^2) / (n + k), the posterior mean of Smyth (2004, "Linear models and
    empirical Bayes methods for assessing differential expression in microarray experiments", Statistical Applications
    in Genetics and Molecular Biology 3:3), with the median of the neighbors in place of a prior for all. It goes with
    the rows: of 100,000 the deviations are what they are without. So few features that each is a neighbor of nearly
    all of them are no layer but a table, whose columns have nothing in common, and so are features whose variances lie
    orders of magnitude apart (`UNLIKE`); their deviations are taken as they are.

    Parameters
    ----------
    variance, mean : ndarray [d] or [m, d]
        Of the rows. A feature that never changes but for rounding keeps its scale, as in scikit-learn.
    rows : float, or ndarray [m, 1]
        How many there are, or the sum of their weights.

    Returns
    -------
    ndarray of float64, of the shape of `variance`
    """
    variance = np.maximum(variance.astype(np.float64), 0)
    varies = variance > (NOISE * np.abs(mean)) ** 2
    counts = np.broadcast_to(np.asarray(rows, np.float64), (*variance.shape[:-1], 1))
    scale = np.ones_like(variance)
    for place in np.ndindex(variance.shape[:-1]):
        own = variance[place][varies[place]]
        if len(own) > 2 * NEIGHBORS:
            around = _of_neighbors(own)
            # all of them where the features are a layer, none where they are columns in unlike units
            rows_around = PRIOR_ROWS * np.interp(_orders(own / around), (ALIKE, UNLIKE), (1.0, 0.0))
            own += rows_around / (counts[place] + rows_around) * (around - own)
        scale[place][varies[place]] = np.sqrt(own)
    return scale


def _of_neighbors(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median of each value and its neighbors, [d]; at an end, those of one side stand on both."""
    around = sliding_window_view(np.pad(values, NEIGHBORS, mode="reflect"), 2 * NEIGHBORS + 1)
    return np.concatenate(
        [np.median(part, axis=1) for part in np.array_split(around, len(values) // _MOMENT_NUMBERS + 1)]
    )


def orders_apart(variance: NDArray[np.floating], mean: NDArray[np.floating]) -> float:
    """Return how many orders of magnitude lie between the quartiles of variances [d], each against its neighbors'.

    Features that do not vary do not count; `ALIKE` and `UNLIKE` say what is expected of a layer and of a table.
    """
    own = variance.astype(np.float64)[variance > (NOISE * np.abs(mean)) ** 2]
    return _orders(own / _of_neighbors(own))


def _orders(ratios: NDArray[np.float64]) -> float:
    lower, upper = np.log10(np.quantile(ratios, (0.25, 0.75)))
    return float(upper - lower)


@dataclass
class Standardizer:
    """Mean and standard deviation of rows, taken block by block, and what is done with them.

    Attributes
    ----------
    shift : Tensor or None
        float64 [d], near the mean, so that nothing cancels: the mean of the first block.
    total, squares : Tensor or None
        Sums of the rows less `shift`, and of their squares, float64 [d].
    count : int
    """

    shift: Tensor | None = None
    total: Tensor | None = None
    squares: Tensor | None = None
    count: int = 0
    _on_devices: dict[torch.device, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """The moments where rows are, brought there once and not for each step."""

    @classmethod
    def fit(cls, rows: AnyFeatureRows) -> Standardizer:
        """Return what standardizes these rows."""
        standardizer = cls()
        for _, block in rows.blocks():
            standardizer.partial_fit(torch.from_numpy(block))
        return standardizer

    def partial_fit(self, block: Tensor) -> None:
        """Take up some rows, [b, d]."""
        if self.shift is None:
            self.shift = block.mean(dim=0, dtype=torch.float64)
            self.total, self.squares = torch.zeros_like(self.shift), torch.zeros_like(self.shift)
        assert self.total is not None
        assert self.squares is not None
        for part in torch.split(block, max(_MOMENT_NUMBERS // max(self.shift.numel(), 1), 1)):
            values = part.double() - self.shift
            self.total += values.sum(dim=0)
            self.squares += values.square_().sum(dim=0)
        self.count += len(block)

    @cached_property
    def mean_and_variance(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of all rows that were taken up, each [d]."""
        assert self.shift is not None
        assert self.total is not None
        assert self.squares is not None
        mean_of_shifted = self.total / self.count
        variance = self.squares / self.count - mean_of_shifted**2
        return (self.shift + mean_of_shifted).numpy(), variance.clamp_min(0).numpy()

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean, and standard deviation to divide by, float32 [d], of all rows that were taken up."""
        mean, variance = self.mean_and_variance
        scale = moderated_std(variance, mean, self.count)
        return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(scale.astype(np.float32))

    def transform(self, block: Tensor) -> Tensor:
        """Return rows, float32 [b, d], of mean 0 and standard deviation 1, on the device they are on."""
        if block.device not in self._on_devices:
            mean, scale = self.moments
            self._on_devices[block.device] = uploaded(mean, block.device), uploaded(scale, block.device)
        mean, scale = self._on_devices[block.device]
        return block.sub(mean).div_(scale)

    @torch.no_grad()
    def fold_into(self, layer: nn.Linear) -> None:
        """Make a layer on standardized rows one on rows as they are.

        W (x - m) / s + b = (W / s) x + (b - (W / s) m)
        """
        mean, scale = self.moments
        layer.weight.div_(scale)
        layer.bias.sub_(layer.weight @ mean)


class BagStandardizer(Standardizer):
    """A standardizer of the features of images in bags, [b, F, d + 1]: of those that there are."""

    def partial_fit(self, block: Tensor) -> None:
        """Take up the images of some bags."""
        rows, present = split_bags(block)
        super().partial_fit(rows[present])

    def transform(self, block: Tensor) -> Tensor:
        """Return bags whose features have mean 0 and standard deviation 1; where there is no image, they are zeros."""
        rows, present = split_bags(block)
        return torch.cat([super().transform(rows) * present[..., None], block[..., -1:]], dim=-1)


@dataclass(frozen=True)
class ScaledRows:
    """Rows as a model sees them, z = factor * (rows - offset) / scale, without a copy of them.

    Attributes
    ----------
    rows : Tensor
        [n, d], float32 or float64, shared by all scalings.
    offset, scale : Tensor
        [d].
    factor : Tensor or None
        [n, 1]; None is 1.
    """

    rows: Tensor
    offset: Tensor
    scale: Tensor
    factor: Tensor | None

    @classmethod
    def fit(cls, rows: NDArray[np.floating], scaling: Scaling, center: NDArray[np.float32]) -> ScaledRows:
        """Return the rows under a scaling that is fitted to them.

        Parameters
        ----------
        rows : ndarray [n, d]
            Less `center`, which keeps sums of large numbers out of the arithmetic.
        center : ndarray of float32 [d]
        """
        tensor = torch.from_numpy(rows)
        offset, scale = tensor.new_zeros(tensor.shape[1]), tensor.new_ones(tensor.shape[1])
        if scaling == "standard":
            # in the rows' own type, as the products of the solver are; the float64 sums of `Standardizer` round else
            variance, offset = torch.var_mean(tensor, dim=0, correction=0)
            deviation = moderated_std(variance.numpy(), offset.numpy() + center, len(rows))
            scale = torch.from_numpy(deviation).to(tensor.dtype)
        elif scaling == "l2":
            offset = -torch.from_numpy(center).to(tensor.dtype)
        return cls(tensor, offset, scale, _inverse_lengths(tensor, offset) if scaling == "l2" else None)

    @classmethod
    def of_moments(cls, mean: Tensor, deviation: Tensor, scaling: Scaling, center: NDArray[np.float32]) -> ScaledRows:
        """Return no rows under a scaling, float32, that `fit` finds of those with this mean and deviation, [d].

        Other rows are scaled by it with `of`.
        """
        no_rows, taken = torch.empty(0, len(mean)), torch.from_numpy(center)
        if scaling == "standard":
            return cls(no_rows, (mean - taken).float(), deviation.float(), None)
        if scaling == "l2":
            return cls(no_rows, -taken, torch.ones(len(mean)), torch.empty(0, 1))
        return cls(no_rows, torch.zeros(len(mean)), torch.ones(len(mean)), None)

    def of(self, rows: NDArray[np.floating]) -> ScaledRows:
        """Return other rows under the same scaling."""
        tensor = torch.from_numpy(rows)
        factor = None if self.factor is None else _inverse_lengths(tensor, self.offset)
        return ScaledRows(tensor, self.offset, self.scale, factor)

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self) -> Iterator[tuple[slice, ScaledRows]]:
        """Yield all rows in order, some thousands at a time, and which they are: scores of all at once are large."""
        for start in range(0, len(self), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            yield part, replace(self, rows=self.rows[part], factor=None if self.factor is None else self.factor[part])

    def scores(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Return z @ weight' + bias, [n, k], for weights [k, d]. (Few rows are quicker in BLAS than few columns.)"""
        weight = weight / self.scale
        if self.factor is None:
            return linear(self.rows, weight, bias - weight @ self.offset)
        return linear(self.rows, weight, -weight @ self.offset).mul_(self.factor).add_(bias)

    def gradient(self, slopes: Tensor) -> Tensor:
        """Return slopes' @ z, [k, d], for slopes [n, k]."""
        if self.factor is not None:
            slopes = slopes * self.factor
        return product(slopes.T, self.rows).addr_(slopes.sum(dim=0), self.offset, alpha=-1).div_(self.scale)

    def sample(self, indices: Tensor) -> Tensor:
        """Return a copy of some of the rows as they are seen, [m, d]."""
        rows = self.rows[indices].sub_(self.offset).div_(self.scale)
        return rows if self.factor is None else rows.mul_(self.factor[indices])


def _inverse_lengths(rows: Tensor, offset: Tensor) -> Tensor:
    """Return 1 over the length of each row less the offset, [n, 1], without a copy of them all."""
    lengths = torch.cat([(part - offset).norm(dim=1, keepdim=True) for part in torch.split(rows, 4096)])
    return 1 / lengths.clamp_min(1e-12)
