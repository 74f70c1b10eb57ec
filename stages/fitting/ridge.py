"""Ridge regression on the classes, in closed form: every penalty, and every row left out, from one decomposition.

With z the scaled rows less their mean, y the targets (1 for the class, -1 for the others) less theirs, and Z'Z = V e
V', the coefficients for every penalty p are W(p) = V (V'Z'y / (e + p)). So are the predictions for rows that were
left out one at a time: with a = V'z and the leverage h = 1/n + sum of a_j^2 / (e_j + p), the residual without the row
is the residual divided by 1 - h (Allen's PRESS; Golub, Heath & Wahba 1979). One pass over the rows gives it for all
penalties, and no fold has to be fitted. The idea of scoring all penalties from one decomposition is that of
big_vision's few-shot evaluation.

Z'Z needs sums over the rows alone, so rows may be larger than memory. Where there are fewer rows than features, the
smaller ZZ' = U e U' is decomposed instead: it has the same eigenvalues, and V = Z'U e^-1/2 in the directions that the
rows span. In all others the coefficients are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh

from stages.fitting.class_sums import ClassSums, approximate_mean, iter_scaled
from stages.fitting.feature_rows import AnyFeatureRows, FeatureRows, concat
from stages.fitting.folds import CVPlan
from stages.fitting.linear_models import ABSENT_CLASS_SCORE
from stages.fitting.problem import FitProblem
from stages.fitting.registry import register_head
from stages.fitting.result import HeadFit
from stages.fitting.scores import selection_score
from stages.fitting.standardize import Scaling, safe_std
from stages.fitting.temperature import fit_temperature
from stages.network.heads.linear import LinearHead
from stages.tasks.base import Task

PENALTIES_PER_STEP = 3
"""Penalties tried for each value of C that is given: the ones between cost nothing."""

_RANK = 1e-12
"""Eigenvalue against the largest up to which a direction is one that the rows do not span."""


@dataclass(frozen=True)
class Ridge:
    """Ridge regression on the classes, decomposed: every penalty is a division away.

    Attributes
    ----------
    vectors, values : ndarray of float64 [d, r] and [r]
        Eigenvectors and eigenvalues of Z'Z.
    projected : ndarray of float64 [r, classes]
        V'Z'y.
    mean, scale : ndarray of float64 [d]
        z = (x - centre - mean) / scale for rows x as they are cached; (x / |x| - mean) for l2.
    center : ndarray of float32 [d]
    class_weight : ndarray of float64 [classes]
        Sum of the weights of each class's rows.
    l2 : bool
    task : Task
        Gives the targets.
    """

    vectors: NDArray[np.float64]
    values: NDArray[np.float64]
    projected: NDArray[np.float64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    center: NDArray[np.float32]
    class_weight: NDArray[np.float64]
    l2: bool
    task: Task

    @property
    def weight(self) -> float:
        """Sum of the rows' weights."""
        return float(self.class_weight.sum())

    @property
    def target_mean(self) -> NDArray[np.float64]:
        """Mean of the targets, [classes]."""
        return 2 * self.class_weight / self.weight - 1

    def coefficients(self, penalty: float) -> NDArray[np.float64]:
        """Return the coefficients for scaled rows, [d, classes]."""
        return np.asarray(self.vectors @ (self.projected / (self.values[:, None] + penalty)))

    def head(self, penalty: float, temperature: float = 1.0) -> LinearHead:
        """Return scaling and model as one linear head."""
        weight, bias = self.coefficients(penalty).T / temperature, self.target_mean / temperature
        bias = np.where(self.class_weight > 0, bias, ABSENT_CLASS_SCORE)
        if self.l2:  # the mean is that of rows of length 1, which the head makes itself
            return LinearHead.from_coefficients(weight, bias, self.mean, None, l2=True)
        return LinearHead.from_coefficients(weight, bias, self.mean + self.center, self.scale)

    def predictions(
        self, rows: AnyFeatureRows, penalties: Sequence[float], left_out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the predicted targets, float32 [penalties, n, classes].

        Parameters
        ----------
        left_out : ndarray of float32 [n], optional
            Weights with which these very rows were fitted: each is then predicted as if it had been left out.
        """
        predictions = np.empty((len(penalties), len(rows), len(self.class_weight)), dtype=np.float32)
        basis = torch.from_numpy((self.vectors / self.scale[:, None]).astype(np.float32))
        shift = torch.from_numpy(self.mean.astype(np.float32)) @ basis
        inverse = (1 / (self.values[:, None] + np.array(penalties))).astype(np.float32)
        solutions = (self.projected[:, None, :] * inverse[:, :, None]).astype(np.float32)
        joined, offset = torch.from_numpy(solutions.reshape(len(solutions), -1)), torch.from_numpy(self.target_mean)
        for indices, block in iter_scaled(rows, self.center, l2=self.l2):
            projected_rows = block @ basis - shift
            predicted = (projected_rows @ joined).view(len(projected_rows), len(penalties), -1) + offset.float()
            if left_out is not None:
                leverage = projected_rows.square_() @ torch.from_numpy(inverse) + 1 / self.weight
                leverage *= torch.from_numpy(left_out[indices])[:, None]
                targets = _targets(self.task, rows.labels[indices])[:, None]
                predicted = targets - (targets - predicted) / (1 - leverage).clamp_min(1e-6)[:, :, None]
            predictions[:, indices] = predicted.transpose(0, 1).numpy()
        return predictions


@dataclass(frozen=True)
class GramSums:
    """Sums over rows, and the products of their features, of which Z'Z is made.

    Attributes
    ----------
    sums : ClassSums
    products : ndarray of float64 [d, d]
    task : Task
    """

    sums: ClassSums
    products: NDArray[np.float64]
    task: Task

    @classmethod
    def of(
        cls,
        rows: AnyFeatureRows,
        task: Task,
        weights: NDArray[np.float32],
        center: NDArray[np.float32],
        *,
        l2: bool,
    ) -> GramSums:
        """Sum rows with their weights, float32 [n]."""
        sums = ClassSums.empty(task.out_features, center, l2=l2)
        products = np.zeros((len(center), len(center)))
        for indices, block in iter_scaled(rows, center, l2=l2):
            weighted = sums.add(block, rows.labels[indices], weights[indices])
            products += (weighted.T @ block).double().numpy()
        return cls(sums, products, task)

    def __add__(self, other: GramSums) -> GramSums:
        """Return the sums over the rows of both."""
        return GramSums(self.sums + other.sums, self.products + other.products, self.task)

    def __sub__(self, other: GramSums) -> GramSums:
        """Return the sums over the rows that `other` lacks."""
        return GramSums(self.sums - other.sums, self.products - other.products, self.task)

    def eigendecompose(self, scaling: Scaling) -> Ridge:
        """Decompose Z'Z of the rows that were summed."""
        sums = self.sums
        mean, scale = sums.standardization()
        if scaling != "standard":
            scale = np.ones_like(mean)
        covariance = (self.products - np.outer(mean, sums.total)) / scale / scale[:, None]
        values, vectors = eigh(covariance, overwrite_a=True, check_finite=False)
        # Z'y for targets 2 [class] - 1: the constant drops out, since the rows are centred
        products = 2 * (sums.by_class - np.outer(sums.class_weight, mean)) / scale
        projected = vectors.T @ products.T
        return Ridge(
            vectors,
            np.maximum(values, 0),
            projected,
            mean,
            scale,
            sums.center,
            sums.class_weight,
            sums.l2,
            self.task,
        )


def decomposed_by_rows(
    rows: FeatureRows, task: Task, weights: NDArray[np.float32], center: NDArray[np.float32], scaling: Scaling
) -> Ridge:
    """Decompose ZZ' of rows with their weights, float32 [n]: for fewer rows than features."""
    l2 = scaling == "l2"
    values = torch.cat([block for _, block in iter_scaled(rows, center, l2=l2)]).double().numpy()
    # weighted, and with all rows at hand in two passes, which are more exact than the sums of `Standardizer`
    mean = np.average(values, axis=0, weights=weights)
    values -= mean
    scale = np.ones_like(mean)
    if scaling == "standard":
        scale = safe_std(np.average(values**2, axis=0, weights=weights), mean + center)
        values /= scale
    roots = np.sqrt(weights.astype(np.float64))[:, None]
    values *= roots
    eigenvalues, inner = eigh(values @ values.T, overwrite_a=True, check_finite=False)
    spanned = eigenvalues > _RANK * eigenvalues[-1]
    lengths, inner = np.sqrt(eigenvalues[spanned]), inner[:, spanned]
    class_weight = np.bincount(rows.labels, weights, task.out_features).astype(np.float64)
    targets = roots * (_targets(task, rows.labels).numpy() - (2 * class_weight / class_weight.sum() - 1))
    return Ridge(
        vectors=values.T @ (inner / lengths),
        values=lengths**2,
        projected=lengths[:, None] * (inner.T @ targets),
        mean=mean,
        scale=scale,
        center=center,
        class_weight=class_weight,
        l2=l2,
        task=task,
    )


@register_head("ridge", label="ridge", method="linear", streams=True)
def fit_ridge(problem: FitProblem) -> HeadFit:
    """Least squares on the classes.

    The scaling and the penalty, 1 / (2 C) as scikit-learn counts it, are those that score best. Each row is scored as
    if it had been left out; or the validation split is, or groups, where `problem.cv` says so.
    """
    train, val, labels, scoring = problem.train, problem.val, problem.labels, problem.cv
    penalties = _penalties(problem.config.c_values)
    weights = problem.task.weights(labels) if problem.balanced else None
    weights = np.ones(len(labels), dtype=np.float32) if weights is None else weights
    ridge_fits = _fits(train, val, problem.task, weights)
    scored = val if scoring.is_holdout else concat(train, val)
    candidates: list[dict[str, Any]] = []
    margins: list[NDArray[np.float32]] = []
    for scaling in problem.config.scalers:
        predictions_by_penalty = _margins(ridge_fits, scaling, penalties, scored, weights, scoring)
        for penalty, predictions in zip(penalties, predictions_by_penalty, strict=True):
            score = selection_score(problem.task, predictions, scored.labels, balanced=problem.balanced)
            candidates.append({"C": 1 / (2 * penalty), "scaler": scaling, "score": score})
            margins.append(predictions)
    top = max(range(len(candidates)), key=lambda number: (candidates[number]["score"], -candidates[number]["C"]))
    scaling, penalty = candidates[top]["scaler"], 1 / (2 * candidates[top]["C"])
    temperature = fit_temperature(problem.task, margins[top], scored.labels)
    head, without_val = (fit(scaling).head(penalty, temperature) for fit in (ridge_fits.to_all, ridge_fits.to_train))
    selected_by = "leave-one-out on train+val" if _uses_loo(scored, scoring) else scoring.description
    return HeadFit(
        head, without_val, {**candidates[top], "selected by": selected_by, "temperature": temperature}, candidates
    )


class _Fits(Protocol):
    """Fits under one scaling: to all rows of train and validation, to train, and to all but those of a fold."""

    def to_all(self, scaling: Scaling) -> Ridge: ...

    def to_train(self, scaling: Scaling) -> Ridge: ...

    def without(self, fold: FeatureRows, indices: NDArray[np.int64], scaling: Scaling) -> Ridge: ...


def _fits(train: AnyFeatureRows, val: AnyFeatureRows, task: Task, weights: NDArray[np.float32]) -> _Fits:
    """Return the way of fitting that decomposes the smaller matrix."""
    if isinstance(train, FeatureRows) and isinstance(val, FeatureRows) and len(train) + len(val) < train.row_shape[0]:
        return _FitsByRows(train + val, len(train), task, weights)
    return _FitsByProducts(train, val, task, weights)


class _FitsByProducts:
    """Fits whose sums are taken once, and added and taken off."""

    def __init__(self, train: AnyFeatureRows, val: AnyFeatureRows, task: Task, weights: NDArray[np.float32]) -> None:
        self._parts = (train, weights[: len(train)]), (val, weights[len(train) :])
        self._task, self._weights, self._center = task, weights, approximate_mean(train)
        self._summed: dict[bool, tuple[GramSums, GramSums]] = {}

    def to_all(self, scaling: Scaling) -> Ridge:
        train_sums, val_sums = self._products(scaling)
        return (train_sums + val_sums).eigendecompose(scaling)

    def to_train(self, scaling: Scaling) -> Ridge:
        return self._products(scaling)[0].eigendecompose(scaling)

    def without(self, fold: FeatureRows, indices: NDArray[np.int64], scaling: Scaling) -> Ridge:
        train_sums, val_sums = self._products(scaling)
        return (train_sums + val_sums - self._of(fold, self._weights[indices], scaling)).eigendecompose(scaling)

    def _products(self, scaling: Scaling) -> tuple[GramSums, GramSums]:
        l2 = scaling == "l2"  # the other scalings are made of the same sums
        if l2 not in self._summed:
            train_sums, val_sums = (self._of(rows, weights, scaling) for rows, weights in self._parts)
            self._summed[l2] = train_sums, val_sums
        return self._summed[l2]

    def _of(self, rows: AnyFeatureRows, weights: NDArray[np.float32], scaling: Scaling) -> GramSums:
        return GramSums.of(rows, self._task, weights, self._center, l2=scaling == "l2")


class _FitsByRows:
    """Fits to fewer rows than features."""

    def __init__(self, rows: FeatureRows, train: int, task: Task, weights: NDArray[np.float32]) -> None:
        self._rows, self._train, self._task, self._weights = rows, train, task, weights
        self._center = approximate_mean(rows)

    def to_all(self, scaling: Scaling) -> Ridge:
        return self._to(np.arange(len(self._rows)), scaling)

    def to_train(self, scaling: Scaling) -> Ridge:
        return self._to(np.arange(self._train), scaling)

    def without(self, fold: FeatureRows, indices: NDArray[np.int64], scaling: Scaling) -> Ridge:
        return self._to(np.delete(np.arange(len(self._rows)), indices), scaling)

    def _to(self, indices: NDArray[np.int64], scaling: Scaling) -> Ridge:
        subset = FeatureRows(self._rows.features[indices], self._rows.labels[indices])
        return decomposed_by_rows(subset, self._task, self._weights[indices], self._center, scaling)


def _uses_loo(scored: AnyFeatureRows, scoring: CVPlan) -> bool:
    """Return whether rows can be left out one by one: not where groups must be left out whole."""
    return not scoring.is_holdout and isinstance(scored, FeatureRows) and scored.groups is None


def _margins(
    fits: _Fits,
    scaling: Scaling,
    penalties: Sequence[float],
    scored: AnyFeatureRows,
    weights: NDArray[np.float32],
    scoring: CVPlan,
) -> NDArray[np.float32]:
    """Return the predictions, float32 [penalties, n, classes], for rows that each of them was not fitted to."""
    if scoring.is_holdout:
        return fits.to_train(scaling).predictions(scored, penalties)
    assert isinstance(scored, FeatureRows)
    if _uses_loo(scored, scoring):
        return fits.to_all(scaling).predictions(scored, penalties, left_out=weights)
    parts = []
    for _, indices in scoring.splits:
        assert not isinstance(indices, slice)
        fold = FeatureRows(scored.features[indices], scored.labels[indices])
        parts.append((indices, fits.without(fold, indices, scaling).predictions(fold, penalties)))
    predictions = np.empty((len(penalties), len(scored), parts[0][1].shape[2]), dtype=np.float32)
    for indices, predicted in parts:
        predictions[:, indices] = predicted
    return predictions


def _penalties(values: Sequence[float]) -> list[float]:
    """Return the penalties of the values of C and of some between them, the largest first."""
    ordered = np.log(np.array(sorted(values)))
    steps = np.linspace(0, len(ordered) - 1, PENALTIES_PER_STEP * (len(ordered) - 1) + 1)
    return [float(1 / (2 * c)) for c in np.exp(np.interp(steps, np.arange(len(ordered)), ordered))]


def _targets(task: Task, labels: NDArray[np.int64]) -> torch.Tensor:
    """Return what is regressed on, float32 [n, classes]: 1 for the class of a row and -1 for the others."""
    return 2 * task.soft_target(torch.from_numpy(labels)) - 1
