"""The nearest class mean: nothing is fitted but means, and nothing chosen but the scaling."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from stages.fitting.out_of_fold import OutOfFold, best_on_others, collect
from stages.fitting.problem import FitProblem
from stages.fitting.registry import register_head
from stages.fitting.result import HeadFit
from stages.fitting.scores import logits, selection_score
from stages.fitting.solvers.class_sums import ClassSums, approximate_mean
from stages.fitting.standardize import Scaling
from stages.network.heads.linear import LinearHead
from stages.tasks.temperature import ABSENT_CLASS_SCORE, fit_temperature


@register_head("ncm", label="nearest mean", method="linear", streams=True, tasks=("single_label",), cost=0.1)
def fit_ncm(problem: FitProblem) -> HeadFit:
    """Nearest class mean: the scores z.m - |m|^2 / 2 order classes by the distance to their mean m.

    The scaling is chosen on the validation split: there is nothing else to choose. Scores are counted in squared
    lengths of the means, whatever unit features are in: so the score of a class without rows is below any of them, and
    the temperature that suits them is among those that are looked through.
    """
    train, val, scalings = problem.train, problem.val, problem.config.scalers
    center = approximate_mean(train)
    candidates, fitted = [], []
    for scaling in scalings:
        train_sums, val_sums = (
            ClassSums.of(rows, problem.task.out_features, np.ones(len(rows), np.float32), center, l2=scaling == "l2")
            for rows in (train, val)
        )
        unit = _squared_length(train_sums, scaling)
        margins = logits(_head(train_sums, scaling, unit), val)
        score = selection_score(problem.task, margins, val.labels, margins=True)
        candidates.append({"scaler": scaling, "score": score})
        fitted.append((train_sums, val_sums, margins, unit))
    top = max(range(len(candidates)), key=lambda number: candidates[number]["score"])
    train_sums, val_sums, margins, unit = fitted[top]
    temperature = unit * fit_temperature(problem.task, margins, val.labels)
    head, without_val = (_head(sums, scalings[top], temperature) for sums in (train_sums + val_sums, train_sums))
    settings = {**candidates[top], "selected by": "validation split", "temperature": temperature}
    units = [unit for *_, unit in fitted]
    return HeadFit(head, without_val, settings, candidates, fold=partial(_fold, problem, units))


def _fold(problem: FitProblem, units: Sequence[float]) -> OutOfFold | None:
    """Return the margins out of folds, each fold's under the scaling that is best on the others, in its unit."""
    if not problem.divisions:
        return None
    outputs = []
    for plan in problem.divisions:
        parts = [problem.part(*fold) for fold in plan.splits]
        margins = [
            [_margins(part, scaling, unit) for part in parts]
            for scaling, unit in zip(problem.config.scalers, units, strict=True)
        ]
        scores = [
            [
                selection_score(problem.task, of_fold, part.val.labels, margins=True)
                for of_fold, part in zip(row, parts, strict=True)
            ]
            for row in margins
        ]
        outputs.append([margins[pick][fold] for fold, pick in enumerate(best_on_others(np.array(scores)))])
    return collect(problem, outputs, calibrate=True)


def _margins(problem: FitProblem, scaling: Scaling, unit: float) -> NDArray[np.float32]:
    """Return the margins of validation by the means of train."""
    rows = problem.train
    ones, center = np.ones(len(rows), np.float32), approximate_mean(rows)
    sums = ClassSums.of(rows, problem.task.out_features, ones, center, l2=scaling == "l2")
    return logits(_head(sums, scaling, unit), problem.val)


def _squared_length(sums: ClassSums, scaling: Scaling) -> float:
    """Return the mean squared length of the class means, as a power of two: divided by it, scores keep their digits."""
    lengths = (_means(sums, scaling)[0] ** 2).sum(axis=1)[sums.class_weight > 0]
    mean = float(lengths.mean())
    return float(2.0 ** np.round(np.log2(mean))) if mean else 1.0


def _means(
    sums: ClassSums, scaling: Scaling
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
    """Return the means of the classes as they are compared, [classes, d], and what rows are scaled by before."""
    mean, scale = sums.standardization() if scaling == "standard" else (np.zeros_like(sums.total), None)
    counts = sums.class_weight[:, None]
    means = np.divide(sums.by_class, counts, out=np.zeros_like(sums.by_class) + mean, where=counts > 0) - mean
    return means if scale is None else means / scale, mean, scale


def _head(sums: ClassSums, scaling: Scaling, temperature: float) -> LinearHead:
    means, mean, scale = _means(sums, scaling)
    bias = np.where(sums.class_weight > 0, -(means**2).sum(axis=1) / 2 / temperature, ABSENT_CLASS_SCORE)
    origin = mean if sums.l2 else mean + sums.center
    return LinearHead.from_coefficients(means / temperature, bias, origin, scale, l2=sums.l2)
