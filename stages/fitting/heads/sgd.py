"""Linear models by stochastic gradient descent, for more rows than memory holds: scikit-learn's, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.linear_model import SGDClassifier

from stages.fitting.feature_rows import AnyFeatureRows, concat
from stages.fitting.problem import FitProblem
from stages.fitting.registry import register_head
from stages.fitting.result import HeadFit
from stages.fitting.scores import early_stop_margin, logits, selection_score
from stages.fitting.standardize import Scaling, Standardizer
from stages.network.heads.linear import LinearHead
from stages.runtime.seeding import epoch_seed
from stages.runtime.threads import one_thread_per_fit, usable_cores
from stages.tasks.temperature import ABSENT_CLASS_SCORE, fit_temperature

EPOCHS = 10
"""Most passes over the rows."""

BLOCK_ROWS = 4096
"""Rows that every model is shown before the next are read."""


@dataclass(frozen=True)
class _RowScaler:
    """What rows are scaled by: their mean and standard deviation, or their own length, or nothing."""

    scaling: Scaling
    standardizer: Standardizer | None

    @classmethod
    def fit(cls, rows: AnyFeatureRows, scaling: Scaling) -> _RowScaler:
        return cls(scaling, Standardizer.fit(rows) if scaling == "standard" else None)

    def __call__(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        values = torch.from_numpy(rows).float()
        values = torch.nn.functional.normalize(values) if self.scaling == "l2" else values
        return np.asarray((values if self.standardizer is None else self.standardizer.transform(values)).numpy())


@register_head("sgd", label="SGD", method="linear", streams=True, tasks=("single_label",), cost=4.5)
def fit_sgd(problem: FitProblem) -> HeadFit:
    """Logistic regression by averaged SGD.

    Each epoch goes once through the rows, in blocks that all settings share; a setting is dropped once it has scored
    clearly less on the validation split than the best one. The chosen setting is fitted again on train+validation, for
    as many epochs as served it best. The penalty is that of scikit-learn's logistic regression: alpha = 1 / (C n).
    """
    train, val, scalings, seed = problem.train, problem.val, problem.config.scalers, problem.seed
    out_features = problem.task.out_features
    settings: list[dict[str, Any]] = [
        {"C": value, "scaler": scaling} for scaling in scalings for value in sorted(problem.config.c_values)
    ]
    scalers = {scaling: _RowScaler.fit(train, scaling) for scaling in scalings}
    models = {number: _model(setting["C"], len(train), seed) for number, setting in enumerate(settings)}
    best: dict[int, tuple[float, int, LinearHead]] = {}
    for epoch in range(1, EPOCHS + 1):
        _partial_fit_epoch(models, settings, scalers, train, problem, epoch_seed(seed, epoch))
        for number, model in models.items():
            head = _as_head(model, scalers[settings[number]["scaler"]], out_features)
            score = selection_score(problem.task, logits(head, val), val.labels, margins=True)
            if number not in best or score > best[number][0]:
                best[number] = score, epoch, head
        top = max(score for score, _, _ in best.values())
        least = top - 2 * early_stop_margin(problem.task, top)
        models = {number: model for number, model in models.items() if best[number][0] >= least}
    candidates = [{**setting, "score": best[number][0]} for number, setting in enumerate(settings)]
    number = max(best, key=lambda number: (best[number][0], -settings[number]["C"]))
    best_setting, (_, n_epochs, without_val) = candidates[number], best[number]
    temperature = fit_temperature(problem.task, logits(without_val, val), val.labels)
    train_val = concat(train, val)
    scaler = {best_setting["scaler"]: _RowScaler.fit(train_val, best_setting["scaler"])}
    refit = {0: _model(best_setting["C"], len(train_val), seed)}
    for epoch in range(1, n_epochs + 1):
        _partial_fit_epoch(refit, [best_setting], scaler, train_val, problem, epoch_seed(seed, epoch))
    head = _as_head(refit[0], scaler[best_setting["scaler"]], out_features)
    for fitted_head in (head, without_val):
        _apply_temperature(fitted_head, temperature)
    result_settings = {
        **best_setting,
        "epochs": n_epochs,
        "selected by": "validation split",
        "temperature": temperature,
    }
    return HeadFit(head, without_val, result_settings, candidates)


def _model(c: float, count: int, seed: int) -> SGDClassifier:
    return SGDClassifier(loss="log_loss", alpha=1 / (c * count), average=True, random_state=seed)


def _partial_fit_epoch(
    models: dict[int, SGDClassifier],
    settings: Sequence[dict[str, Any]],
    scalers: dict[Scaling, _RowScaler],
    rows: AnyFeatureRows,
    problem: FitProblem,
    seed: int,
) -> None:
    """Show every model all rows once."""
    weights = problem.task.weights(rows.labels) if problem.balanced else None
    classes = np.unique(rows.labels)
    with one_thread_per_fit(), Parallel(n_jobs=usable_cores(), prefer="threads", require="sharedmem") as side_by_side:
        for indices, block in rows.shuffled(BLOCK_ROWS, seed):
            scaled = {scaling: scaler(block) for scaling, scaler in scalers.items()}
            labels, weight = rows.labels[indices], None if weights is None else weights[indices]
            side_by_side(
                delayed(model.partial_fit)(scaled[settings[number]["scaler"]], labels, classes, weight)
                for number, model in models.items()
            )


def _as_head(model: SGDClassifier, scaler: _RowScaler, out_features: int) -> LinearHead:
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:
        weight, bias = np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros_like(bias), bias])
    weights, biases = np.zeros((out_features, weight.shape[1])), np.full(out_features, ABSENT_CLASS_SCORE)
    weights[model.classes_], biases[model.classes_] = weight, bias
    moments = () if scaler.standardizer is None else scaler.standardizer.moments
    return LinearHead.from_coefficients(weights, biases, *moments, l2=scaler.scaling == "l2")


def _apply_temperature(head: LinearHead, temperature: float) -> None:
    with torch.no_grad():
        head.output.weight.div_(temperature)
        head.output.bias.div_(temperature)
