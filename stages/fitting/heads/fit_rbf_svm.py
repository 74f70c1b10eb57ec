"""The support vector machine with the RBF kernel: exact for some thousand rows, by Nystroem's method beyond."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.svm import SVC

from cache.errors import UsageError
from stages.fitting.folds import Selection
from stages.fitting.problem import FitProblem
from stages.fitting.registry import register_head
from stages.fitting.result import HeadFit
from stages.fitting.solvers.grid_search import fit_along_path
from stages.fitting.solvers.linear_models import PREPARED_FROM, LinearModel, LinearModelFactory
from stages.fitting.solvers.linear_targets import constant_logits, two_sided
from stages.fitting.solvers.nystroem import (
    KERNEL_UP_TO,
    MAP_BYTES,
    KernelScaler,
    NystroemMap,
    landmarks_within,
)
from stages.fitting.standardize import Scaling
from stages.network.heads.rbf import RBFHead
from stages.runtime.device import free_memory, product_device
from stages.runtime.products import squared_distances
from stages.runtime.said_once import say_once
from stages.tasks.base import Task
from stages.tasks.temperature import ABSENT_CLASS_SCORE

_CPU = torch.device("cpu")

C_RATIO = 1000
"""Kernel machines want weaker regularisation than linear models: they try so many times the values of C."""

FEWEST_LANDMARKS = 100
"""Rows that all others are compared with at the least, where memory has no room for more."""

_COMPARED_UP_TO = 4000
"""Rows up to which all are compared with all before any machine is fitted."""


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
    count, partly_known = len(problem.labels), problem.labels.ndim > 1 and bool(np.isnan(problem.labels).any())
    room = _room(problem)
    exact_up_to, landmarks = compared_within(room, count, problem.config.nystroem_components, partly_known=partly_known)
    said = _said(problem, exact_up_to, landmarks)

    def make_of(center: NDArray[np.float32]) -> RBFSVMFactory:
        device = product_device(problem.device, count**2 * len(center))
        return RBFSVMFactory(
            *(problem.task, center, problem.seed, landmarks, problem.balanced, device),
            exact_up_to=exact_up_to,
            partly_known=partly_known,
            room=room,
        )

    fitted = fit_along_path(problem, make_of, margins=True)
    if fitted.finish is not None:
        finish = fitted.finish
        return replace(fitted, finish=lambda: _with_settings(finish(), said))
    return _with_settings(fitted, said)


def _room(problem: FitProblem) -> int:
    """Return the bytes that kernels may take: what `max_memory_gb` leaves beside the rows, or half of what is free."""
    if problem.config.max_memory_gb is None:
        return free_memory(_CPU) // 2
    features = sum(part.features.nbytes for part in problem.in_memory)
    return max(int(problem.config.max_memory_gb * 1e9) - features, 0)


def compared_within(room: int, count: int, landmarks: int, *, partly_known: bool = False) -> tuple[int, int]:
    """Return up to how many rows all are compared with all, and how many landmarks the others are compared with.

    Parameters
    ----------
    room : int
        Bytes that may be taken beside the rows.
    count : int
        Rows of train and validation: where these are not all compared with all, those of a fold are not.
    landmarks : int
        Wanted.
    partly_known : bool
        Whether labels are not known of all rows.

    Raises
    ------
    UsageError
        If there is room for next to no landmarks.
    """
    exact_up_to = min(KERNEL_UP_TO, math.isqrt(room // _kernel_bytes(1, partly_known=partly_known)))
    if exact_up_to < count <= KERNEL_UP_TO:
        exact_up_to = 0
    if count <= exact_up_to:
        return exact_up_to, landmarks
    found = landmarks_within(room, _map_bytes(count, 1) - MAP_BYTES, MAP_BYTES)
    fewest = min(landmarks, FEWEST_LANDMARKS, count)
    if found < fewest:
        raise UsageError(
            f"`head` rbf compares {count:,} rows with at least {fewest} of them, which takes "
            f"{_map_bytes(count, fewest) / 1e9:.2g} GB beside the rows, and `max_memory_gb` leaves {room / 1e9:.2g}: "
            "allow more, or take a linear head"
        )
    return exact_up_to, min(landmarks, found)


def _said(problem: FitProblem, exact_up_to: int, landmarks: int) -> dict[str, Any]:
    """Return what want of memory makes otherwise, as settings, and say it; nothing where there is enough."""
    count, wanted = len(problem.labels), problem.config.nystroem_components
    if count <= exact_up_to or (count > KERNEL_UP_TO and landmarks == wanted):
        return {}
    takes = _kernel_bytes(count) if count <= KERNEL_UP_TO else _map_bytes(count, wanted)
    compared = "each other" if count <= KERNEL_UP_TO else f"{wanted:,} of them"
    say_once(
        f"rbf: to compare {count:,} rows with {compared} takes {takes / 1e9:.2g} GB, more than `max_memory_gb` leaves: "
        f"they are compared with {landmarks:,} of them"
    )
    return {"landmarks": landmarks}


def _with_settings(fitted: HeadFit, said: dict[str, Any]) -> HeadFit:
    return replace(fitted, settings=fitted.settings | said)


def _kernel_bytes(count: int, *, partly_known: bool = False) -> int:
    """Return what the kernel of so many rows takes while it is made, and then with what libsvm keeps.

    It is float64 and made of float32; of labels that are not known of all rows, each has a copy of its part.
    """
    return count**2 * (12 + (8 if partly_known else 0))


def _map_bytes(count: int, landmarks: int) -> int:
    """Return what rows take as Nystroem's method sees them, float32, and once more, and the roots that make them so."""
    return 8 * count * landmarks + MAP_BYTES * landmarks**2


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
        Rows that the others are compared with, where there are more than `exact_up_to`.
    balanced : bool
    device : torch.device
        Where rows are compared.
    exact_up_to : int
        Rows that are compared with each other.
    partly_known : bool
        Whether labels are not known of all rows.
    room : int or None
        Bytes that machines may take together beside their rows; None where there is enough.
    distances : ndarray of float32 [n, n] or None
        Squared distances of all rows, as they are, for machines that see some of them so.
    """

    task: Task
    center: NDArray[np.float32]
    seed: int
    landmarks: int
    balanced: bool = False
    device: torch.device = _CPU
    exact_up_to: int = KERNEL_UP_TO
    partly_known: bool = False
    room: int | None = None
    distances: NDArray[np.float32] | None = None

    def prepared(self, rows: NDArray[np.float32], scalings: Sequence[Scaling]) -> RBFSVMFactory:
        """Return it with the distances of the rows, where comparing them in each fold would cost more."""
        if rows.size < PREPARED_FROM or len(rows) > _COMPARED_UP_TO:
            return self
        if "none" not in scalings or self.distances is not None or len(rows) > self.exact_up_to:
            return self
        if self.room is not None and 16 * len(rows) ** 2 > self.room:  # beside the kernel that is made of them
            return self
        return replace(self, distances=_squared_distances(rows, rows, self.device))

    def bytes_beside_rows(self, count: int) -> int:
        """Return what the kernel of so many rows takes, or their map."""
        if count > self.exact_up_to:
            return _map_bytes(count, self.landmarks)
        return _kernel_bytes(count, partly_known=self.partly_known)

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
        if len(rows) > self.exact_up_to:
            return NystroemModel(self, scaling, rows, labels)
        return ExactRBFSVM(self, scaling, rows, labels, places)


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
        self.scaler = KernelScaler.of_rows(factory.center, scaling, rows)
        self.rows, self.labels = self.scaler(rows), labels
        known = places is not None and scaling == "none" and factory.distances is not None
        self._places = places if known else None
        self.kernel: NDArray[np.float64] | None = self._kernel(self.rows, self._places)
        self.sides, constants = _sides(labels, factory.task.out_features)
        self.learned = [number for number, side in enumerate(self.sides) if side is not None]
        self.constants = constants
        self._compared: tuple[NDArray[np.float32], NDArray[np.float64]] | None = None

    def fit(self, c: float, *, final: bool = False) -> None:
        """Fit with a value of C (times `C_RATIO`); a `final` fit is the last, and lets go of the kernel."""
        assert self.kernel is not None, "the last fit is done"
        weights = "balanced" if self.factory.balanced else None
        self.support = np.zeros((len(self.rows), self.factory.task.out_features))
        self.bias = self.constants.copy()
        for number in self.learned:
            side = self.sides[number]
            assert side is not None
            known = np.flatnonzero(side)
            kernel = self.kernel if len(known) == len(side) else self.kernel[np.ix_(known, known)]
            machine = SVC(C=C_RATIO * c, kernel="precomputed", class_weight=weights, random_state=0)
            machine.fit(kernel, side[known] > 0)
            self.support[known[machine.support_], number] = machine.dual_coef_[0]
            self.bias[number] = machine.intercept_[0]
        if final:
            self.kernel = None

    def scores(self, rows: NDArray[np.float32], places: Selection | None = None) -> NDArray[np.float32]:
        """Return the scores of all classes, float32 [n, classes], for rows less the centre.

        The same array scored for another value of C is not compared with the rows again.
        """
        compared = self._compared
        if compared is None or compared[0] is not rows:
            compared = rows, self._kernel(self.scaler(rows), places)
        self._compared = None if self.kernel is None else compared
        return np.asarray(compared[1] @ self.support + self.bias, dtype=np.float32)

    def _kernel(self, rows: NDArray[np.float32], places: Selection | None) -> NDArray[np.float64]:
        """Return the kernel of scaled rows with those of the machine, as libsvm takes it: float64, or it copies it."""
        if self._places is None or places is None:
            return _of_distances(_squared_distances(rows, self.rows, self.factory.device), self.scaler.gamma)
        known = self.factory.distances
        assert known is not None
        distances = known[places][:, self._places]
        if np.may_share_memory(distances, known):  # which others are still to see
            distances = distances.copy()
        return _of_distances(distances, self.scaler.gamma)

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
        scaler = KernelScaler.of_rows(factory.center, scaling, rows)
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
    """Return the kernel of squared distances, which are no more afterwards."""
    return np.asarray(torch.from_numpy(distances).mul_(-gamma).exp_().double().numpy())


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
