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

from stages.fitting.feature_rows import FeatureRows
from stages.fitting.heads.fit_rbf_svm import C_RATIO, KernelScaler, NystroemMap
from stages.fitting.heads.ridge import RidgeChoice, RidgeFits, RidgeVariant, choose_penalty, fold_ridge
from stages.fitting.problem import FitProblem
from stages.fitting.registry import register_head
from stages.fitting.result import HeadFit
from stages.fitting.scores import logits
from stages.fitting.standardize import Scaling
from stages.network.heads.linear import LinearHead
from stages.network.heads.rbf import RBFHead
from stages.runtime.device import product_device

GAMMA_RATIOS = (0.25, 1.0, 4.0)
"""Values of gamma that are tried, against 1 / (d * variance)."""

_JITTER, _ROUNDING = 1e-8, 1e-7
"""What is added to the diagonal of a kernel, for each row: the first, or, where rows are nearly equal, what no rounding
of its entries to float32 can make negative."""


FittedTo = Callable[[RidgeFits, Scaling, float, float], LinearHead]


@register_head(
    "kernel_ridge",
    label="kernel ridge",
    tasks=("single_label", "multi_label", "regression"),
    default_for=("multi_label", "regression"),
    saved_as="stages.network.heads.rbf:RBFHead",
    cost=10.0,
)
def fit_kernel_ridge(problem: FitProblem) -> HeadFit:
    """Ridge with a radial kernel.

    It is linear ridge on what Nystroem's method makes of the kernel, exact where there are no more rows than landmarks
    (`nystroem_components`). The width of the kernel, the scaling and the penalty are those that score best, by the same
    rows that ridge is scored by; the values of C are `C_RATIO` times those given.
    """
    train, val = (_float32(rows) for rows in problem.in_memory)
    mapped_from = train if problem.cv.is_holdout else train + val

    def variants() -> Iterator[RidgeVariant]:
        for scaling in problem.config.scalers:
            for ratio in GAMMA_RATIOS:
                view = _KernelView.of(mapped_from, scaling, ratio, problem)
                settings = {"scaler": scaling, "gamma ratio": ratio}
                yield RidgeVariant(RidgeFits(problem, view.mapped(train), view.mapped(val)), "none", settings)

    def head(choice: RidgeChoice, rows: FeatureRows, fitted: FittedTo) -> RBFHead:
        view = _KernelView.of(rows, choice.settings["scaler"], choice.settings["gamma ratio"], problem)
        fits = RidgeFits(problem, view.mapped(train), view.mapped(val))
        return view.map.head(fitted(fits, "none", choice.penalty, choice.temperature))

    # not by `threads_for`: the kernel is decomposed, and that is shared by the cores however few numbers a row has
    choice = choose_penalty(problem, variants(), c_ratio=C_RATIO)
    fold = partial(fold_ridge, replace(problem, train=train, val=val), choice, _margins)

    def finish() -> HeadFit:
        heads = head(choice, train + val, RidgeFits.to_all), head(choice, train, RidgeFits.to_train)
        return choice.head_fit(*heads, fold)

    return HeadFit.deferred(problem, choice.candidates, finish, fold) if problem.deferred else finish()


def _margins(part: FitProblem, settings: dict[str, Any], penalty: float) -> NDArray[np.float32]:
    """Return the margins of validation, by landmarks of train alone."""
    train, val = part.in_memory
    view = _KernelView.of(train, settings["scaler"], settings["gamma ratio"], part)
    mapped = view.mapped(val)
    return logits(RidgeFits(part, view.mapped(train), mapped).to_train("none", penalty), mapped)


@dataclass(frozen=True)
class _KernelView:
    """Rows as a linear model sees them, for one width of the kernel."""

    map: NystroemMap
    center: NDArray[np.float32]

    @classmethod
    def of(cls, rows: FeatureRows, scaling: Scaling, ratio: float, problem: FitProblem) -> _KernelView:
        """Return what scaling and landmarks of these rows make of any."""
        center = rows.features.mean(axis=0, dtype=np.float64).astype(np.float32)
        centered = rows.features - center
        scaler = KernelScaler(center, scaling, centered, ratio)
        landmarks = problem.config.nystroem_components
        device = product_device(problem.device, len(problem.labels) * landmarks * len(center))
        return cls(NystroemMap(scaler, centered, problem.seed, landmarks, _triangular_root, device), center)

    def mapped(self, rows: FeatureRows) -> FeatureRows:
        """Return rows as the linear model sees them."""
        return FeatureRows(self.map(rows.features - self.center), rows.labels, groups=rows.groups)


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


def _float32(rows: FeatureRows) -> FeatureRows:
    features = torch.from_numpy(rows.features).float().numpy()
    return FeatureRows(features, rows.labels, groups=rows.groups)
