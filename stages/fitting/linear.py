"""Linear models over a path of regularisation: logistic regression and the linear support vector machine.

Both minimise what scikit-learn's `LogisticRegression` (multinomial; binomial for two classes) and `LinearSVC` (squared
hinge, each class against the rest) minimise,

    mean over rows of w_i * loss(z_i W + b, y_i) + |W|^2 / (2 C n),

with an intercept that is not penalised, and come to the same coefficients (`tests/stages/fitting/test_linear.py`). What
is different is the time:

- The rows z = r (x - o) / s are never made. A scaling (standard: o and s; l2: r) acts on the weights and on the scores,
  so that all scalings share one float32 matrix, and the work is two matrix products per evaluation, for all classes.
- C goes upwards and each solution is where the next begins.
- L-BFGS (scipy's) works on preconditioned weights. At W = 0 the Hessian is c Z'Z / n + 1 / (C n), the same for all
  classes; with the leading eigenvectors V and eigenvalues e of Z'Z / n, found on a sample of the rows by a randomised
  decomposition (Halko et al. 2011), its inverse root T = V diag((c e + l)^-1/2 - (c e_min + l)^-1/2) V' +
  (c e_min + l)^-1/2 I costs two thin products, and W = T U is what is optimised over. The minimum is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional

from stages.fitting.protocol import balanced_weights
from stages.fitting.scaling import Scaled, Scaling
from stages.network.heads import LinearHead

Loss = Literal["logistic", "hinge"]

ABSENT = -1e4
"""Score of a class that no row was of."""

_TOLERANCE = 1e-4
"""Largest entry of the gradient that is taken for zero while settings are compared, as in scikit-learn."""

_EXACT_UP_TO = 10_000
"""Rows up to which final coefficients are computed in float64."""

_BASIS_ROWS = 8192
"""Rows the preconditioner is computed from."""

_BASIS_FROM = 4096
"""Rows from which on the preconditioner saves more than it costs."""

_BASIS_RANK = 256
"""Eigenvectors of the preconditioner."""


class _Preconditioner:
    """The inverse root of the Hessian at zero, as said above; the identity for few rows."""

    def __init__(self, rows: Scaled) -> None:
        self.basis: tuple[Tensor, Tensor] | None = None
        if len(rows) < _BASIS_FROM:
            return
        generator = torch.Generator().manual_seed(0)
        dtype = rows.rows.dtype
        sample = rows.sample(torch.randperm(len(rows), generator=generator)[:_BASIS_ROWS])
        sample -= sample.mean(dim=0)
        rank = min(_BASIS_RANK, *sample.shape)
        found = sample.T @ (sample @ torch.randn(sample.shape[1], rank, generator=generator, dtype=dtype))
        for _ in range(2):
            found = sample.T @ (sample @ torch.linalg.qr(found).Q)
        basis = torch.linalg.qr(found).Q
        _, values, turned = torch.linalg.svd(sample @ basis, full_matrices=False)
        self.basis = basis @ turned.T, values**2 / len(sample)

    def root(self, curvature: float, penalty: float) -> tuple[Tensor, float] | None:
        """Return (what is done along each eigenvector, what is done along all other directions)."""
        if self.basis is None:
            return None
        roots = (curvature * self.basis[1] + penalty).rsqrt()
        return roots, float(roots[-1])

    def apply(self, weight: Tensor, roots: tuple[Tensor, float] | None, *, inverse: bool = False) -> Tensor:
        """Return T @ weight, or its inverse."""
        if self.basis is None or roots is None:
            return weight
        along, others = (1 / roots[0], 1 / roots[1]) if inverse else roots
        vectors = self.basis[0]
        return weight * others + vectors @ ((along - others)[:, None] * (vectors.T @ weight))


@dataclass(frozen=True)
class LinearTask:
    """What a linear model is fitted to: all but scaling and rows, which the search chooses.

    Attributes
    ----------
    loss : {"logistic", "hinge"}
    num_classes : int
        Of the head; a class without a row is never predicted.
    centre : ndarray of float32 [d]
        What has been taken from the rows.
    balanced : bool
        Whether all classes weigh the same, whatever their numbers.
    """

    loss: Loss
    num_classes: int
    centre: NDArray[np.float32]
    balanced: bool = False

    def __call__(self, scaling: Scaling, rows: NDArray[np.floating], labels: NDArray[np.int64]) -> LinearModel:
        """Return the model, not yet fitted."""
        return LinearModel(self, scaling, rows, labels)


class LinearModel:
    """A linear model on scaled rows, fitted for one C after the other, each from where the last one ended.

    Parameters
    ----------
    task : LinearTask
    scaling : {"none", "standard", "l2"}
    rows : ndarray [n, d]
        float32; float64 for more exact coefficients.
    labels : ndarray of int64 [n]

    Attributes
    ----------
    present : ndarray of int64 [k]
        The classes that have a row.
    weight, bias : Tensor
        [d, m] and [m] in the type of the rows, m = 1 for two classes (the second against the first), else k.
    evaluations : int
        How often loss and gradient were computed.
    """

    def __init__(
        self, task: LinearTask, scaling: Scaling, rows: NDArray[np.floating], labels: NDArray[np.int64]
    ) -> None:
        self.task = task
        self.scaling = scaling
        self.rows = Scaled.fit(rows, scaling, task.centre)
        self.present, compact = np.unique(labels, return_inverse=True)
        self._labels = torch.from_numpy(compact.astype(np.int64))
        self._weights = None
        if task.balanced:
            self._weights = torch.from_numpy(balanced_weights(labels)).to(self.rows.rows.dtype)[:, None]
        width = 1 if len(self.present) == 2 else len(self.present)
        self.weight, self.bias = self.rows.offset.new_zeros(rows.shape[1], width), self.rows.offset.new_zeros(width)
        self.evaluations = 0
        self._preconditioner = _Preconditioner(self.rows)

    @property
    def state(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """The coefficients, from which another fit may begin."""
        return self.weight.numpy(), self.bias.numpy()

    @state.setter
    def state(self, state: tuple[NDArray[np.floating], NDArray[np.floating]]) -> None:
        if state[0].shape == tuple(self.weight.shape):  # with other classes present, it is a fit from zero
            self.weight, self.bias = (torch.from_numpy(one).to(self.weight.dtype) for one in state)

    def fit(self, c: float, *, final: bool = False) -> None:
        """Fit with the regularisation `c` as scikit-learn counts it: the smaller, the stronger.

        A `final` fit goes further down, and computes in float64 where there are few rows.
        """
        if final and len(self.rows) <= _EXACT_UP_TO:
            self._compute_in_float64()
        penalty = 1 / (c * len(self.rows))
        classes = len(self.present)
        curvature = {"logistic": (1 - 1 / classes) / classes, "hinge": 2.0}[self.task.loss]
        roots = self._preconditioner.root(curvature, penalty)
        shape = self.weight.shape

        def unpack(values: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
            both = torch.from_numpy(values).to(self.weight.dtype)
            return self._preconditioner.apply(both[: -shape[1]].view(shape), roots), both[-shape[1] :].clone()

        def pack(weight: Tensor, bias: Tensor) -> NDArray[np.float64]:
            return torch.cat([weight.flatten(), bias]).double().numpy()

        def objective(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weight, bias = unpack(values)
            value, slopes = self._loss_and_slopes(self.rows.scores(weight, bias))
            gradient = self.rows.gradient(slopes).add_(weight, alpha=penalty)
            self.evaluations += 1
            packed = pack(self._preconditioner.apply(gradient, roots), slopes.sum(dim=0))
            return value + penalty / 2 * float(weight.double().square().sum()), packed

        start = pack(self._preconditioner.apply(self.weight, roots, inverse=True), self.bias)
        exact = self.weight.dtype == torch.float64
        options = {
            "gtol": (1e-7 if exact else 1e-5) if final else _TOLERANCE,
            "ftol": 0.0 if exact else 1e-9,
            "maxiter": 2000 if final else 500,
            "maxfun": 3000,
            "maxcor": 10,
        }
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        self.weight, self.bias = unpack(found.x)

    def _compute_in_float64(self) -> None:
        state, rows = self.state, self.rows.rows.double().numpy()
        self.rows = Scaled.fit(rows, self.scaling, self.task.centre)
        self._preconditioner = _Preconditioner(self.rows)
        self.weight, self.bias = (torch.from_numpy(one).double() for one in state)
        self._weights = None if self._weights is None else self._weights.double()

    def scores(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the scores of all classes, float32 [n, classes], for rows less the centre."""
        rows = rows.astype(self.weight.numpy().dtype, copy=False)
        return self._of_all_classes(self.rows.of(rows).scores(self.weight, self.bias).float().numpy().T).T

    def head(self, temperature: float = 1.0) -> LinearHead:
        """Return scaling and model as one linear head; a class without a row has a bias too low to be predicted."""
        weight = self._of_all_classes(self.weight.numpy().T.astype(np.float64), absent=0.0)
        bias = self._of_all_classes(self.bias.numpy().astype(np.float64))
        bias = np.where(bias > ABSENT, bias / temperature, ABSENT)
        l2 = self.scaling == "l2"
        mean, scale = (None if l2 else self.rows.offset.numpy() + self.task.centre), self.rows.scale.numpy()
        return LinearHead.from_coefficients(weight / temperature, bias, mean, scale, l2=l2)

    def _of_all_classes(self, values: NDArray[Any], absent: float = ABSENT) -> NDArray[Any]:
        """Return values of the classes that are present, [m, ...], as values of all, [classes, ...]."""
        if len(self.present) == 2:
            values = np.concatenate([np.zeros_like(values), values])
        result = np.full((self.task.num_classes, *values.shape[1:]), absent, dtype=values.dtype)
        result[self.present] = values
        return result

    def _loss_and_slopes(self, scores: Tensor) -> tuple[float, Tensor]:
        """Return the mean loss and its gradient by the scores, [n, m]; `scores` are overwritten."""
        if self.task.loss == "hinge":
            targets = self._targets(scores)
            short = torch.clamp_min(1 - targets * scores, 0)
            losses, slopes = short.square().sum(dim=1), short.mul_(targets).mul_(-2)
        elif scores.shape[1] == 1:
            second = self._labels[:, None].to(scores.dtype)
            losses = functional.softplus(torch.where(second > 0, -scores, scores)).squeeze(1)
            slopes = scores.sigmoid_().sub_(second)
        else:
            total = scores.logsumexp(dim=1, keepdim=True)
            losses = (total - scores.gather(1, self._labels[:, None])).squeeze(1)
            slopes = scores.sub_(total).exp_()
            slopes.scatter_add_(1, self._labels[:, None], -torch.ones_like(total))
        if self._weights is not None:
            losses, slopes = losses * self._weights.squeeze(1), slopes.mul_(self._weights)
        return float(losses.double().mean()), slopes.div_(len(losses))

    def _targets(self, scores: Tensor) -> Tensor:
        """Return 1 where a row is of a class and -1 elsewhere, [n, m]."""
        if scores.shape[1] == 1:
            return (2 * self._labels[:, None] - 1).to(scores.dtype)
        return torch.full_like(scores, -1.0).scatter_(1, self._labels[:, None], 1.0)
