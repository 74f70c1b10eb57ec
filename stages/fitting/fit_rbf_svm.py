"""The support vector machine with the RBF kernel: exact for some thousand rows, by Nystroem's method beyond."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC

from stages.fitting.folds import Selection
from stages.fitting.grid_search import fit_along_path
from stages.fitting.linear_models import PREPARED_FROM, LinearModel, LinearModelFactory
from stages.fitting.linear_targets import constant_logits, two_sided
from stages.fitting.problem import FitProblem
from stages.fitting.registry import register_head
from stages.fitting.result import HeadFit
from stages.fitting.standardize import ScaledRows, Scaling
from stages.fitting.symmetric import eigendecomposed
from stages.network.heads.linear import LinearHead
from stages.network.heads.rbf import RBFHead
from stages.runtime.device import product_device
from stages.runtime.products import product, squared_distances
from stages.tasks.base import Task
from stages.tasks.temperature import ABSENT_CLASS_SCORE

_CPU = torch.device("cpu")

KERNEL_UP_TO = 10_000
"""Rows up to which every row is compared with every other: the time grows with their square."""

C_RATIO = 1000
"""Kernel machines want weaker regularisation than linear models: they try so many times the values of C."""

_COMPARED_UP_TO = 4000
"""Rows up to which all are compared with all before any machine is fitted."""

_BLOCK_ROWS = 4096

_SHORTEST = 1e-30
"""Mean squared length of rows below which they count as of this one: of what float32 holds the widest kernel."""


@register_head(
    "rbf",
    label="RBF SVM",
    tasks=("single_label", "multi_label"),
    default_for=("single_label",),
    saved_as="stages.network.heads.rbf:RBFHead",
    cost=2.2,
)
def fit_rbf(problem: FitProblem) -> HeadFit:
    """Support vector machine with a radial kernel."""

    def make_of(center: NDArray[np.float32]) -> RBFSVMFactory:
        landmarks = problem.config.nystroem_components
        device = product_device(problem.device, len(problem.labels) ** 2 * len(center))
        return RBFSVMFactory(problem.task, center, problem.seed, landmarks, problem.balanced, device)

    return fit_along_path(problem, make_of, calibrate=True)


@dataclass(frozen=True)
class RBFSVMFactory:
    """What a kernel machine is fitted to: all but scaling and rows, which the search chooses.

    Attributes
    ----------
    task : Task
        Of one class a sample, or of several labels.
    center : ndarray of float32 [d]
        What has been taken from the rows.
    seed : int
        Of the landmarks.
    landmarks : int
        Rows that the others are compared with, where there are more than `KERNEL_UP_TO`.
    balanced : bool
    device : torch.device
        Where rows are compared.
    distances : ndarray of float32 [n, n] or None
        Squared distances of all rows, as they are, for machines that see some of them so.
    """

    task: Task
    center: NDArray[np.float32]
    seed: int
    landmarks: int
    balanced: bool = False
    device: torch.device = _CPU
    distances: NDArray[np.float32] | None = None

    def prepared(self, rows: NDArray[np.float32], scalings: Sequence[Scaling]) -> RBFSVMFactory:
        """Return it with the distances of the rows, where comparing them in each fold would cost more."""
        if rows.size < PREPARED_FROM or len(rows) > _COMPARED_UP_TO:
            return self
        if "none" not in scalings or self.distances is not None:
            return self
        return replace(self, distances=_squared_distances(rows, rows, self.device))

    def bytes_beside_rows(self, count: int) -> int:
        """Return what the kernel of so many rows takes, in float64 and, while it is made, in float32; or their map."""
        if count > KERNEL_UP_TO:
            return count * self.landmarks * np.dtype(np.float32).itemsize
        return count**2 * (np.dtype(np.float64).itemsize + np.dtype(np.float32).itemsize)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is prepared: where the rows are, it is quickly made again."""
        return {**self.__dict__, "distances": None}

    def __call__(
        self,
        scaling: Scaling,
        rows: NDArray[np.float32],
        labels: NDArray[Any],
        places: Selection | None = None,
    ) -> ExactRBFSVM | NystroemModel:
        """Return the machine, not yet fitted."""
        if len(rows) > KERNEL_UP_TO:
            return NystroemModel(self, scaling, rows, labels)
        return ExactRBFSVM(self, scaling, rows, labels, places)


