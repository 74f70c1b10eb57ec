"""The support vector machine with the RBF kernel: exact for some thousand rows, by Nystroem's method beyond."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC

from stages.fitting.grid_search import fit_along_path
from stages.fitting.linear_models import LinearModel, LinearModelFactory
from stages.fitting.linear_targets import ABSENT_CLASS_SCORE
from stages.fitting.problem import FitProblem
from stages.fitting.registry import register_head
from stages.fitting.result import HeadFit
from stages.fitting.standardize import ScaledRows, Scaling
from stages.network.heads.rbf import RBFHead
from stages.tasks.base import Task

KERNEL_UP_TO = 10_000
"""Rows up to which every row is compared with every other: the time grows with their square."""

C_RATIO = 1000
"""Kernel machines want weaker regularisation than linear models: they try so many times the values of C."""

_BLOCK_ROWS = 4096


@register_head(
    "rbf",
    label="RBF SVM",
    tasks=("single_label",),
    default_for=("single_label",),
    saved_as="stages.network.heads.rbf:RBFHead",
)
def fit_rbf(problem: FitProblem) -> HeadFit:
    """Support vector machine with a radial kernel."""

    def make_of(center: NDArray[np.float32]) -> RBFSVMFactory:
        landmarks = problem.config.nystroem_components
        return RBFSVMFactory(problem.task, center, problem.seed, landmarks, problem.balanced)

    return fit_along_path(problem, make_of, calibrate=True)


@dataclass(frozen=True)
class RBFSVMFactory:
    """What a kernel machine is fitted to: all but scaling and rows, which the search chooses.

    Attributes
    ----------
    task : Task
        Of one class a sample.
    center : ndarray of float32 [d]
        What has been taken from the rows.
    seed : int
        Of the landmarks.
    landmarks : int
        Rows that the others are compared with, where there are more than `KERNEL_UP_TO`.
    balanced : bool
    """

    task: Task
    center: NDArray[np.float32]
    seed: int
    landmarks: int
    balanced: bool = False

    def __call__(
        self, scaling: Scaling, rows: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> ExactRBFSVM | NystroemModel:
        """Return the machine, not yet fitted."""
        kind = ExactRBFSVM if len(rows) <= KERNEL_UP_TO else NystroemModel
        return kind(self, scaling, rows, labels)


class _KernelScaler:
    """Scaled copies of rows, and the width of the kernel: the common one, 1 / (d * variance of all numbers)."""

    def __init__(self, center: NDArray[np.float32], scaling: Scaling, rows: NDArray[np.float32]) -> None:
        self.center, self.l2 = center, scaling == "l2"
        self.fitted = ScaledRows.fit(rows, scaling, center)
        sample = self.fitted.sample(torch.arange(0, len(rows), max(len(rows) // KERNEL_UP_TO, 1)))
        self.gamma = 1 / max(sample.shape[1] * float(sample.var(correction=0)), 1e-12)

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return rows as the machine sees them, float32 [n, d]."""
        return np.asarray(self.fitted.of(rows).sample(torch.arange(len(rows))).numpy())

    def head(
        self, support: NDArray[np.float32], coefficients: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> RBFHead:
        """Return a machine as a torch head."""
        if self.l2:
            return RBFHead.from_support(support, coefficients, bias, self.gamma, l2=True)
        mean = self.fitted.offset.numpy() + self.center
        return RBFHead.from_support(support, coefficients, bias, self.gamma, mean, self.fitted.scale.numpy())


class ExactRBFSVM:
    """Support vector machines, each class against the rest; the kernel is computed once for all values of C."""

    def __init__(
        self, factory: RBFSVMFactory, scaling: Scaling, rows: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> None:
        self.factory = factory
        self.state: Any = None  # a machine has nothing to begin from
        self.scaler = _KernelScaler(factory.center, scaling, rows)
        self.rows, self.labels = self.scaler(rows), labels
        self.kernel = rbf_kernel(self.rows, self.rows, self.scaler.gamma)
        self.present = np.unique(labels)

    def fit(self, c: float, *, final: bool = False) -> None:
        """Fit with a value of C (times `C_RATIO`)."""
        weights = "balanced" if self.factory.balanced else None
        against_rest = self.present[1:] if len(self.present) == 2 else self.present
        self.support = np.zeros((len(self.rows), self.factory.task.out_features))
        self.bias = np.full(self.factory.task.out_features, ABSENT_CLASS_SCORE)
        self.bias[self.present] = 0.0
        for class_number in against_rest:
            machine = SVC(C=C_RATIO * c, kernel="precomputed", class_weight=weights)
            machine.fit(self.kernel, self.labels == class_number)
            self.support[machine.support_, class_number] = machine.dual_coef_[0]
            self.bias[class_number] = machine.intercept_[0]

    def scores(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores of all classes, float32 [n, classes], for rows less the centre."""
        kernel = rbf_kernel(self.scaler(rows), self.rows, self.scaler.gamma)
        return np.asarray(kernel @ self.support + self.bias, dtype=np.float32)

    def head(self, temperature: float = 1.0) -> RBFHead:
        """Return scaling and machines as one head that holds the rows it needs."""
        support_rows = np.flatnonzero(self.support.any(axis=1))
        bias = np.where(self.bias > ABSENT_CLASS_SCORE, self.bias / temperature, ABSENT_CLASS_SCORE)
        return self.scaler.head(self.rows[support_rows], self.support[support_rows] / temperature, bias)


class NystroemModel:
    """A linear machine on what Nystroem's method (Williams & Seeger 2001) makes of the RBF kernel.

    With landmarks L and K(L, L) = V e V', a row x becomes K(x, L) V e^-1/2. A linear machine on that is a kernel
    machine whose only support are the landmarks.
    """

    def __init__(
        self, factory: RBFSVMFactory, scaling: Scaling, rows: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> None:
        self.scaler = _KernelScaler(factory.center, scaling, rows)
        landmark_rows = np.random.default_rng(factory.seed).choice(
            len(rows), min(factory.landmarks, len(rows)), replace=False
        )
        self.landmarks = self.scaler(rows[np.sort(landmark_rows)])
        values, vectors = eigh(rbf_kernel(self.landmarks, self.landmarks, self.scaler.gamma).astype(np.float64))
        self.root = (vectors / np.sqrt(np.maximum(values, 1e-8 * values[-1]))).astype(np.float32)
        mapped = self._mapped(rows)
        center = np.zeros(mapped.shape[1], np.float32)
        linear_factory = LinearModelFactory("hinge", factory.task, center, factory.balanced)
        self.linear: LinearModel = linear_factory("none", mapped, labels)

    @property
    def state(self) -> Any:
        """The coefficients, from which another fit may begin."""
        return self.linear.state

    @state.setter
    def state(self, state: Any) -> None:
        self.linear.state = state

    def fit(self, c: float, *, final: bool = False) -> None:
        """Fit with a value of C (times `C_RATIO`)."""
        self.linear.fit(C_RATIO * c, final=final)

    def scores(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores of all classes, float32 [n, classes], for rows less the centre."""
        return self.linear.scores(self._mapped(rows))

    def head(self, temperature: float = 1.0) -> RBFHead:
        """Return scaling, kernel and machine as one head around the landmarks."""
        linear = self.linear.head(temperature).output
        coefficients = self.root.astype(np.float64) @ linear.weight.detach().numpy().T.astype(np.float64)
        return self.scaler.head(self.landmarks, coefficients, linear.bias.detach().numpy())

    def _mapped(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        mapped = np.empty((len(rows), self.root.shape[1]), dtype=np.float32)
        landmarks, root = torch.from_numpy(self.landmarks), torch.from_numpy(self.root)
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = torch.from_numpy(self.scaler(rows[start : start + _BLOCK_ROWS]))
            kernel = torch.cdist(block, landmarks).square_().mul_(-self.scaler.gamma).exp_()
            mapped[start : start + _BLOCK_ROWS] = (kernel @ root).numpy()
        return mapped
