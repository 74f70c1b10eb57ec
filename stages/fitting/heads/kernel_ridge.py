"""Ridge regression with the RBF kernel: a closed form for every penalty, and for every row left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from torch.nn import functional

from stages.fitting.feature_rows import AnyFeatureRows, FeatureRows, StreamedFeatureRows, concat
from stages.fitting.heads.fit_rbf_svm import C_RATIO
from stages.fitting.heads.ridge import RidgeChoice, RidgeFits, RidgeVariant, choose_penalty, fold_ridge
from stages.fitting.problem import FitProblem
from stages.fitting.registry import register_head
from stages.fitting.result import HeadFit
from stages.fitting.scores import logits
from stages.fitting.solvers.mapped_rows import MappedRows
from stages.fitting.solvers.nystroem import MAP_BYTES, KernelScaler, NystroemMap, landmarks_within
from stages.fitting.standardize import ScaledRows, Scaling, Standardizer
from stages.network.heads.linear import LinearHead
from stages.network.heads.rbf import RBFHead
from stages.runtime.device import product_device
from stages.runtime.said_once import say_once

GAMMA_RATIOS = (0.25, 1.0, 4.0)
"""Values of gamma that are tried, against 1 / (d * variance)."""

_JITTER, _ROUNDING = 1e-8, 1e-7
"""What is added to the diagonal of a kernel, for each row: the first, or, where rows are nearly equal, what no rounding
of its entries to float32 can make negative."""

_LANDMARK_BYTES, _SUMS_BYTES = 12, 48
"""What a number of a landmark takes as it is read, centered and scaled; and, for each pair of landmarks, the sums of
products of train, of validation and of both, and their decomposition."""


FittedTo = Callable[[RidgeFits, Scaling, float, float], LinearHead]


@register_head(
    "kernel_ridge",
    label="kernel ridge",
    streams=True,
    tasks=("single_label", "multi_label", "regression"),
    default_for=("multi_label", "regression"),
    saved_as="stages.network.heads.rbf:RBFHead",
    cost=10.0,
)
def fit_kernel_ridge(problem: FitProblem) -> HeadFit:
    """Ridge with a radial kernel.

    It is linear ridge on what Nystroem's method makes of the kernel, exact where there are no more rows than landmarks
    (`nystroem_components`). The width of the kernel, the scaling and the penalty are those that score best, by the same
    rows that ridge is scored by; the values of C are `C_RATIO` times those given. Streamed rows are gone through, and
    compared with the landmarks, once for each width and scaling.
    """
    train, val = _float32(problem.train), _float32(problem.val)
    landmarks, said = _landmarks(problem)

    def variants() -> Iterator[RidgeVariant]:
        kernels = _Kernels(train if problem.cv.is_holdout else concat(train, val), problem, landmarks)
        for scaling in problem.config.scalers:
            for ratio in GAMMA_RATIOS:
                view = kernels.view(scaling, ratio)
                settings = {"scaler": scaling, "gamma ratio": ratio}
                yield RidgeVariant(RidgeFits(problem, view.mapped(train), view.mapped(val)), "none", settings)

    def head(choice: RidgeChoice, rows: AnyFeatureRows, fitted: FittedTo) -> RBFHead:
        kernels = _Kernels(rows, problem, landmarks)
        view = kernels.view(choice.settings["scaler"], choice.settings["gamma ratio"])
        fits = RidgeFits(problem, view.mapped(train), view.mapped(val))
        return view.map.head(fitted(fits, "none", choice.penalty, choice.temperature))

    # not by `threads_for`: the kernel is decomposed, and that is shared by the cores however few numbers a row has
    choice = choose_penalty(problem, variants(), c_ratio=C_RATIO)
    choice = replace(choice, settings=choice.settings | said)
    fold = partial(fold_ridge, replace(problem, train=train, val=val), choice, _margins)

    def finish() -> HeadFit:
        heads = head(choice, concat(train, val), RidgeFits.to_all), head(choice, train, RidgeFits.to_train)
        return choice.head_fit(*heads, fold)

    return HeadFit.deferred(problem, choice.candidates, finish, fold) if problem.deferred else finish()


def _landmarks(problem: FitProblem) -> tuple[int, dict[str, Any]]:
    """Return how many rows all others are compared with, and, where memory allows fewer than asked for, settings.

    Of streamed rows there are as many as find room, with what makes of a row what the linear model sees, and with its
    sums, in half of what rows may take; that is said. Whether few of them are enough, the score tells.
    """
    wanted = problem.config.nystroem_components
    if not isinstance(problem.train, StreamedFeatureRows):
        return wanted, {}
    (numbers,) = problem.train.row_shape
    room = problem.train.memory_bytes // 2
    found = max(landmarks_within(room, _LANDMARK_BYTES * numbers, MAP_BYTES + _SUMS_BYTES), 1)
    if found >= min(wanted, len(problem.labels)):
        return wanted, {}
    say_once(
        f"kernel_ridge: rows are compared with {found:,} of them, not {wanted:,}, for which `max_memory_gb` has no room"
    )
    return found, {"landmarks": found}


def _margins(part: FitProblem, settings: dict[str, Any], penalty: float) -> NDArray[np.float32]:
    """Return the margins of validation, by landmarks of train alone."""
    train, val = part.in_memory
    kernels = _Kernels(train, part, part.config.nystroem_components)
    view = kernels.view(settings["scaler"], settings["gamma ratio"])
    mapped = view.mapped(val)
    return logits(RidgeFits(part, view.mapped(train), mapped).to_train("none", penalty), mapped)


class _Kernels:
    """Kernels of any width around the landmarks of some rows."""

    def __init__(self, rows: AnyFeatureRows, problem: FitProblem, landmarks: int) -> None:
        self._landmarks, self._seed = landmarks, problem.seed
        self._rows: _RowsInMemory | _RowsOfCache
        self._rows = _RowsInMemory(rows) if isinstance(rows, FeatureRows) else _RowsOfCache(rows)
        width = len(self._rows.center)
        self._device = product_device(problem.device, len(problem.labels) * landmarks * width)

    def view(self, scaling: Scaling, ratio: float) -> _KernelView:
        """Return what scaling and landmarks of the rows make of any, for one width of the kernel."""
        scaler = self._rows.scaler(scaling, ratio)
        landmarks = self._rows.centered, self._seed, self._landmarks
        return _KernelView(NystroemMap(scaler, *landmarks, _triangular_root, self._device), self._rows.center)


class _RowsInMemory:
    """Rows that scalings are fitted to, and landmarks drawn of."""

    def __init__(self, rows: FeatureRows) -> None:
        self.center = rows.features.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.centered = rows.features - self.center

    def scaler(self, scaling: Scaling, ratio: float) -> KernelScaler:
        return KernelScaler.of_rows(self.center, scaling, self.centered, ratio)


class _RowsOfCache:
    """The same of streamed rows, by sums over all of them."""

    def __init__(self, rows: StreamedFeatureRows) -> None:
        self._rows, self._standardizer = rows, Standardizer.fit(rows)
        self._mean, self._variance = self._standardizer.mean_and_variance
        self.center = self._mean.astype(np.float32)
        self.centered = _Centered(rows, self.center)
        self._squared_lengths: dict[Scaling, float] = {}

    def scaler(self, scaling: Scaling, ratio: float) -> KernelScaler:
        deviation = self._standardizer.moments[1]
        fitted = ScaledRows.of_moments(torch.from_numpy(self._mean), deviation, scaling, self.center)
        if scaling not in self._squared_lengths:
            self._squared_lengths[scaling] = self._squared_length(scaling, deviation.numpy())
        return KernelScaler(self.center, fitted, self._squared_lengths[scaling], ratio)

    def _squared_length(self, scaling: Scaling, deviation: NDArray[np.float32]) -> float:
        """Return what d times the variance of all numbers of scaled rows is."""
        if scaling == "none":
            return float(self._variance.sum())
        if scaling == "standard":
            return float((self._variance / deviation.astype(np.float64) ** 2).sum())
        total, squares = 0.0, 0.0
        for _, block in self._rows.blocks():
            of_length_1 = functional.normalize(torch.from_numpy(block).float(), dim=1)
            total += float(of_length_1.sum(dtype=torch.float64))
            squares += float(of_length_1.square().sum(dtype=torch.float64))
        count = len(self._rows)
        return squares / count - (total / count) ** 2 / len(self.center)


@dataclass(frozen=True)
class _Centered:
    """Streamed rows less their center, of which some are taken."""

    rows: StreamedFeatureRows
    center: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(self.rows.read(places).astype(np.float32) - self.center)


@dataclass(frozen=True)
class _KernelView:
    """Rows as a linear model sees them, for one width of the kernel."""

    map: NystroemMap
    center: NDArray[np.float32]

    def mapped(self, rows: AnyFeatureRows) -> AnyFeatureRows:
        """Return rows as the linear model sees them."""
        if isinstance(rows, StreamedFeatureRows):
            return MappedRows.of(rows, self._mapped, self.map.root.shape[1])
        return FeatureRows(self._mapped(rows.features), rows.labels, groups=rows.groups)

    def _mapped(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.map(features - self.center)


def _triangular_root(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the inverse of the triangle L in kernel = L L', transposed.

    Ridge is the same for any root, and this one takes a twentieth of the time of eigenvectors, of which ridge makes its
    own. What is added to the diagonal is what rounding leaves open (`_JITTER`).
    """
    size = len(kernel)
    try:
        triangle = cholesky(kernel + _JITTER * size * np.eye(size), lower=True)
    except LinAlgError:
        triangle = cholesky(kernel + _ROUNDING * size * np.eye(size), lower=True)
    return np.asarray(solve_triangular(triangle, np.eye(size), lower=True).T)


def _float32(rows: AnyFeatureRows) -> AnyFeatureRows:
    """Return rows in float32; those of a cache are as they are, until they are read."""
    if isinstance(rows, StreamedFeatureRows):
        return rows
    features = torch.from_numpy(rows.features).float().numpy()
    return FeatureRows(features, rows.labels, groups=rows.groups)