class KernelScaler:
    """Scaled copies of rows, and the width of the kernel: `ratio` of the common one, 1 / (d * variance of all)."""

    def __init__(
        self, center: NDArray[np.float32], scaling: Scaling, rows: NDArray[np.float32], ratio: float = 1.0
    ) -> None:
        self.center, self.l2 = center, scaling == "l2"
        self.fitted = ScaledRows.fit(rows, scaling, center)
        sample = self.fitted.sample(torch.arange(0, len(rows), max(len(rows) // KERNEL_UP_TO, 1)))
        length = sample.shape[1] * float(sample.var(correction=0))  # squared, in the mean
        self.gamma = ratio / max(length, _SHORTEST) if length else ratio

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return rows as the machine sees them, float32 [n, d]."""
        return np.asarray(self.fitted.of(rows).sample(torch.arange(len(rows))).numpy())

    def head(
        self,
        support: NDArray[np.float32],
        coefficients: NDArray[np.float64],
        bias: NDArray[np.float64],
        places: NDArray[np.int64],
    ) -> RBFHead:
        """Return a machine as a torch head that knows at which places of the rows its support stood."""
        mean = None if self.l2 else self.fitted.offset.numpy() + self.center
        scale = None if self.l2 else self.fitted.scale.numpy()
        head = RBFHead.from_support(support, coefficients, bias, self.gamma, mean, scale, l2=self.l2)
        head.places = places
        return head


class NystroemMap:
    """What Nystroem's method (Williams & Seeger 2001) makes of rows, whose products are near the RBF kernel.

    With landmarks L and a root R of K(L, L)^-1 = R R', a row x becomes K(x, L) R. Where all rows are landmarks, it is
    exact.

    Parameters
    ----------
    scaler : KernelScaler
    rows : ndarray of float32 [n, d]
        Of which the landmarks are drawn.
    seed : int
    landmarks : int
        At most so many.
    root_of : callable, optional
        From K(L, L), float64 [landmarks, landmarks], to R; by its eigenvectors, if left out.
    device : torch.device
        Where rows are compared.
    """

    def __init__(
        self,
        scaler: KernelScaler,
        rows: NDArray[np.float32],
        seed: int,
        landmarks: int,
        root_of: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
        device: torch.device = _CPU,
    ) -> None:
        self.scaler, self.device = scaler, device
        self.places = np.sort(np.random.default_rng(seed).choice(len(rows), min(landmarks, len(rows)), replace=False))
        self.landmarks = scaler(rows[self.places])
        kernel = rbf_kernel(self.landmarks, self.landmarks, scaler.gamma).astype(np.float64)
        self.root = (root_of or _eigenvector_root)(kernel).astype(np.float32)

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return rows as a linear model is to see them, float32 [n, landmarks]."""
        mapped = np.empty((len(rows), self.root.shape[1]), dtype=np.float32)
        landmarks, root = (torch.from_numpy(part).to(self.device) for part in (self.landmarks, self.root))
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = torch.from_numpy(self.scaler(rows[start : start + _BLOCK_ROWS])).to(self.device)
            kernel = squared_distances(block, landmarks).mul_(-self.scaler.gamma).exp_()
            mapped[start : start + _BLOCK_ROWS] = product(kernel, root).cpu().numpy()
        return mapped

    def head(self, linear: LinearHead) -> RBFHead:
        """Return scaling, kernel and a linear model of mapped rows as one head around the landmarks."""
        output = linear.output
        coefficients = self.root.astype(np.float64) @ output.weight.detach().numpy().T.astype(np.float64)
        return self.scaler.head(self.landmarks.copy(), coefficients, output.bias.detach().numpy(), self.places)


class ExactRBFSVM:
    """Support vector machines, each class or label against the rest; one kernel serves them all, and all values of C.

    A label is fitted to the rows where it is known.

    Parameters
    ----------
    factory : RBFSVMFactory
    scaling : {"none", "standard", "l2"}
    rows : ndarray of float32 [n, d]
    labels : ndarray [n] or [n, labels]
    places : Selection, optional
        Which of the rows that the factory was prepared for these are.
    """

    def __init__(
        self,
        factory: RBFSVMFactory,
        scaling: Scaling,
        rows: NDArray[np.float32],
        labels: NDArray[Any],
        places: Selection | None = None,
    ) -> None:
        self.factory = factory
        self.state: Any = None  # a machine has nothing to begin from
        self.scaler = KernelScaler(factory.center, scaling, rows)
        self.rows, self.labels = self.scaler(rows), labels
        known = places is not None and scaling == "none" and factory.distances is not None
        self._places = places if known else None
        self.kernel = self._kernel(self.rows, self._places)
        self.sides, constants = _sides(labels, factory.task.out_features)
        self.learned = [number for number, side in enumerate(self.sides) if side is not None]
        self.constants = constants
        self._compared: tuple[NDArray[np.float32], NDArray[np.float64]] | None = None

    def fit(self, c: float, *, final: bool = False) -> None:
        """Fit with a value of C (times `C_RATIO`)."""
        weights = "balanced" if self.factory.balanced else None
        self.support = np.zeros((len(self.rows), self.factory.task.out_features))
        self.bias = self.constants.copy()
        for number in self.learned:
            side = self.sides[number]
            assert side is not None
            known = np.flatnonzero(side)
            kernel = self.kernel if len(known) == len(side) else self.kernel[np.ix_(known, known)]
            machine = SVC(C=C_RATIO * c, kernel="precomputed", class_weight=weights)
            machine.fit(kernel, side[known] > 0)
            self.support[known[machine.support_], number] = machine.dual_coef_[0]
            self.bias[number] = machine.intercept_[0]

    def scores(self, rows: NDArray[np.float32], places: Selection | None = None) -> NDArray[np.float32]:
        """Return the scores of all classes, float32 [n, classes], for rows less the centre.

        The same array scored for another value of C is not compared with the rows again.
        """
        if self._compared is None or self._compared[0] is not rows:
            self._compared = rows, self._kernel(self.scaler(rows), places)
        return np.asarray(self._compared[1] @ self.support + self.bias, dtype=np.float32)

    def _kernel(self, rows: NDArray[np.float32], places: Selection | None) -> NDArray[np.float64]:
        """Return the kernel of scaled rows with those of the machine, as libsvm takes it: float64, or it copies it."""
        if self._places is None or places is None:
            return _of_distances(_squared_distances(rows, self.rows, self.factory.device), self.scaler.gamma)
        assert self.factory.distances is not None
        return _of_distances(self.factory.distances[places][:, self._places], self.scaler.gamma)

    def head(self, temperature: float = 1.0) -> RBFHead:
        """Return scaling and machines as one head that holds the rows it needs."""
        support_rows = np.flatnonzero(self.support.any(axis=1))
        bias = self.bias.copy()
        bias[self.learned] /= temperature
        return self.scaler.head(self.rows[support_rows], self.support[support_rows] / temperature, bias, support_rows)


class NystroemModel:
    """A linear machine on what Nystroem's method makes of the kernel: a kernel machine whose support are landmarks."""

    def __init__(
        self, factory: RBFSVMFactory, scaling: Scaling, rows: NDArray[np.float32], labels: NDArray[Any]
    ) -> None:
        scaler = KernelScaler(factory.center, scaling, rows)
        self.map = NystroemMap(scaler, rows, factory.seed, factory.landmarks, device=factory.device)
        mapped = self.map(rows)
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

    def scores(self, rows: NDArray[np.float32], places: Selection | None = None) -> NDArray[np.float32]:
        """Return the scores of all classes, float32 [n, classes], for rows less the centre."""
        return self.linear.scores(self.map(rows))

    def head(self, temperature: float = 1.0) -> RBFHead:
        """Return scaling, kernel and machine as one head around the landmarks."""
        return self.map.head(self.linear.head(temperature))


def _squared_distances(
    rows: NDArray[np.float32], others: NDArray[np.float32], device: torch.device = _CPU
) -> NDArray[np.float32]:
    """Return the squared distances of rows [n, d] from others [m, d], float32 [n, m].

    Products are summed in float32. Rows are centered and gamma goes by their length, so that an entry of the kernel is
    right to some 1e-6; scikit-learn's own, in float64, takes over twice as long, and is left to what is decomposed.
    """
    ours, theirs = torch.from_numpy(rows).to(device), torch.from_numpy(others).to(device)
    distances = squared_distances(ours, theirs)
    if rows is others:
        distances.fill_diagonal_(0)
    return np.asarray(distances.cpu().numpy())


def _of_distances(distances: NDArray[np.float32], gamma: float) -> NDArray[np.float64]:
    return np.asarray(torch.from_numpy(distances).mul(-gamma).exp_().double().numpy())


def _eigenvector_root(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return V e^-1/2 for a kernel V e V'; what is next to nothing of e counts as the least that is something."""
    values, vectors = eigendecomposed(kernel)
    return np.asarray(vectors / np.sqrt(np.maximum(values, 1e-8 * values[-1])))


def _sides(labels: NDArray[Any], out_features: int) -> tuple[list[NDArray[np.int8] | None], NDArray[np.float64]]:
    """Return on which side of each machine the rows are, and the scores of what no machine learns, [out_features].

    A side is 1 or -1, 0 where it is not known; None where there is no machine: for a class or label that there is
    nothing, or nothing else, of, and for the first of two classes.
    """
    if labels.ndim == 2:
        learned = set(two_sided(labels).tolist())
        sides = np.where(np.isnan(labels), 0, np.where(labels == 1, 1, -1)).astype(np.int8)
        return [sides[:, number] if number in learned else None for number in range(out_features)], constant_logits(
            labels
        )
    present = np.unique(labels)
    constants = np.full(out_features, ABSENT_CLASS_SCORE)
    constants[present] = 0.0
    against_rest = present[1:] if len(present) == 2 else present
    return [
        np.where(labels == number, 1, -1).astype(np.int8) if number in against_rest else None
        for number in range(out_features)
    ], constants
