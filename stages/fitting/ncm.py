"""The nearest class mean: nothing is fitted but means, and nothing chosen but the scaling."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from stages.fitting.class_sums import ClassSums, approximate_mean
from stages.fitting.linear_targets import ABSENT_CLASS_SCORE
from stages.fitting.out_of_fold import OutOfFold, best_on_others, collect
from stages.fitting.problem import FitProblem
from stages.fitting.registry import register_head
from stages.fitting.result import HeadFit
from stages.fitting.scores import logits, selection_score
from stages.fitting.standardize import Scaling
from stages.network.heads.linear import LinearHead
from stages.tasks.temperature import fit_temperature


@register_head("ncm", label="nearest mean", method="linear", streams=True, tasks=("single_label",), cost=0.1)
def fit_ncm(problem: FitProblem) -> HeadFit:
    """Nearest class mean: the scores z.m - |m|^2 / 2 order classes by the distance to their mean m.

    The scaling is chosen on the validation split: there is nothing else to choose.
    """
    train, val, scalings = problem.train, problem.val, problem.config.scalers
    center = approximate_mean(train)
    candidates, fitted = [], []
    for scaling in scalings:
        train_sums, val_sums = (
            ClassSums.of(rows, problem.task.out_features, np.ones(len(rows), np.float32), center, l2=scaling == "l2")
            for rows in (train, val)
        )
        margins = logits(_head(train_sums, scaling, 1.0), val)
        score = selection_score(problem.task, margins, val.labels, margins=True)
        candidates.append({"scaler": scaling, "score": score})
        fitted.append((train_sums, val_sums, margins))
    top = max(range(len(candidates)), key=lambda number: candidates[number]["score"])
    train_sums, val_sums, margins = fitted[top]
    temperature = fit_temperature(problem.task, margins, val.labels)
    head, without_val = (_head(sums, scalings[top], temperature) for sums in (train_sums + val_sums, train_sums))
    settings = {**candidates[top], "selected by": "validation split", "temperature": temperature}
    return HeadFit(head, without_val, settings, candidates, fold=partial(_fold, problem))


def _fold(problem: FitProblem) -> OutOfFold | None:
    """Return the margins out of folds, each fold's under the scaling that is best on the others."""
    if not problem.divisions:
        return None
    outputs = []
    for plan in problem.divisions:
        parts = [problem.part(*fold) for fold in plan.splits]
        margins = [[_margins(part, scaling) for part in parts] for scaling in problem.config.scalers]
        scores = [
            [
                selection_score(problem.task, of_fold, part.val.labels, margins=True)
                for of_fold, part in zip(row, parts, strict=True)
            ]
            for row in margins
        ]
        outputs.append([margins[pick][fold] for fold, pick in enumerate(best_on_others(np.array(scores)))])
    return collect(problem, outputs, calibrate=True)


def _margins(problem: FitProblem, scaling: Scaling) -> NDArray[np.float32]:
    """Return the margins of validation by the means of train."""
    rows = problem.train
    ones, center = np.ones(len(rows), np.float32), approximate_mean(rows)
    sums = ClassSums.of(rows, problem.task.out_features, ones, center, l2=scaling == "l2")
    return logits(_head(sums, scaling, 1.0), problem.val)


def _head(sums: ClassSums, scaling: Scaling, temperature: float) -> LinearHead:
    mean, scale = sums.standardization() if scaling == "standard" else (np.zeros_like(sums.total), None)
    counts = sums.class_weight[:, None]
    means = np.divide(sums.by_class, counts, out=np.zeros_like(sums.by_class), where=counts > 0) - mean
    means = means if scale is None else means / scale
    bias = np.where(sums.class_weight > 0, -(means**2).sum(axis=1) / 2 / temperature, ABSENT_CLASS_SCORE)
    origin = mean if sums.l2 else mean + sums.center
    return LinearHead.from_coefficients(means / temperature, bias, origin, scale, l2=sums.l2)
