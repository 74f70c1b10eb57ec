"""Linear models over a path of regularisation: logistic regression and the linear support vector machine.

Both minimise what scikit-learn's `LogisticRegression` (multinomial; binomial for two classes) and `LinearSVC` (squared
hinge, each class against the rest) minimise,

    mean over rows of w_i * loss(W z_i + b, y_i) + |W|^2 / (2 C n),

with an intercept that is not penalised, and come to the same coefficients
(`tests/stages/fitting/solvers/test_linear_models.py`). What
is different is the time:

- The rows z = r (x - o) / s are never made. A scaling (standard: o and s; l2: r) acts on the weights and on the scores,
  so that all scalings share one float32 matrix, and the work is two matrix products per evaluation, for all classes.
- C goes upwards and each solution is where the next begins.
- L-BFGS (scipy's) works on preconditioned weights. At W = 0 the Hessian is c Z'Z / n + 1 / (C n), the same for all
  classes; with the leading eigenvectors V and eigenvalues e of Z'Z / n, found on a sample of the rows by a randomised
  decomposition (Halko et al. 2011), its inverse root T = V diag((c e + l)^-1/2 - (c e_min + l)^-1/2) V' +
  (c e_min + l)^-1/2 I costs two thin products, and W = U T is what is optimised over; so are intercepts as multiples of
  c^-1/2. The minimum is the same. Of several labels each has a c of its own, from how frequent it is, and begins with
  the intercept that this says.
- Of far fewer rows than numbers the minimum is sought in the span of the rows, where it lies (the representer theorem;
  Schoelkopf, Herbrich and Smola 2001): with Z' = Q R weights are W = V Q', and V is fitted to the triangle R'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from stages.fitting.folds import Selection
from stages.fitting.solvers.linear_targets import LinearTargets, Loss, linear_targets
from stages.fitting.standardize import ScaledRows, Scaling
from stages.network.heads.linear import LinearHead
from stages.runtime.products import linear, product
from stages.tasks.base import Task

_TOLERANCE = 1e-4
"""Largest entry of the gradient that is taken for zero while settings are compared, as in scikit-learn."""

_SETTLED = 1e-6
"""Decrease of the loss in one step, against the loss or 1, that ends a fit while settings are compared: from there on
accuracies change by some hundredths of a point, of few rows, where regularisation is far too weak, by an image or so of
a fold."""

SEPARABLE_UP_TO = 1000
"""Rows up to which, where they are no more than their numbers, all fits go as far as float32 does.

