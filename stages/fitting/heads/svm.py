"""The linear support vector machine, along a path of regularization."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.fitting.problem import FitProblem
from stages.fitting.registry import register_head
from stages.fitting.result import HeadFit
from stages.fitting.solvers.grid_search import fit_along_path
from stages.fitting.solvers.linear_models import LinearModelFactory


@register_head(
    "svm",
    label="SVM",
    method="linear",
    streams=True,
    tasks=("single_label", "multi_label"),
    default_for=("single_label", "multi_label"),
    cost=1.3,
)
def fit_svm(problem: FitProblem) -> HeadFit:
    """Linear support vector machine. With squared hinge, each class or label against the rest."""

    def make_of(center: NDArray[np.float32]) -> LinearModelFactory:
        return LinearModelFactory("hinge", problem.task, center, problem.balanced)

    return fit_along_path(problem, make_of, margins=True)
