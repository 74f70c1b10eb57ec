"""Linear models on an accelerator: many values of C, scalings and folds at once, in one batch.

They minimize what `linear_models` minimizes, with the same preconditioner, by `batched_lbfgs`. One pass over the rows
serves all of them: the scores of a block of rows are one matrix product with the weights of all models side by side,
and so are the gradients. Which rows a model is fitted to is a matter of their weights, and what scales them a matter of
its own; so rows lie on the device once, in the type that they are stored in, and blocks of them are converted.

Numbers of float16 are numbers of TF32 as well, without rounding. So where rows are stored so, and the card multiplies
in TF32, the weights are split into two of its numbers, and scores are as exact as in float32, by two products that
each take a fraction of its time. Gradients, which are sums over all rows, are taken in TF32 as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.fitting.folds import Selection
from stages.fitting.solvers.batched_lbfgs import KEPT_OF_A_POINT, minimize
from stages.fitting.solvers.cached_rows import AnyDeviceRows
from stages.fitting.solvers.device_targets import DeviceTargets
from stages.fitting.solvers.linear_models import (
    BASIS_RANK,
    BASIS_ROWS,
    LinearModelFactory,
    leading_eigenvectors,
    linear_head,
    most_steps,
    tolerances,
)
from stages.fitting.standardize import Scaling, moderated_std
from stages.network.heads.linear import LinearHead
from stages.runtime.float32 import float32_products
from stages.runtime.products import linear, product

_BLOCK_BYTES = 256 << 20
"""Scores of all models, or converted rows, that there are at a time."""

_BLOCK_ROWS_ON_CORES = 2048
"""Rows up to which there are where the device is the cores themselves: what was converted is to stay near them, and as
many share what is read of the weights."""

_SAMPLE_BYTES = 256 << 20
"""Rows that the preconditioner is computed from."""

_LOW_BITS = 0x1FFF
"""Those of a float32 that TF32 has not."""

State = tuple[Tensor, Tensor]
"""Weights [width, d] for scaled rows and intercepts [width], on the device."""


@dataclass(frozen=True)
class LinearFit:
    """One of the models of a batch.

    Attributes
    ----------
    scaling : {"none", "standard", "l2"}
    c : float
        As scikit-learn counts it: the smaller, the stronger the regularization.
    fold : int
        Which of the selections of rows it is fitted to.
    """

    scaling: Scaling
    c: float
    fold: int = 0


class DeviceLinearModels:
    """Linear models on rows of a device, each fitted to one of several selections of them.

    Parameters
    ----------
    factory : LinearModelFactory
        Its center keeps sums of large numbers out of the arithmetic; rows are as they are stored.
    rows : DeviceRows or CachedRows
    labels : ndarray [n] or [n, labels]
    folds : sequence of Selection
        Of all of them the same classes or labels are to be learned.
    dtype : torch.dtype
        float32, or float64 for more exact coefficients.
    """

    def __init__(
        self,
        factory: LinearModelFactory,
        rows: AnyDeviceRows,
        labels: NDArray[Any],
        folds: Sequence[Selection],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.factory, self.rows, self.dtype = factory, rows, dtype
        self.targets = DeviceTargets(factory, labels, folds, rows.device, dtype)
        self.in_tf32 = dtype == torch.float32 and rows.dtype == torch.float16 and _multiplies_in_tf32(rows.device)
        center = torch.from_numpy(factory.center).to(rows.device, dtype)
        self.shift = torch.zeros_like(center) if self.in_tf32 else center
        self._scalings: dict[Scaling, _Scaled] = {}
        self._lengths: Tensor | None = None

    @property
    def first(self) -> State:
        """Where a model begins that nothing is known of."""
        width = self.targets.width
        return self.targets.first_bias.new_zeros(width, self.rows.width), self.targets.first_bias[0]

    @torch.no_grad()
    def fit(self, fits: Sequence[LinearFit], starts: Sequence[State | None], *, final: bool = False) -> list[State]:
        """Fit models, each from where it is to begin; return their states.

        A `final` fit goes further down.
        """
        if not self.targets.width:  # of no label there are both sides
            return [self.first for _ in fits]
        order = sorted(range(len(fits)), key=lambda number: fits[number].scaling == "l2")
        numbers = KEPT_OF_A_POINT * self.targets.width * (self.rows.width + 1)
        most = max(self.rows.solver_bytes // (numbers * self.dtype.itemsize), 1)
        states: list[State] = [self.first] * len(fits)
        for first in range(0, len(order), most):
            part = order[first : first + most]
            found = self._fit_batch([fits[number] for number in part], [starts[number] for number in part], final)
            for number, state in zip(part, found, strict=True):
                states[number] = state
        return states

    def _fit_batch(self, fits: Sequence[LinearFit], starts: Sequence[State | None], final: bool) -> list[State]:
        """Fit models in one batch, those whose rows have a length of 1 last."""
        problem = _Batch.of(self, fits)
        begins = [self._begin(fit, start) for fit, start in zip(fits, starts, strict=True)]
        weight, bias = (torch.stack(parts).to(self.dtype) for parts in zip(*begins, strict=True))
        start = problem.packed(weight, bias)
        ended = tolerances(self.dtype, final, int(self.targets.counts.max()), self.rows.width)
        found = minimize(_Objective(self, problem), start, **ended, most=most_steps(final))
        weight, bias = problem.unpacked(found)
        return list(zip(weight, bias, strict=True))

    def _begin(self, fit: LinearFit, start: State | None) -> State:
        zero = self.first[0]
        if start is not None and start[0].shape == zero.shape:  # with other classes present, it is a fit from zero
            return start
        return zero, self.targets.first_bias[fit.fold]

    def scores(
        self, fits: Sequence[LinearFit], states: Sequence[State], rows: AnyDeviceRows
    ) -> list[NDArray[np.float32]]:
        """Return the scores of all classes that models give to other rows, float32 [n, classes] each."""
        width, device = self.targets.width, rows.device
        results = [np.empty((len(rows), width), np.float32) for _ in fits]
        if width:
            order = sorted(range(len(fits)), key=lambda number: fits[number].scaling == "l2")
            problem = _Batch.of(self, [fits[number] for number in order], solved=False)
            weight, bias = (torch.stack([states[number][part] for number in order]) for part in (0, 1))
            scores_of = _ScoreProducts(self, problem, weight.to(device, self.dtype), bias.to(device, self.dtype))
            for part, block in rows.blocks(self.block_rows(len(fits))):
                converted = self.converted(block)
                factors = self.inverse_lengths(converted) if problem.plain < len(fits) else None
                scores = scores_of(converted, factors).float().cpu().numpy()
                for place, number in enumerate(order):
                    results[number][part] = scores[:, place]
        learned = self.targets.learned
        return [learned[fit.fold].of_all(part.T).T for fit, part in zip(fits, results, strict=True)]

    def head(self, fit: LinearFit, state: State, temperature: float = 1.0) -> LinearHead:
        """Return scaling and model as one linear head; a class without a row has a bias too low to be predicted."""
        scaled = self.scaled(fit.scaling)
        offset, scale = (part[fit.fold].double().cpu().numpy() for part in (scaled.offset, scaled.scale))
        mean = None if fit.scaling == "l2" else offset + self.shift.double().cpu().numpy()
        weight, bias = (part.double().cpu().numpy() for part in state)
        return linear_head(self.targets.learned[fit.fold], weight, bias, mean, scale, temperature)

    def block_rows(self, models: int) -> int:
        """Return how many rows of so many models are computed with at a time."""
        numbers = max(models * self.targets.width, self.rows.width, 1)
        most = max(_BLOCK_BYTES // (numbers * self.dtype.itemsize), 1)
        return min(most, _BLOCK_ROWS_ON_CORES) if self.rows.device.type == "cpu" else most

    def converted(self, block: Tensor) -> Tensor:
        """Return rows as they are computed with, [b, d]: less the shift, in the type of the models."""
        values = block.to(self.dtype)
        return values if self.in_tf32 else values - self.shift

    def inverse_lengths(self, converted: Tensor) -> Tensor:
        """Return 1 over the length of each row, [b, 1]."""
        lengths: Tensor = torch.linalg.vector_norm(converted + self.shift, dim=1, keepdim=True)
        return 1 / lengths.clamp_min(1e-12)

    @property
    def own_inverse_lengths(self) -> Tensor:
        """Those of all rows of the models, [n, 1]."""
        if self._lengths is None:
            blocks = self.rows.blocks(self.block_rows(1))
            self._lengths = torch.cat([self.inverse_lengths(self.converted(block)) for _, block in blocks])
        return self._lengths

    def scaled(self, scaling: Scaling) -> _Scaled:
        """Return what a scaling makes of the rows of each fold."""
        if scaling not in self._scalings:
            offset = self.shift.new_zeros(len(self.targets.learned), self.rows.width)
            scale = torch.ones_like(offset)
            if scaling == "standard":
                offset, scale = self._moments()
            elif scaling == "l2":
                offset -= self.shift
            else:
                offset += torch.from_numpy(self.factory.center).to(offset) - self.shift
            self._scalings[scaling] = _Scaled(offset, scale, *self._basis(offset[0], scale[0], l2=scaling == "l2"))
        return self._scalings[scaling]

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Return mean, less the shift, and standard deviation of the rows of each fold, [folds, d]."""
        members, counts = self.targets.members, self.targets.counts[:, None]
        near = torch.from_numpy(self.factory.center).to(self.shift) - self.shift  # so that nothing cancels
        total, squares = torch.zeros(2, *counts.shape[:1], self.rows.width, dtype=torch.float64, device=near.device)
        for part, block in self.rows.blocks(self.block_rows(1)):
            values = self.converted(block) - near
            chosen = values.new_ones(len(values), 1) if members is None else members[part]
            total += chosen.T @ values
            squares += chosen.T @ values.square_()
        mean = total / counts
        variance = (squares / counts - mean.square()).cpu().numpy()
        offset = mean + near
        scale = moderated_std(variance, (offset + self.shift).cpu().numpy(), counts.cpu().numpy())
        return offset.to(self.dtype), torch.from_numpy(scale).to(near)

    def _basis(self, offset: Tensor, scale: Tensor, *, l2: bool) -> tuple[Tensor, Tensor]:
        """Return leading eigenvectors and eigenvalues of Z'Z / n, from some of the rows of all folds."""
        generator = torch.Generator().manual_seed(0)
        most = min(BASIS_ROWS, max(_SAMPLE_BYTES // (4 * max(self.rows.width, 1)), BASIS_RANK))
        places = torch.randperm(len(self.rows), generator=generator)[:most].sort().values
        values = self.converted(self.rows.sample(places.numpy()))
        factors = self.inverse_lengths(values) if l2 else 1
        values = ((values - offset) / scale).mul_(factors)
        values -= values.mean(dim=0)
        start = torch.randn(self.rows.width, min(BASIS_RANK, *values.shape), generator=generator, dtype=self.dtype)
        return leading_eigenvectors(
            lambda matrix: values.T @ (values @ matrix) / len(values), start.to(self.rows.device)
        )


@dataclass(frozen=True)
class _Scaled:
    """What a scaling takes from the rows of each fold, less the shift, [folds, d], and divides them by; their basis."""

    offset: Tensor
    scale: Tensor
    vectors: Tensor
    values: Tensor


@dataclass(frozen=True)
class _Batch:
    """Models side by side, those whose rows have a length of 1 last, and the inverse roots of their Hessians at zero.

    Attributes
    ----------
    folds : Tensor of int64 [b]
    offset, scale : Tensor [b, d]
    penalties : Tensor [b]
    l2 : Tensor of bool [b]
    plain : int
        Models whose rows keep their lengths.
    vectors : Tensor [b, d, r]
    along : Tensor [b, 1 or width, r]
    others : Tensor [b, 1 or width, 1]
    intercepts : Tensor [b, 1 or width]
    """

    folds: Tensor
    offset: Tensor
    scale: Tensor
    penalties: Tensor
    l2: Tensor
    plain: int
    vectors: Tensor
    along: Tensor
    others: Tensor
    intercepts: Tensor

    @classmethod
    def of(cls, models: DeviceLinearModels, fits: Sequence[LinearFit], *, solved: bool = True) -> _Batch:
        """Return the models of these settings; where they are not to be `solved`, without roots of Hessians."""
        device, targets = models.rows.device, models.targets
        folds = torch.tensor([fit.fold for fit in fits], device=device)
        scaled = [models.scaled(fit.scaling) for fit in fits]
        counts = targets.counts.cpu().numpy()
        penalties = torch.tensor([1 / (fit.c * counts[fit.fold]) for fit in fits], dtype=torch.float64)
        penalties = penalties.to(device, models.dtype)
        l2 = torch.tensor([fit.scaling == "l2" for fit in fits], device=device)
        offset = torch.stack([part.offset[fit.fold] for part, fit in zip(scaled, fits, strict=True)])
        scale = torch.stack([part.scale[fit.fold] for part, fit in zip(scaled, fits, strict=True)])
        plain = sum(fit.scaling != "l2" for fit in fits)
        curvature = targets.curvature[folds]
        empty = offset.new_empty(len(fits), 0, 0)
        vectors = torch.stack([part.vectors for part in scaled]) if solved else empty
        values = torch.stack([part.values for part in scaled])[:, None, :]
        along = (curvature[:, :, None] * values + penalties[:, None, None]).rsqrt() if solved else empty
        others = along[:, :, :1]
        return cls(folds, offset, scale, penalties, l2, plain, vectors, along, others, curvature.rsqrt())

    def at(self, kept: Tensor) -> _Batch:
        """Return some of the models."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {name: part[kept] for name, part in parts.items() if isinstance(part, Tensor)}
        return replace(self, **chosen, plain=len(kept) - int(chosen["l2"].sum()))

    def unpacked(self, points: Tensor) -> State:
        """Return the weights [b, k, d] and intercepts [b, k] of points [b, k * (d + 1)]."""
        width = points.shape[1] // (self.offset.shape[1] + 1)
        weight, bias = points[:, :-width].reshape(len(points), width, -1), points[:, -width:]
        return self._stretched(weight, self.along, self.others), bias * self.intercepts

    def packed(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the points that these are the weights and intercepts of."""
        return _flat(self._stretched(weight, 1 / self.along, 1 / self.others), bias / self.intercepts)

    def gradient(self, by_weight: Tensor, by_bias: Tensor) -> Tensor:
        """Return the gradient by points; the root is symmetric."""
        return _flat(self._stretched(by_weight, self.along, self.others), by_bias * self.intercepts)

    def _stretched(self, weight: Tensor, along: Tensor, others: Tensor) -> Tensor:
        inner = (weight @ self.vectors) * (along - others)
        return torch.baddbmm(weight * others, inner, self.vectors.transpose(1, 2))


def _flat(weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([weight.flatten(1), bias], dim=1)


class _ScoreProducts:
    """The scores that models with these weights [b, k, d] and intercepts [b, k] give to rows."""

    def __init__(self, models: DeviceLinearModels, batch: _Batch, weight: Tensor, bias: Tensor) -> None:
        self._shape, self._plain, self._bias = bias.shape, batch.plain, bias
        weight = weight / batch.scale[:, None, :]
        constant = -(weight @ batch.offset[:, :, None]).squeeze(2)
        self._constant = torch.where(batch.l2[:, None], constant, constant + bias).flatten()
        flat = weight.flatten(0, 1)
        self._products = [*split_for_tf32(flat)] if models.in_tf32 else [flat]

    def __call__(self, rows: Tensor, inverse_lengths: Tensor | None) -> Tensor:
        """Return scores [n, b, k] of converted rows [n, d]; the lengths are those of all, [n, 1]."""
        if rows.device.type == "cpu":
            scores = linear(rows, self._products[0], self._constant)
        else:
            with float32_products(tf32=len(self._products) > 1):
                scores = torch.addmm(self._constant, rows, self._products[0].T)
                for further in self._products[1:]:
                    scores.addmm_(rows, further.T)
        scores = scores.view(len(rows), *self._shape)
        if inverse_lengths is not None:
            scores[:, self._plain :].mul_(inverse_lengths[:, :, None]).add_(self._bias[self._plain :])
        return scores


class _Objective:
    """The penalized mean loss of each model, by points of its batch."""

    def __init__(self, models: DeviceLinearModels, batch: _Batch) -> None:
        self._models, self._batch = models, batch

    def narrow(self, kept: Tensor) -> None:
        self._batch = self._batch.at(kept)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        models, batch = self._models, self._batch
        weight, bias = batch.unpacked(points)
        scores_of = _ScoreProducts(models, batch, weight, bias)
        sums = torch.zeros(len(bias), dtype=torch.float64, device=bias.device)
        products = torch.zeros_like(weight)
        by_bias, by_offset = torch.zeros_like(bias), torch.zeros_like(bias)
        scaled_lengths = models.own_inverse_lengths if batch.plain < len(bias) else None
        for part, block in models.rows.blocks(models.block_rows(len(bias))):
            rows = models.converted(block)
            lengths = None if scaled_lengths is None else scaled_lengths[part]
            losses, slopes = models.targets.losses_and_slopes(scores_of(rows, lengths), part, batch.folds)
            sums += losses
            by_bias += slopes.sum(dim=0)
            if lengths is not None:
                slopes[:, batch.plain :].mul_(lengths[:, :, None])
                by_offset += slopes.sum(dim=0)
            if rows.device.type == "cpu":
                products.flatten(0, 1).add_(product(slopes.flatten(1).T, rows))
            else:
                with float32_products(tf32=models.in_tf32):
                    products.flatten(0, 1).addmm_(slopes.flatten(1).T, rows)
        by_offset = by_bias if scaled_lengths is None else by_offset
        counts = models.targets.counts[batch.folds].to(bias.dtype)[:, None]
        by_weight = torch.baddbmm(products, by_offset[:, :, None], batch.offset[:, None, :], alpha=-1)
        by_weight.div_(batch.scale[:, None, :] * counts[:, :, None]).addcmul_(weight, batch.penalties[:, None, None])
        values = models.targets.mean_losses(sums, batch.folds)
        values = values + batch.penalties.double() / 2 * weight.square().sum(dim=(1, 2), dtype=torch.float64)
        return values, batch.gradient(by_weight, by_bias / counts)


def split_for_tf32(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return two numbers of TF32 that add up to each of float32, but for its last bits or so."""
    high = (values.view(torch.int32) & ~_LOW_BITS).view(torch.float32)
    return high, values - high


def _multiplies_in_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