Such rows can be told apart without loss: under weak regularisation a fit that ends early is far from its minimum, and
would be judged by what it is not. Of more rows that matters less, and costs more."""

EXACT_UP_TO = 10_000
"""Rows up to which final coefficients are computed in float64."""

BASIS_ROWS = 8192
"""Rows the preconditioner is computed from."""

_BASIS_BLOCK = 1024
"""Rows of these that are copied at a time."""

_BASIS_KEPT = 1 << 24
"""Numbers up to which a copy of these rows is kept while it is computed."""

PREPARED_FROM = 1_000_000
"""Numbers in the rows from which on models on parts of them share what depends on no label."""

BASIS_RANK = 64
"""Eigenvectors of the preconditioner."""

_WIDE = 4
"""Numbers for each row from which on a model is fitted in the span of its rows, where those are `PREPARED_FROM`."""


@dataclass(frozen=True)
class _HessianRoot:
    """The inverse root of the Hessian at zero for one penalty: weights are U T and intercepts t v, U and v optimised.

    Attributes
    ----------
    vectors : Tensor
        Leading eigenvectors, [d, r].
    along : Tensor
        What T does along each of them, [r]; [k, r] where each row of W has its own.
    others : float or Tensor [k, 1]
        What it does along all other directions.
    intercept : float or Tensor [k]
        t.
    """

    vectors: Tensor
    along: Tensor
    others: float | Tensor
    intercept: float | Tensor

    def of(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return W T and t b for W [k, d]. T is symmetric, so gradients by U and v are this of those by W and b."""
        return self._stretched(weight, self.along, self.others), bias * self.intercept

    def inverse_of(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return U and v, of which these are the weights and intercepts."""
        return self._stretched(weight, 1 / self.along, 1 / self.others), bias / self.intercept

    def _stretched(self, weight: Tensor, along: Tensor, others: float | Tensor) -> Tensor:
        return weight * others + linear(product(weight, self.vectors) * (along - others), self.vectors)


def leading_eigenvectors(covariance_times: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, Tensor]:
    """Return leading eigenvectors, [d, r], and eigenvalues, [r], increasing, of a matrix that is known by its products.

    By subspace iteration from a random `start`, [d, r] (Halko et al. 2011, algorithm 4.4).
    """
    basis = start
    for _ in range(3):
        basis = torch.linalg.qr(covariance_times(basis)).Q
    values, turned = torch.linalg.eigh(basis.T @ covariance_times(basis))
    return basis @ turned, values.clamp_min(0)


class Preconditioner:
    """Leading eigenvectors and eigenvalues of Z'Z / n, from which the root for any penalty is made.

    Parameters
    ----------
    rows : ScaledRows
        Z; those of a part of them are next to the same.
    """

    def __init__(self, rows: ScaledRows) -> None:
        generator = torch.Generator().manual_seed(0)
        blocks = torch.split(torch.randperm(len(rows), generator=generator)[:BASIS_ROWS], _BASIS_BLOCK)
        count = sum(map(len, blocks))
        mean = sum((rows.sample(block).sum(dim=0) for block in blocks), rows.offset.new_zeros(())) / count
        few = count * rows.rows.shape[1] <= _BASIS_KEPT
        kept = [rows.sample(block).sub_(mean) for block in blocks] if few else None

        def covariance_times(matrix: Tensor) -> Tensor:
            """Return Z'Z matrix / n, block by block: a copy of all rows may be large."""
            total = torch.zeros_like(matrix)
            for part in kept or (rows.sample(block).sub_(mean) for block in blocks):
                total += product(product(part, matrix).T, part).T  # a part of few columns is turned, not that of rows
            return total.div_(count)

        width, dtype = rows.rows.shape[1], rows.rows.dtype
        start = torch.randn(width, min(BASIS_RANK, width, count), generator=generator, dtype=dtype)
        self.vectors, self.values = leading_eigenvectors(covariance_times, start)

    def double(self) -> Preconditioner:
        """Return it in float64. Only how quickly a minimum is found depends on the vectors: they are not found anew."""
        doubled = copy(self)
        doubled.vectors, doubled.values = self.vectors.double(), self.values.double()
        return doubled

    def root(self, curvature: float | Tensor, penalty: float) -> _HessianRoot:
        """Return the root for one penalty; `curvature` is c, or that of each score, [k]."""
        if isinstance(curvature, Tensor):
            inverse_roots = (curvature[:, None] * self.values + penalty).rsqrt()
            return _HessianRoot(self.vectors, inverse_roots, inverse_roots[:, :1], curvature.rsqrt())
        inverse_roots = (curvature * self.values + penalty).rsqrt()
        return _HessianRoot(self.vectors, inverse_roots, float(inverse_roots[0]), curvature**-0.5)


def _in_span(count: int, width: int) -> bool:
    """Return whether so many rows are few against their numbers, and what is gained is worth the axes."""
    return count * width >= PREPARED_FROM and _WIDE * count <= width


def tolerances(dtype: torch.dtype, final: bool, rows: int, width: int) -> dict[str, float]:
    """Return when a fit to rows of some width ends, by the names of L-BFGS-B.

    That is the largest entry of the gradient, and the decrease against the loss or 1.
    """
    if dtype == torch.float64:
        return {"gtol": 1e-7, "ftol": 0.0}
    if final or rows <= min(width, SEPARABLE_UP_TO):  # beyond this, float32 rounds
        return {"gtol": 1e-5, "ftol": 1e-8}
    return {"gtol": _TOLERANCE, "ftol": _SETTLED}


def most_steps(final: bool) -> int:
    """Return after how many steps a fit ends in any case."""
    return 2000 if final else 500


def linear_head(
    targets: LinearTargets,
    weight: NDArray[np.floating],
    bias: NDArray[np.floating],
    mean: NDArray[np.floating] | None,
    scale: NDArray[np.floating],
    temperature: float,
) -> LinearHead:
    """Return coefficients for scaled rows, [m, d] and [m], as a head on rows as they are; no `mean` is that of l2."""
    weights = targets.of_all(weight.astype(np.float64), absent=0.0) / temperature
    biases = targets.of_all(bias.astype(np.float64) / temperature)
    return LinearHead.from_coefficients(weights, biases, mean, scale, l2=mean is None, binary=False)


@dataclass(frozen=True)
class LinearModelFactory:
    """What a linear model is fitted to: all but scaling and rows, which the search chooses.

    Attributes
    ----------
    loss : {"logistic", "hinge"}
    task : Task
        Of one class a sample, or of several labels; a class without a row is never predicted.
    center : ndarray of float32 [d]
        What has been taken from the rows.
    balanced : bool
        Whether all classes weigh the same, or rows with a label and those without, whatever their numbers.
    preconditioners : mapping of {"none", "standard", "l2"} to Preconditioner
        For models on any part of the rows; where there is none, a model makes its own.
    room : None
        They take next to nothing beside their rows, and axes of their span.
    """

    loss: Loss
    task: Task
    center: NDArray[np.float32]
    balanced: bool = False
    preconditioners: Mapping[Scaling, Preconditioner] = field(default_factory=dict)
    room: None = None

    def prepared(self, rows: NDArray[np.float32], scalings: Sequence[Scaling]) -> LinearModelFactory:
        """Return it with preconditioners of rows [n, d] under some scalings, where making one for each model costs."""
        missing = [scaling for scaling in scalings if scaling not in self.preconditioners]
        if rows.size < PREPARED_FROM or _in_span(*rows.shape) or not missing:
            return self
        made = {scaling: Preconditioner(ScaledRows.fit(rows, scaling, self.center)) for scaling in missing}
        return replace(self, preconditioners={**self.preconditioners, **made})

    def bytes_beside_rows(self, count: int) -> int:
        """Return 0, as a linear model goes through its rows and has but coefficients beside them; or what axes take.

        While these are found, scaled rows stand beside them.
        """
        width = len(self.center)
        return 2 * self.center.itemsize * count * width if _in_span(count, width) else 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is prepared: where the rows are, it is quickly made again."""
        return {**self.__dict__, "preconditioners": {}}

    def __call__(
        self, scaling: Scaling, rows: NDArray[np.floating], labels: NDArray[Any], places: Selection | None = None
    ) -> LinearModel:
        """Return the model, not yet fitted; which rows these are it need not know."""
        return LinearModel(self, scaling, rows, labels)


class LinearModel:
    """A linear model on scaled rows, fitted for one C after the other, each from where the last one ended.

    Parameters
    ----------
    factory : LinearModelFactory
    scaling : {"none", "standard", "l2"}
    rows : ndarray [n, d]
        float32; float64 for more exact coefficients.
    labels : ndarray [n] or [n, labels]

    Attributes
    ----------
    targets : LinearTargets
        What is learned of the labels.
    weight, bias : Tensor
        [m, d] and [m] in the type of the rows, for the m scores of the targets.
    evaluations : int
        How often loss and gradient were computed.
    """

    _axes: Tensor | None
    """Orthonormal columns Q, [d, n], whose span weights are sought in; None where it is everywhere."""

    _seen: ScaledRows
    """The rows as the solver sees them: scaled, or along the axes."""

    def __init__(
        self, factory: LinearModelFactory, scaling: Scaling, rows: NDArray[np.floating], labels: NDArray[Any]
    ) -> None:
        self.factory = factory
        self.scaling = scaling
        self.rows = ScaledRows.fit(rows, scaling, factory.center)
        dtype = self.rows.rows.dtype
        self.targets = linear_targets(factory.loss, factory.task, labels, balanced=factory.balanced, dtype=dtype)
        width = self.targets.width
        self.weight, self.bias = self.rows.offset.new_zeros(width, rows.shape[1]), self.targets.first_bias.to(dtype)
        self.evaluations = 0
        self._take_axes()

    @property
    def state(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """The coefficients, from which another fit may begin."""
        return self.weight.numpy(), self.bias.numpy()

    @state.setter
    def state(self, state: tuple[NDArray[np.floating], NDArray[np.floating]]) -> None:
        if state[0].shape == tuple(self.weight.shape):  # with other classes present, it is a fit from zero
            self.weight, self.bias = (torch.from_numpy(part).to(self.weight.dtype) for part in state)

    def fit(self, c: float, *, final: bool = False) -> None:
        """Fit with the regularisation `c` as scikit-learn counts it: the smaller, the stronger.

        A `final` fit goes further down, and computes in float64 where there are few rows.
        """
        if not self.targets.width:  # of no label there are both sides
            return
        if final and len(self.rows) <= EXACT_UP_TO:
            self._compute_in_float64()
        penalty = 1 / (c * len(self.rows))
        root, axes = self._root(penalty), self._axes
        start = self.weight if axes is None else product(self.weight, axes)
        shape = start.shape

        def unpack(values: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
            flat = torch.from_numpy(values).to(self.weight.dtype)
            return root.of(flat[: -shape[0]].view(shape), flat[-shape[0] :].clone())

        def pack(weight: Tensor, bias: Tensor) -> NDArray[np.float64]:
            return torch.cat([weight.flatten(), bias]).double().numpy()

        def objective(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weight, bias = unpack(values)
            loss, by_weight, by_bias = self._loss_and_gradient(weight, bias)
            loss += penalty / 2 * float(weight.double().square().sum())
            self.evaluations += 1
            return loss, pack(*root.of(by_weight.add_(weight, alpha=penalty), by_bias))

        optimum = minimize(
            objective,
            pack(*root.inverse_of(start, self.bias)),
            jac=True,
            method="L-BFGS-B",
            options={
                **tolerances(self.weight.dtype, final, *self.rows.rows.shape),
                "maxiter": most_steps(final),
                "maxfun": 3000,
                "maxcor": 10,
            },
        )
        weight, self.bias = unpack(optimum.x)
        self.weight = weight if axes is None else product(weight, axes.T)

    def _take_axes(self) -> None:
        """Take the rows as they are scaled; of few wide ones, along axes of their span."""
        if not _in_span(*self.rows.rows.shape):
            self._axes, self._seen = None, self.rows
            self._preconditioner = self.factory.preconditioners.get(self.scaling) or Preconditioner(self.rows)
            return
        axes, triangle = torch.linalg.qr(self.rows.sample(torch.arange(len(self.rows))).T)
        width = len(triangle)
        self._axes = axes
        self._seen = ScaledRows(triangle.T.contiguous(), axes.new_zeros(width), axes.new_ones(width), None)
        self._preconditioner = Preconditioner(self._seen)

    def _root(self, penalty: float) -> _HessianRoot:
        return self._preconditioner.root(self.targets.curvature, penalty)

    def _compute_in_float64(self) -> None:
        state, rows = self.state, self.rows.rows.double().numpy()
        self.rows = ScaledRows.fit(rows, self.scaling, self.factory.center)
        if self._axes is None:
            self._seen, self._preconditioner = self.rows, self._preconditioner.double()
        else:
            self._take_axes()
        self.weight, self.bias = (torch.from_numpy(part).double() for part in state)
        self.targets = self.targets.double()

    def scores(self, rows: NDArray[np.floating], places: Selection | None = None) -> NDArray[np.float32]:
        """Return the scores of all classes, float32 [n, classes], for rows less the centre."""
        rows = rows.astype(self.weight.numpy().dtype, copy=False)
        return self.targets.of_all(self.rows.of(rows).scores(self.weight, self.bias).float().numpy().T).T

    def head(self, temperature: float = 1.0) -> LinearHead:
        """Return scaling and model as one linear head; a class without a row has a bias too low to be predicted."""
        mean = None if self.scaling == "l2" else self.rows.offset.numpy() + self.factory.center
        return linear_head(self.targets, *self.state, mean, self.rows.scale.numpy(), temperature)

    def _loss_and_gradient(self, weight: Tensor, bias: Tensor) -> tuple[float, Tensor, Tensor]:
        """Return the mean loss over the rows and its gradient by weights and by intercepts."""
        loss, by_weight, by_bias = 0.0, torch.zeros_like(weight), torch.zeros_like(bias)
        for part, rows in self._seen.blocks():
            losses, slopes = self.targets.losses_and_slopes(rows.scores(weight, bias), part)
            slopes.div_(len(self.rows))
            loss += float(losses.double().sum()) / len(self.rows)
            by_weight += rows.gradient(slopes)
            by_bias += slopes.sum(dim=0)
        return loss, by_weight, by_bias
