"""Logistic regression, along a path of regularization."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.fitting.problem import FitProblem
from stages.fitting.registry import register_head
from stages.fitting.result import HeadFit
from stages.fitting.solvers.grid_search import fit_along_path
from stages.fitting.solvers.linear_models import LinearModelFactory


@register_head(
    "logistic",
    label="logistic",
    method="linear",
    streams=True,
    tasks=("single_label", "multi_label"),
    default_for=("single_label", "multi_label"),
    cost=1.0,
)
def fit_logistic(problem: FitProblem) -> HeadFit:
    """Logistic regression. Multinomial; of several labels, each against the samples without it."""

    def make_of(center: NDArray[np.float32]) -> LinearModelFactory:
        return LinearModelFactory("logistic", problem.task, center, problem.balanced)

    return fit_along_path(problem, make_of, margins=False)
