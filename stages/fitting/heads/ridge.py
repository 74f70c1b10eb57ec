"""Ridge regression in closed form: every penalty, and every row left out, from one decomposition.

With z the scaled rows less their mean, y the targets (numbers; 1 for a class or a label, -1 for its absence) less
theirs, and Z'Z = V e V', the coefficients for every penalty p are W(p) = V (V'Z'y / (e + p)). So are the predictions
for rows that were left out one at a time: with a = V'z and the leverage h = 1/n + sum of a_j^2 / (e_j + p), the
residual without the row is the residual divided by 1 - h (Allen's PRESS; Golub, Heath & Wahba 1979). One pass over the
rows gives it for all penalties, and no fold has to be fitted. The idea of scoring all penalties from one decomposition
is that of big_vision's few-shot evaluation.

Z'Z needs sums over the rows alone, so rows may be larger than memory. Where there are fewer rows than features, the
smaller ZZ' = U e U' is decomposed instead: it has the same eigenvalues, and V = Z'U e^-1/2 in the directions that the
rows span. In all others the coefficients are zero.

A target that is not known of some rows is fitted to the others alone, their scaling included: such rows weigh nothing.
Targets that are known of the same rows share a decomposition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from stages.fitting.feature_rows import AnyFeatureRows, FeatureRows, concat
from stages.fitting.folds import CVPlan
from stages.fitting.out_of_fold import OutOfFold, best_on_others, collect
from stages.fitting.problem import FitProblem
from stages.fitting.registry import register_head
from stages.fitting.result import HeadFit
from stages.fitting.scores import fold_scores, logits, selection_score
from stages.fitting.solvers.class_sums import ClassSums, TargetSums, approximate_mean, iter_scaled
from stages.fitting.solvers.symmetric import eigendecomposed, solved_in_place
from stages.fitting.standardize import Scaling, moderated_std
from stages.network.heads.base import Head
from stages.network.heads.linear import LinearHead
from stages.runtime.device import product_device
from stages.runtime.products import product
from stages.tasks.base import Task
from stages.tasks.temperature import ABSENT_CLASS_SCORE, fit_temperature

_CPU = torch.device("cpu")

PENALTIES_PER_STEP = 3
"""Penalties tried for each value of C that is given: the ones between cost nothing."""

DECOMPOSED_UP_TO = 4000
"""Numbers of a row up to which all penalties are compared by one decomposition. Beyond, each is solved for, which takes
a thirtieth of the time, and those far from the best are left out."""

_FIRST_STEP = 8
"""One in so many penalties is solved for at first."""

_PREDICTED_BYTES = 256 << 20
"""Predictions under all penalties that are made at a time; there are a few copies of them."""

_TRIANGLE_COLUMNS = 512
"""Features whose products are summed at a time: those with the features after them are the same."""

_RANK = 1e-12
"""Eigenvalue against the largest up to which a direction is one that the rows do not span."""


@dataclass(frozen=True)
class RidgeTargets:
    """What is regressed on: the outputs of a task, or some of them.

    Attributes
    ----------
    task : Task
    columns : ndarray of int64 [k], optional
        Which outputs; all, if left out.
    """

    task: Task
    columns: NDArray[np.int64] | None = None

    def of(self, labels: NDArray[Any]) -> torch.Tensor:
        """Return the targets of rows, float32 [n, k]: values, or 1 and -1; 0 where they are not known."""
        soft = self.task.soft_target(torch.from_numpy(labels))
        targets = soft if self.task.outputs == "values" else 2 * soft - 1
        if labels.ndim == 1:
            return targets
        targets = targets.nan_to_num(0.0)
        return targets if self.columns is None else targets[:, torch.from_numpy(self.columns)]

    def no_sums(self, labels: NDArray[Any], center: NDArray[np.float32], *, l2: bool) -> ClassSums | TargetSums:
        """Return the sums over no row; one class a row has its own."""
        if labels.ndim == 1:
            return ClassSums.empty(self.task.out_features, center, l2=l2)
        width = self.task.out_features if self.columns is None else len(self.columns)
        return TargetSums.empty(width, center, l2=l2)

    def mean(self, labels: NDArray[Any], weights: NDArray[np.float32]) -> tuple[NDArray[np.float64], Any, float]:
        """Return the weighted mean of the targets, [k], which of them there are, bool [k], and the sum of weights."""
        if labels.ndim == 1:
            class_weight = np.bincount(labels, weights, self.task.out_features).astype(np.float64)
            return 2 * class_weight / class_weight.sum() - 1, class_weight > 0, float(class_weight.sum())
        targets = self.of(labels).numpy()
        weight = max(float(weights.sum(dtype=np.float64)), float(np.finfo(np.float32).tiny))
        return weights.astype(np.float64) @ targets / weight, np.ones(targets.shape[1], dtype=bool), weight


@dataclass(frozen=True)
class Ridge:
    """Ridge regression, decomposed: every penalty is a division away.

    Attributes
    ----------
    vectors, values : ndarray of float64 [d, r] and [r]
        Eigenvectors and eigenvalues of Z'Z.
    projected : ndarray of float64 [r, k]
        V'Z'y.
    mean, scale : ndarray of float64 [d]
        z = (x - centre - mean) / scale for rows x as they are cached; (x / |x| - mean) for l2.
    center : ndarray of float32 [d]
    target_mean : ndarray of float64 [k]
    present : ndarray of bool [k]
        The targets that rows have; a class without a row is never predicted.
    weight : float
        Sum of the rows' weights.
    l2 : bool
    targets : RidgeTargets
    device : torch.device
        Where predictions are computed.
    """

    vectors: NDArray[np.float64]
    values: NDArray[np.float64]
    projected: NDArray[np.float64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    center: NDArray[np.float32]
    target_mean: NDArray[np.float64]
    present: NDArray[np.bool_]
    weight: float
    l2: bool
    targets: RidgeTargets
    device: torch.device = _CPU

    def coefficients(self, penalty: float) -> NDArray[np.float64]:
        """Return the coefficients for scaled rows, [d, k]."""
        return np.asarray(self.vectors @ (self.projected / (self.values[:, None] + penalty)))

    def head(self, penalty: float, temperature: float = 1.0) -> LinearHead:
        """Return scaling and model as one linear head."""
        weight, bias = self.coefficients(penalty).T / temperature, self.target_mean / temperature
        bias = np.where(self.present, bias, ABSENT_CLASS_SCORE)
        if self.l2:  # the mean is that of rows of length 1, which the head makes itself
            return LinearHead.from_coefficients(weight, bias, self.mean, None, l2=True, binary=False)
        return LinearHead.from_coefficients(weight, bias, self.mean + self.center, self.scale, binary=False)

    def predictions(
        self, rows: AnyFeatureRows, penalties: Sequence[float], left_out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the predicted targets, float32 [penalties, n, k].

        Parameters
        ----------
        left_out : ndarray of float32 [n], optional
            Weights with which these very rows were fitted: each is then predicted as if it had been left out.
        """
        predictions = np.empty((len(penalties), len(rows), len(self.target_mean)), dtype=np.float32)
        device = self.device
        basis = torch.from_numpy((self.vectors / self.scale[:, None]).astype(np.float32)).to(device)
        shift = torch.from_numpy(self.mean.astype(np.float32)[None]).to(device) @ basis
        inverses = (1 / (self.values[:, None] + np.array(penalties))).astype(np.float32)
        solutions = (self.projected[:, None, :] * inverses[:, :, None]).astype(np.float32)
        inverse = torch.from_numpy(inverses).to(device)
        # of rows that are all the same there is no direction, and `reshape` with -1 has no answer
        joined = torch.from_numpy(solutions).flatten(1).to(device)
        offset = torch.from_numpy(self.target_mean.astype(np.float32)).to(device)
        step = max(_PREDICTED_BYTES // max(joined.shape[1] * joined.itemsize, 1), 1)
        pieces = (
            piece
            for places, block in iter_scaled(rows, self.center, l2=self.l2, device=device)
            for piece in zip(np.split(places, range(step, len(places), step)), torch.split(block, step), strict=True)
        )
        for indices, block in pieces:
            projected_rows = product(block, basis) - shift
            predicted = product(projected_rows, joined).view(len(projected_rows), len(penalties), -1) + offset
            if left_out is not None:
                leverage = product(projected_rows.square_(), inverse) + 1 / self.weight
                leverage *= torch.from_numpy(left_out[indices]).to(device)[:, None]
                targets = self.targets.of(rows.labels[indices]).to(device)[:, None]
                predicted = targets - (targets - predicted) / (1 - leverage).clamp_min(1e-6)[:, :, None]
            predictions[:, indices] = predicted.transpose(0, 1).cpu().numpy()
        return predictions


NormalEquations = tuple[NDArray[np.float64], NDArray[np.float64]]
"""The lower triangle of Z'Z, float64 [d, d], and Z'y, float64 [d, k]."""


@dataclass(frozen=True)
class GramSums:
    """Sums over rows, and the products of their features, of which Z'Z is made.

    Attributes
    ----------
    sums : ClassSums or TargetSums
    products : ndarray of float64 [d, d]
        The lower triangle; what stands above it is part of them or nothing.
    targets : RidgeTargets
    device : torch.device
        Where what is made of them is computed.
    """

    sums: ClassSums | TargetSums
    products: NDArray[np.float64]
    targets: RidgeTargets
    device: torch.device = _CPU

    @classmethod
    def of(
        cls,
        rows: AnyFeatureRows,
        targets: RidgeTargets,
        weights: NDArray[np.float32],
        center: NDArray[np.float32],
        *,
        l2: bool,
        device: torch.device = _CPU,
    ) -> GramSums:
        """Sum rows with their weights, float32 [n]: blocks in float32, and their sums in float64."""
        sums = targets.no_sums(rows.labels, center, l2=l2)
        products = torch.zeros(len(center), len(center), dtype=torch.float64, device=device)
        for indices, block in iter_scaled(rows, center, l2=l2, device=device):
            labels = rows.labels[indices]
            labels = labels if isinstance(sums, ClassSums) else targets.of(labels).numpy()
            weighted = sums.add(block, labels, weights[indices])
            _add_triangle(products, weighted, block)
        return cls(sums, products.cpu().numpy(), targets, device)

    def __add__(self, other: GramSums) -> GramSums:
        """Return the sums over the rows of both."""
        return replace(self, sums=self.sums + other.sums, products=self.products + other.products)  # type: ignore[operator]

    def __sub__(self, other: GramSums) -> GramSums:
        """Return the sums over the rows that `other` lacks."""
        return replace(self, sums=self.sums - other.sums, products=self.products - other.products)  # type: ignore[operator]

    def eigendecompose(self, scaling: Scaling, least: float = 0.0) -> Ridge:
        """Decompose Z'Z of the rows that were summed, as exactly as penalties from the `least` on need it."""
        covariance, of_targets = self.normal_equations(scaling)
        values, vectors = eigendecomposed(covariance, least, self.device)
        return self._ridge(scaling, vectors, np.maximum(values, 0), vectors.T @ of_targets)

    def solve(self, scaling: Scaling, penalty: float, equations: NormalEquations | None = None) -> Ridge:
        """Return the fit of one penalty, which takes a tenth of the time of a decomposition for all.

        Its only penalty is 0. The `equations` are made where they are not given.
        """
        covariance, of_targets = self.normal_equations(scaling) if equations is None else equations
        raised = covariance if equations is None else covariance.copy()
        raised.flat[:: len(raised) + 1] += penalty
        coefficients = solved_in_place(raised, of_targets, self.device)
        del raised
        if coefficients is None:  # sums in float32 of far larger numbers than the penalty: what is negative is nothing
            coefficients = self.eigendecompose(scaling).coefficients(penalty)
        # as decomposed into one direction a target, so that the coefficients are the directions
        ones = np.ones(coefficients.shape[1])
        return self._ridge(scaling, coefficients, ones, np.eye(len(ones)))

    def normal_equations(self, scaling: Scaling) -> NormalEquations:
        """Return the lower triangle of Z'Z, [d, d], and Z'y, [d, k]."""
        mean, scale = self._scaled_by(scaling)
        covariance, by = torch.from_numpy(self.products).clone(), torch.from_numpy(scale)
        covariance.addr_(torch.from_numpy(mean), torch.from_numpy(self.sums.total), alpha=-1)
        covariance.div_(by).div_(by[:, None])
        return covariance.numpy(), np.ascontiguousarray((self.sums.target_products(mean) / scale).T)

    def _scaled_by(self, scaling: Scaling) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        mean, scale = self.sums.standardization()
        return mean, scale if scaling == "standard" else np.ones_like(mean)

    def _ridge(
        self,
        scaling: Scaling,
        vectors: NDArray[np.float64],
        values: NDArray[np.float64],
        projected: NDArray[np.float64],
    ) -> Ridge:
        sums = self.sums
        mean, scale = self._scaled_by(scaling)
        return Ridge(
            vectors=vectors,
            values=values,
            projected=projected,
            mean=mean,
            scale=scale,
            center=sums.center,
            target_mean=sums.target_mean,
            present=sums.present,
            weight=sums.weight,
            l2=sums.l2,
            targets=self.targets,
            device=self.device,
        )


def _add_triangle(products: torch.Tensor, weighted: torch.Tensor, block: torch.Tensor) -> None:
    """Add the lower triangle of weighted' @ block, [d, d], to float64 sums, some features at a time."""
    for start in range(0, len(products), _TRIANGLE_COLUMNS):
        stop = min(start + _TRIANGLE_COLUMNS, len(products))
        products[start:stop, :stop] += product(weighted[:, start:stop].T, block[:, :stop])


def decomposed_by_rows(
    rows: FeatureRows,
    targets: RidgeTargets,
    weights: NDArray[np.float32],
    center: NDArray[np.float32],
    scaling: Scaling,
    device: torch.device = _CPU,
) -> Ridge:
    """Decompose ZZ' of rows with their weights, float32 [n]: for fewer rows than features."""
    l2 = scaling == "l2"
    values = torch.cat([block for _, block in iter_scaled(rows, center, l2=l2)]).double().numpy()
    # weighted, and with all rows at hand in two passes, which are more exact than the sums of `Standardizer`
    mean = np.average(values, axis=0, weights=weights) if weights.any() else np.zeros(values.shape[1])
    values -= mean
    scale = np.ones_like(mean)
    if scaling == "standard" and weights.any():
        variance = np.average(values**2, axis=0, weights=weights)
        scale = moderated_std(variance, mean + center, float(weights.sum(dtype=np.float64)))
        values /= scale
    roots = np.sqrt(weights.astype(np.float64))[:, None]
    values *= roots
    sent = torch.from_numpy(values).to(device)
    eigenvalues, inner = eigendecomposed((sent @ sent.T).cpu().numpy(), device=device)
    spanned = eigenvalues > _RANK * eigenvalues[-1]
    lengths, inner = np.sqrt(eigenvalues[spanned]), inner[:, spanned]
    target_mean, present, weight = targets.mean(rows.labels, weights)
    deviations = roots * (targets.of(rows.labels).numpy() - target_mean)
    return Ridge(
        vectors=values.T @ (inner / lengths),
        values=lengths**2,
        projected=lengths[:, None] * (inner.T @ deviations),
        mean=mean,
        scale=scale,
        center=center,
        target_mean=target_mean,
        present=present,
        weight=weight,
        l2=l2,
        targets=targets,
        device=device,
    )


@register_head(
    "ridge",
    label="ridge",
    method="linear",
    streams=True,
    tasks=("single_label", "multi_label", "regression"),
    default_for=("regression",),
    cost=2.5,
)
def fit_ridge(problem: FitProblem) -> HeadFit:
    """Least squares on classes, labels or numbers.

    The scaling and the penalty, 1 / (2 C) as scikit-learn counts it, are those that score best. Each row is scored as
    if it had been left out; or the validation split is, or groups, where `problem.cv` says so.
    """
    fits = RidgeFits(problem, problem.train, problem.val)
    choice = choose_penalty(problem, (RidgeVariant(fits, name, {"scaler": name}) for name in problem.config.scalers))
    scaling = choice.settings["scaler"]

    def margins(part: FitProblem, settings: dict[str, Any], penalty: float) -> NDArray[np.float32]:
        return logits(RidgeFits(part, part.train, part.val).to_train(settings["scaler"], penalty), part.val)

    fold = partial(fold_ridge, problem, choice, margins)

    def finish() -> HeadFit:
        head = fits.to_all(scaling, choice.penalty, choice.temperature)
        without_val = fits.to_train(scaling, choice.penalty, choice.temperature)
        return choice.head_fit(head, without_val, fold)

    return HeadFit.deferred(problem, choice.candidates, finish, fold) if problem.deferred else finish()


def fold_ridge(
    problem: FitProblem,
    choice: RidgeChoice,
    margins: Callable[[FitProblem, dict[str, Any], float], NDArray[np.float32]],
) -> OutOfFold | None:
    """Return the margins out of folds, each fold's by the variant and penalty that are best on the others.

    Parameters
    ----------
    problem : FitProblem
    choice : RidgeChoice
    margins : callable
        From a problem, the settings of a variant and a penalty to the margins of validation, fitted to train.
    """
    if not problem.divisions:
        return None
    outputs = [
        [
            margins(problem.part(*fold), *choice.tried[pick])
            for pick, fold in zip(best_on_others(scores), plan.splits, strict=True)
        ]
        for scores, plan in zip(choice.fold_scores, problem.divisions, strict=True)
    ]
    return collect(problem, outputs, calibrate=problem.task.outputs == "logits")


@dataclass(frozen=True)
class RidgeVariant:
    """Rows under one scaling, for which penalties are to be compared.

    Attributes
    ----------
    fits : RidgeFits
    scaling : {"none", "standard", "l2"}
    settings : dict
        What a reader of the result knows it by.
    """

    fits: RidgeFits
    scaling: Scaling
    settings: dict[str, Any]


@dataclass(frozen=True)
class RidgeChoice:
    """The variant and the penalty that score best.

    Attributes
    ----------
    settings : dict
    penalty, temperature : float
    selected_by : str
    candidates : list of dict
    tried : list of (dict, float)
        The settings of a variant and a penalty, the stronger one first.
    fold_scores : list of ndarray [tried, folds]
        What they score on each fold, for each division of the problem.
    """

    settings: dict[str, Any]
    penalty: float
    temperature: float
    selected_by: str
    candidates: list[dict[str, Any]]
    tried: list[tuple[dict[str, Any], float]]
    fold_scores: list[NDArray[np.float64]]

    def head_fit(self, head: Head, without_val: Head, fold: Callable[[], OutOfFold | None]) -> HeadFit:
        """Return the heads that were fitted so, and how they were found."""
        settings = {**self.settings, "selected by": self.selected_by}
        return HeadFit(head, without_val, settings, self.candidates, fold=fold)


def choose_penalty(problem: FitProblem, variants: Iterable[RidgeVariant], *, c_ratio: float = 1.0) -> RidgeChoice:
    """Return what scores best of some variants, each under all penalties: those of so many times the values of C."""
    penalties, scoring = _penalties([c_ratio * c for c in problem.config.c_values]), problem.cv
    candidates: list[dict[str, Any]] = []
    best: tuple[tuple[float, float], int, NDArray[np.float32]] | None = None
    selected_by, labels = scoring.description, problem.labels
    tried: list[tuple[dict[str, Any], float]] = []
    scores_by_division: list[list[list[float]]] = [[] for _ in problem.divisions]
    for variant in variants:
        scored = variant.fits.scored(scoring)
        selected_by = "leave-one-out on train+val" if _uses_loo(scored, scoring) else scoring.description
        labels = scored.labels
        left_out: Iterable[NDArray[np.float32]] = ()
        compared: Iterable[tuple[float, NDArray[np.float32]]]
        if scoring.is_holdout and not problem.divisions and variant.fits.are_wide:
            compared = _promising(problem, variant, penalties)
        else:
            left_out = variant.fits.left_out(variant.scaling, penalties, scoring)
            compared = zip(penalties, left_out, strict=True)
        for penalty, predictions in compared:
            score = selection_score(problem.task, predictions, labels, margins=True)
            candidates.append({"C": 1 / (2 * penalty) / c_ratio, **variant.settings, "score": score})
            rank = (score, -candidates[-1]["C"])
            if best is None or rank > best[0]:
                best = rank, len(candidates) - 1, predictions
        tried += [(variant.settings, penalty) for penalty in penalties]
        for scores_of, plan in zip(scores_by_division, problem.divisions, strict=True):
            # one by one rows are left out in the same way whatever the folds
            if plan is not scoring and not (_uses_loo(scored, scoring) and _uses_loo(scored, plan)):
                left_out = variant.fits.left_out(variant.scaling, penalties, plan)
            folds = [fold for _, fold in plan.splits]
            scores_of += [
                fold_scores(problem.task, rows_out, problem.labels, folds, margins=True) for rows_out in left_out
            ]
    assert best is not None
    _, number, margins = best
    settings = dict(candidates[number])
    temperature = fit_temperature(problem.task, margins, labels)
    if problem.task.outputs == "logits":
        settings["temperature"] = temperature
    penalty = 1 / (2 * c_ratio * settings["C"])
    order = sorted(range(len(tried)), key=lambda number: -tried[number][1])  # of equals the largest penalty
    in_order = [tried[number] for number in order], [np.array(scores)[order] for scores in scores_by_division]
    return RidgeChoice(settings, penalty, temperature, selected_by, candidates, *in_order)


def _promising(
    problem: FitProblem, variant: RidgeVariant, penalties: Sequence[float]
) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """Yield some of the penalties with the predictions for validation: every eighth, then ever nearer to the best."""
    scores: dict[int, float] = {}
    numbers, step = list(range(0, len(penalties), _FIRST_STEP)), _FIRST_STEP
    while step:
        for number in numbers:
            predictions = variant.fits.held_out(variant.scaling, penalties[number])
            scores[number] = selection_score(problem.task, predictions, problem.val.labels, margins=True)
            yield penalties[number], predictions
        step //= 2
        best = max(scores, key=lambda number: (scores[number], -number))  # of equals the largest penalty
        near = (best - step, best + step)
        numbers = [number for number in near if 0 <= number < len(penalties) and number not in scores]


class RidgeFits:
    """Fits of all targets: those that are known of the same rows, and weigh the same, by one decomposition.

    Parameters
    ----------
    problem : FitProblem
    train, val : FeatureRows or StreamedFeatureRows
        The rows of the problem, or what was made of them.
    """

    def __init__(self, problem: FitProblem, train: AnyFeatureRows, val: AnyFeatureRows) -> None:
        self._train, self._val, self._out_features = train, val, problem.task.out_features
        groups = _target_groups(problem)
        self._width = train.row_shape[0]
        self._groups = [
            (columns, weights, _fits(train, val, RidgeTargets(problem.task, columns), weights, problem.device))
            for columns, weights in groups
        ]

    def scored(self, scoring: CVPlan) -> AnyFeatureRows:
        """Return the rows that are scored."""
        return self._val if scoring.is_holdout else concat(self._train, self._val)

    def left_out(self, scaling: Scaling, penalties: Sequence[float], scoring: CVPlan) -> NDArray[np.float32]:
        """Return the predictions, float32 [penalties, n, out_features], for rows that were not fitted.

        A target of which nothing is known is 0.
        """
        scored = self.scored(scoring)
        return self._all_columns(
            (columns, _margins(fits, scaling, penalties, scored, weights, scoring))
            for columns, weights, fits in self._groups
        )

    @property
    def are_wide(self) -> bool:
        """Whether rows have so many numbers that each penalty is to be solved for, and there are more rows yet."""
        return self._width > DECOMPOSED_UP_TO and all(isinstance(fits, _FitsByProducts) for *_, fits in self._groups)

    def held_out(self, scaling: Scaling, penalty: float) -> NDArray[np.float32]:
        """Return the predictions, float32 [n, out_features], for validation, which is solved for this penalty alone."""
        of_penalty: NDArray[np.float32] = self._all_columns(
            (columns, fits.one_by_one(scaling, penalty).predictions(self._val, [0.0]))
            for columns, _, fits in self._groups
            if isinstance(fits, _FitsByProducts)
        )[0]
        return of_penalty

    def _all_columns(
        self, parts: Iterator[tuple[NDArray[np.int64] | None, NDArray[np.float32]]]
    ) -> NDArray[np.float32]:
        """Return the predictions of all groups, [penalties, n, out_features], each in its columns."""
        columns, part = next(parts, (None, np.zeros((1, len(self._val), self._out_features), np.float32)))
        if columns is None:
            return part
        predictions = np.zeros((*part.shape[:2], self._out_features), dtype=np.float32)
        predictions[:, :, columns] = part
        for columns, part in parts:
            predictions[:, :, columns] = part
        return predictions

    def to_all(self, scaling: Scaling, penalty: float, temperature: float) -> LinearHead:
        """Return the head that is fitted to train and validation."""
        return self._joined([fits.solved(scaling, penalty, temperature, with_val=True) for *_, fits in self._groups])

    def to_train(self, scaling: Scaling, penalty: float, temperature: float = 1.0) -> LinearHead:
        """Return the head that is fitted to train."""
        return self._joined([fits.solved(scaling, penalty, temperature) for *_, fits in self._groups])

    @property
    def _covers_all(self) -> bool:
        return len(self._groups) == 1 and self._groups[0][0] is None

    def _joined(self, heads: Sequence[LinearHead]) -> LinearHead:
        if self._covers_all:
            return heads[0]
        joined = LinearHead.of_zeros((self._width,), self._out_features, l2=bool(heads and heads[0].config["l2"]))
        with torch.no_grad():
            for (columns, *_), head in zip(self._groups, heads, strict=True):
                joined.output.weight[columns] = head.output.weight
                joined.output.bias[columns] = head.output.bias
        return joined


def _target_groups(problem: FitProblem) -> list[tuple[NDArray[np.int64] | None, NDArray[np.float32]]]:
    """Return columns of the targets, None for all, with the weights of the rows that they share, float32 [n].

    What is known of no row is in no group.
    """
    labels = problem.labels
    weights = problem.task.weights(labels) if problem.balanced else None
    if weights is None:
        weights = np.ones(len(labels), np.float32) if labels.ndim == 1 else (~np.isnan(labels)).astype(np.float32)
    if weights.ndim == 1:
        return [(None, weights)]
    distinct, numbers = np.unique(weights, axis=1, return_inverse=True)
    if distinct.shape[1] == 1 and distinct.any():
        return [(None, np.ascontiguousarray(distinct[:, 0]))]
    return [
        (np.flatnonzero(numbers.reshape(-1) == number), np.ascontiguousarray(distinct[:, number]))
        for number in range(distinct.shape[1])
        if distinct[:, number].any()
    ]


class _Fits(Protocol):
    """Fits under one scaling: to all rows of train and validation, to train, and to all but those of a fold.

    Penalties from the `least` on are compared by them.
    """

    def to_all(self, scaling: Scaling, least: float) -> Ridge: ...

    def to_train(self, scaling: Scaling, least: float) -> Ridge: ...

    def without(self, fold: FeatureRows, indices: NDArray[np.int64], scaling: Scaling, least: float) -> Ridge: ...

    def solved(
        self, scaling: Scaling, penalty: float, temperature: float = 1.0, *, with_val: bool = False
    ) -> LinearHead: ...


def _fits(
    train: AnyFeatureRows,
    val: AnyFeatureRows,
    targets: RidgeTargets,
    weights: NDArray[np.float32],
    device: torch.device,
) -> _Fits:
    """Return the way of fitting that decomposes the smaller matrix, on the device if that pays."""
    rows, width = len(train) + len(val), train.row_shape[0]
    device = product_device(device, rows * width * min(rows, width))
    if isinstance(train, FeatureRows) and isinstance(val, FeatureRows) and len(train) + len(val) < train.row_shape[0]:
        return _FitsByRows(train + val, len(train), targets, weights, device)
    return _FitsByProducts(train, val, targets, weights, device)


class _FitsByProducts:
    """Fits whose sums are taken once, and added and taken off."""

    def __init__(
        self,
        train: AnyFeatureRows,
        val: AnyFeatureRows,
        targets: RidgeTargets,
        weights: NDArray[np.float32],
        device: torch.device = _CPU,
    ) -> None:
        self._device = device
        self._parts = (train, weights[: len(train)]), (val, weights[len(train) :])
        self._targets, self._weights, self._center = targets, weights, approximate_mean(train)
        self._sums: dict[tuple[bool, int], GramSums] = {}
        self._equations: tuple[Scaling, NormalEquations] | None = None

    def to_all(self, scaling: Scaling, least: float) -> Ridge:
        train_sums, val_sums = self._products(scaling)
        return (train_sums + val_sums).eigendecompose(scaling, least)

    def to_train(self, scaling: Scaling, least: float) -> Ridge:
        return self._of_train(scaling).eigendecompose(scaling, least)

    def without(self, fold: FeatureRows, indices: NDArray[np.int64], scaling: Scaling, least: float) -> Ridge:
        train_sums, val_sums = self._products(scaling)
        others = train_sums + val_sums - self._of(fold, self._weights[indices], scaling)
        return others.eigendecompose(scaling, least)

    def solved(
        self, scaling: Scaling, penalty: float, temperature: float = 1.0, *, with_val: bool = False
    ) -> LinearHead:
        self._equations = None
        if not with_val:
            return self._of_train(scaling).solve(scaling, penalty).head(0.0, temperature)
        train_sums, val_sums = self._products(scaling)
        return (train_sums + val_sums).solve(scaling, penalty).head(0.0, temperature)

    def one_by_one(self, scaling: Scaling, penalty: float) -> Ridge:
        """Return the fit to train of one penalty, whose only penalty is 0 then."""
        sums = self._of_train(scaling)
        if self._equations is None or self._equations[0] != scaling:
            self._equations = None  # before the next are made, as they are large
            self._equations = scaling, sums.normal_equations(scaling)
        return sums.solve(scaling, penalty, self._equations[1])

    def _products(self, scaling: Scaling) -> tuple[GramSums, GramSums]:
        return self._summed(scaling, 0), self._summed(scaling, 1)

    def _of_train(self, scaling: Scaling) -> GramSums:
        return self._summed(scaling, 0)

    def _summed(self, scaling: Scaling, part: int) -> GramSums:
        key = (scaling == "l2", part)  # the other scalings are made of the same sums
        if key not in self._sums:
            self._sums[key] = self._of(*self._parts[part], scaling)
        return self._sums[key]

    def _of(self, rows: AnyFeatureRows, weights: NDArray[np.float32], scaling: Scaling) -> GramSums:
        return GramSums.of(rows, self._targets, weights, self._center, l2=scaling == "l2", device=self._device)


class _FitsByRows:
    """Fits to fewer rows than features."""

    def __init__(
        self,
        rows: FeatureRows,
        train: int,
        targets: RidgeTargets,
        weights: NDArray[np.float32],
        device: torch.device = _CPU,
    ) -> None:
        self._rows, self._train, self._targets, self._weights, self._device = rows, train, targets, weights, device
        self._center = approximate_mean(rows)

    def to_all(self, scaling: Scaling, least: float = 0.0) -> Ridge:
        return self._to(np.arange(len(self._rows)), scaling)

    def to_train(self, scaling: Scaling, least: float = 0.0) -> Ridge:
        return self._to(np.arange(self._train), scaling)

    def without(self, fold: FeatureRows, indices: NDArray[np.int64], scaling: Scaling, least: float = 0.0) -> Ridge:
        return self._to(np.delete(np.arange(len(self._rows)), indices), scaling)

    def solved(
        self, scaling: Scaling, penalty: float, temperature: float = 1.0, *, with_val: bool = False
    ) -> LinearHead:
        return (self.to_all(scaling) if with_val else self.to_train(scaling)).head(penalty, temperature)

    def _to(self, indices: NDArray[np.int64], scaling: Scaling) -> Ridge:
        subset = FeatureRows(self._rows.features[indices], self._rows.labels[indices])
        weights = self._weights[indices]
        return decomposed_by_rows(subset, self._targets, weights, self._center, scaling, self._device)


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
        return fits.to_train(scaling, min(penalties)).predictions(scored, penalties)
    assert isinstance(scored, FeatureRows)
    if _uses_loo(scored, scoring):
        return fits.to_all(scaling, min(penalties)).predictions(scored, penalties, left_out=weights)
    parts, least = [], min(penalties)
    for _, indices in scoring.splits:
        assert not isinstance(indices, slice)
        fold = FeatureRows(scored.features[indices], scored.labels[indices])
        parts.append((indices, fits.without(fold, indices, scaling, least).predictions(fold, penalties)))
    predictions = np.empty((len(penalties), len(scored), parts[0][1].shape[2]), dtype=np.float32)
    for indices, predicted in parts:
        predictions[:, indices] = predicted
    return predictions


def _penalties(values: Sequence[float]) -> list[float]:
    """Return the penalties of the values of C and of some between them, the largest first."""
    ordered = np.log(np.array(sorted(values)))
    steps = np.linspace(0, len(ordered) - 1, PENALTIES_PER_STEP * (len(ordered) - 1) + 1)
    return [float(1 / (2 * c)) for c in np.exp(np.interp(steps, np.arange(len(ordered)), ordered))]
