"""The search over C and scaling for models that are fitted along a path, and the head of the setting that is chosen.

Cross-validation goes through joblib: threads here, or whatever backend the caller has chosen with parallel_config,
which may be a cluster (docs/scale.md). So tasks are functions of this module, and large arrays are arguments of their
own, which such a backend sends to its workers once per sweep and not with every task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.model_selection import train_test_split

from stages.fitting.feature_rows import FeatureRows, StreamedFeatureRows
from stages.fitting.folds import CVPlan, Selection
from stages.fitting.out_of_fold import FoldOutputs, OutOfFold, best_on_others, collect, in_places
from stages.fitting.problem import FitProblem
from stages.fitting.result import HeadFit
from stages.fitting.scores import early_stop_margin, fold_scores, selection_score
from stages.fitting.standardize import ScaledRows, Scaling
from stages.network.heads.base import Head
from stages.network.heads.linear import LinearHead
from stages.runtime.device import free_memory
from stages.runtime.float32 import float32_products
from stages.runtime.threads import one_thread_per_fit, single_thread_pool, usable_cores
from stages.tasks.base import Task
from stages.tasks.temperature import ABSENT_CLASS_SCORE, fit_temperature

SUBSAMPLE_FROM = 16_000
"""Training rows from which on all settings are tried on a part of the rows first."""


_SHARED_FROM = 8_000_000
"""Numbers in the rows from which on the matrix products of one fit are shared by all cores."""


FITTING_BYTES = 1 << 30
"""Most bytes of features in float32 that are fitted side by side, unless one fold takes more; in a search more, where
more is free."""


_KEPT_BYTES = 256 << 20
"""Most bytes of what all settings say of rows out of folds that are kept, so that no fold is fitted again for them."""


_COPIED_SHARE = 0.5
"""Share of the free memory up to which many rows are copied in float32; else blocks of them are, again and again."""


_PROBA_ROWS = 2048
"""Rows that are converted at a time for these."""


_LEAST = float(np.finfo(np.float32).tiny)


_PART = 8
"""One in so many rows is in that part."""


_FEW = 5
"""Settings that are all tried on all rows, however many those are."""


class Model(Protocol):
    """What is fitted for one value of C after the other."""

    def fit(self, c: float, *, final: bool = False) -> None:
        """Fit with a value of C; `final` fits are more exact."""

    def scores(self, rows: NDArray[np.float32], places: Selection | None = None) -> NDArray[np.float32]:
        """Return the scores of all classes, [n, classes], for rows as they are given to the model; places as there."""

    def head(self, temperature: float) -> Head:
        """Return scaling and model as one torch head; scores are divided by the temperature."""

    state: Any
    """Where a fit begins: an equal model, given it, goes on."""


class MakeModel(Protocol):
    """What makes models of rows. It must be possible to pickle it."""

    @property
    def room(self) -> int | None:
        """Bytes that models may take together beside their copies of rows; None where that is next to nothing."""

    def __call__(
        self, scaling: Scaling, rows: NDArray[np.float32], labels: NDArray[Any], places: Selection | None = None
    ) -> Model:
        """Return a model, not yet fitted; `places` says which of the rows these are that it was prepared for."""

    def prepared(self, rows: NDArray[np.float32], scalings: Sequence[Scaling]) -> MakeModel:
        """Return it with what models on any part of these rows have in common, which no label is in.

        Sent to another machine, it goes without; asked again, it makes what is missing.
        """

    def bytes_beside_rows(self, count: int) -> int:
        """Return what a model of so many rows takes in memory beside its copy of them, in bytes."""


@dataclass(frozen=True)
class Grid:
    """What is tried.

    Attributes
    ----------
    make : callable
    values : tuple of float
        Of C, increasing.
    scalings : tuple of {"none", "standard", "l2"}
    task : Task
        Scores settings.
    margins : bool
        Whether scores of the models are margins and no logits.
    keeps : bool
        Whether the scores of the rows that are left out are kept of every setting, and not only how good they are.
    """

    make: MakeModel
    values: tuple[float, ...]
    scalings: tuple[Scaling, ...]
    task: Task
    margins: bool = False
    keeps: bool = False

    def score(self, outputs: NDArray[np.floating], targets: NDArray[Any]) -> float:
        """Return how good what a model says of rows is."""
        return selection_score(self.task, outputs, targets, margins=self.margins)

    def should_stop(self, scores: Sequence[float]) -> bool:
        """Return whether the last two of a path's scores are clearly less than its best."""
        best = max(scores)
        return max(scores[-2:]) < best - early_stop_margin(self.task, best)

    @classmethod
    def of(cls, problem: FitProblem, make: MakeModel, *, margins: bool) -> Grid:
        """Return the settings that a problem asks for."""
        values, scalings = tuple(sorted(problem.config.c_values)), problem.config.scalers
        rows = len(problem.train) + len(problem.val)
        output_bytes = len(values) * len(scalings) * rows * problem.task.out_features * np.dtype(np.float32).itemsize
        keeps = len(problem.divisions) > 1 or output_bytes <= _KEPT_BYTES
        return cls(make, values, scalings, problem.task, margins=margins, keeps=keeps)


Setting = tuple[Scaling, float]
"""A scaling, and a value of C."""

Fold = tuple[Selection, Selection]
"""Rows that are fitted to, and rows that are scored."""


class FittedModel(Protocol):
    """A model of one setting that was fitted to some rows, to the end."""

    @property
    def state(self) -> Any:
        """Where another fit may begin."""

    def scores_at(self, selection: Selection) -> NDArray[np.float32]:
        """Return the scores of all classes, [n, classes], for some of the rows."""

    def head(self, temperature: float) -> Head:
        """Return scaling and model as one torch head; scores are divided by the temperature."""


class PathFits(Protocol):
    """The fits of a grid to rows of train and validation: on cores, or side by side on an accelerator."""

    @property
    def grid(self) -> Grid:
        """What is tried."""

    def search(self, cv: CVPlan, seed: int) -> GridSearchResult:
        """Return the scores of settings: the mean of the grid's score over the rows that are held out."""

    def fitted(self, setting: Setting, selections: Sequence[Selection], state: Any) -> list[FittedModel]:
        """Return the models of a setting, fitted to some of the rows each, from where a state says if there is one."""

    def out_of_fold(self, settings: Sequence[Setting], folds: Sequence[Fold]) -> list[NDArray[np.float32]]:
        """Return the scores of the rows that each fold leaves out, by its setting fitted to the others."""


@dataclass(frozen=True)
class FoldPath:
    """How far one fold has come.

    Attributes
    ----------
    scaling : {"none", "standard", "l2"}
    state : object
        Of the model after the last value of C.
    scores : list of float
        One for each value of C so far.
    least : int
        Values of C that are fitted in any case.
    outputs : list of ndarray
        For each value of C what was scored, where the grid keeps it.
    """

    scaling: Scaling
    state: Any = None
    scores: list[float] = field(default_factory=list)
    least: int = 0
    outputs: list[NDArray[np.float32]] = field(default_factory=list)


@dataclass
class GridSearchResult:
    """What was tried on the way to a setting.

    Attributes
    ----------
    candidates : list of dict
        Every setting with its ``score``, and ``rows`` where that is of a part of the rows.
    states : dict
        (scaling, C) -> the state of the model fitted to all of train; empty where folds were fitted.
    fold_scores : dict
        (scaling, C) -> the score of each fold; empty where none were fitted.
    fold_outputs : dict
        (scaling, C) -> the scores of the rows of each fold, where the grid keeps them.
    """

    candidates: list[dict[str, Any]] = field(default_factory=list)
    states: dict[tuple[Scaling, float], Any] = field(default_factory=dict)
    fold_scores: dict[tuple[Scaling, float], list[float]] = field(default_factory=dict)
    fold_outputs: dict[tuple[Scaling, float], FoldOutputs] = field(default_factory=dict)

    @property
    def chosen(self) -> dict[str, Any]:
        """The best setting of those that were scored on all rows; of equals the one with the smallest C."""
        on_all_rows = [candidate for candidate in self.candidates if "rows" not in candidate]
        return max(on_all_rows, key=lambda candidate: (candidate["score"], -candidate["C"]))


@dataclass(frozen=True)
class HostFits:
    """Fits on the cores of the host, side by side where there are several: see `PathFits`.

    Attributes
    ----------
    grid : Grid
    rows : ndarray of float32 [n, d]
        Of train, followed by those of validation, less what `grid.make` takes for their mean.
    labels : ndarray [n, ...]
    """

    grid: Grid
    rows: NDArray[np.float32]
    labels: NDArray[Any]

    def search(self, cv: CVPlan, seed: int) -> GridSearchResult:
        """Return the scores of settings."""
        return search(self.grid, self.rows, self.labels, cv, seed)

    def fitted(self, setting: Setting, selections: Sequence[Selection], state: Any) -> list[FittedModel]:
        """Return the models of a setting: side by side where a fit has one core, else each from where one ended."""
        if self.rows.size < _SHARED_FROM:
            labels = [self.labels[selection] for selection in selections]
            count = _jobs(self.rows, labels, len(selections), self.grid.make)
            with one_thread_per_fit(), single_thread_pool(count, "refit") as pool:
                models = pool.map(partial(_fitted, self.grid.make, setting, self.rows, self.labels, state), selections)
                return [_HostModel(model, self.rows) for model in models]
        found: list[FittedModel] = []
        for selection in selections:
            model = _fitted(self.grid.make, setting, self.rows, self.labels, state, selection)
            state = model.state
            found.append(_HostModel(model, self.rows))
        return found

    def out_of_fold(self, settings: Sequence[Setting], folds: Sequence[Fold]) -> list[NDArray[np.float32]]:
        """Return the scores of the rows that each fold leaves out."""
        labels = [self.labels[fitted] for fitted, _ in folds]
        jobs = _jobs(self.rows, labels, len(folds), self.grid.make)
        with one_thread_per_fit():
            return list(
                Parallel(n_jobs=jobs, prefer="threads")(
                    delayed(_out_of_fold)(self.grid.make, setting, self.rows, self.labels, *fold)
                    for setting, fold in zip(settings, folds, strict=True)
                )
            )


@dataclass(frozen=True)
class _HostModel:
    """A model, and the rows that it may be asked about."""

    model: Model
    rows: NDArray[np.float32]

    @property
    def state(self) -> Any:
        """Where another fit may begin."""
        return self.model.state

    def scores_at(self, selection: Selection) -> NDArray[np.float32]:
        """Return the scores for some of the rows."""
        return self.model.scores(self.rows[selection], selection)

    def head(self, temperature: float) -> Head:
        """Return scaling and model as one torch head."""
        return self.model.head(temperature)


@contextmanager
def _as_one_task() -> Iterator[None]:
    """Fit on one thread where joblib has sent the task, and send no part of it on, as scikit-learn itself would."""
    with one_thread_per_fit(), parallel_config("sequential"), float32_products():
        yield


def fit_along_path(
    problem: FitProblem, make_of: Callable[[NDArray[np.float32]], MakeModel], *, calibrate: bool
) -> HeadFit:
    """Return the head of the best C and scaling of `problem.config`, fitted to all rows and to train alone.

    Parameters
    ----------
    make_of : callable
        From the mean of train, float32 [d], which is taken from all rows, to what makes models of them.
    calibrate : bool
        Whether scores are margins and no logits; then both heads are divided by a temperature.
    """
    fits: PathFits | None = None
    if problem.device.type == "cuda" or not _may_be_copied(problem):
        from stages.fitting.solvers.device_search import device_fits  # what fits on cores does without

        fits = device_fits(problem, make_of, calibrate=calibrate)
    if fits is None:
        rows = _float32(*problem.in_memory)
        center = rows[: len(problem.train)].mean(axis=0, dtype=np.float64).astype(np.float32)
        rows -= center
        with threads_for(rows) if problem.cv.is_holdout else one_thread_per_fit():  # as where it is made again
            make = make_of(center).prepared(rows, problem.config.scalers)
        fits = HostFits(Grid.of(problem, make, margins=calibrate), rows, problem.labels)
    result = fits.search(problem.cv, problem.seed)
    refit = partial(refit_best, problem, fits, result, calibrate=calibrate)
    if problem.deferred:
        fold = partial(_fold, problem, fits, result, None, calibrate=calibrate)
        return HeadFit.deferred(problem, result.candidates, lambda: refit()[0], fold)
    fitted, margins = refit()
    return replace(fitted, fold=partial(_fold, problem, fits, result, margins, calibrate=calibrate))


def _may_be_copied(problem: FitProblem) -> bool:
    """Return whether there is room for a copy of all rows in float32, which fits on cores are made to."""
    if isinstance(problem.train, StreamedFeatureRows):
        return False
    numbers = len(problem.labels) * math.prod(problem.train.row_shape)
    copied = numbers * np.dtype(np.float32).itemsize
    return not problem.cv.is_holdout or copied <= _COPIED_SHARE * free_memory(torch.device("cpu"))


def _fold(
    problem: FitProblem,
    fits: PathFits,
    result: GridSearchResult,
    margins: FoldOutputs | None,
    *,
    calibrate: bool,
) -> OutOfFold | None:
    """Return the scores of all rows out of folds, each fold's by the setting that is best on the others.

    `margins` are those of the chosen setting out of the folds of `problem.cv`, where they are known.
    """
    if not problem.divisions:
        return None
    labels, outputs, first = problem.labels, [], problem.divisions[0]
    searched = result if first is problem.cv else fits.search(first, problem.seed)
    settings = sorted(searched.fold_scores, key=lambda setting: setting[1])  # of equals the smallest C
    chosen = (result.chosen["scaler"], result.chosen["C"])
    for plan in problem.divisions:
        if plan is first:
            scores = [searched.fold_scores[setting] for setting in settings]
            if searched.fold_outputs:
                picks = enumerate(best_on_others(np.array(scores)))
                outputs.append([searched.fold_outputs[settings[pick]][number] for number, pick in picks])
                continue
        else:  # rows out of other folds, put together anew: no search for each division
            folds = [scored for _, scored in plan.splits]
            scores = [
                fold_scores(
                    problem.task,
                    in_places(first, searched.fold_outputs[setting]),
                    labels,
                    folds,
                    margins=fits.grid.margins,
                )
                for setting in settings
            ]
        picked = [settings[pick] for pick in best_on_others(np.array(scores))]
        known = margins if plan is problem.cv else None
        unknown = [number for number, setting in enumerate(picked) if known is None or setting != chosen]
        fitted = fits.out_of_fold([picked[number] for number in unknown], [plan.splits[number] for number in unknown])
        of_plan = dict(enumerate(known or ()))
        of_plan.update(zip(unknown, fitted, strict=True))
        outputs.append([of_plan[number] for number in range(len(picked))])
    return collect(problem, outputs, calibrate=calibrate)


def cross_validate(
    problem: FitProblem, make: Callable[[dict[str, Any]], Any], grid: Mapping[str, Sequence[Any]]
) -> HeadFit:
    """Return the head of a linear classifier of scikit-learn, with the best of a grid of settings.

    Each setting is scored, under each of the scalings of `problem.config`, on the rows that `problem.cv` leaves out;
    of equals the first is taken. It is fitted to all rows and to train alone, and its margins, divided by a
    temperature, are the logits.

    Parameters
    ----------
    make : callable
        From one of the settings, by name, to a classifier with ``fit``, ``classes_``, ``coef_`` and ``intercept_``.
    grid : mapping of str to sequence
        The values of each setting; empty, where there is nothing to choose but the scaling.
    """
    rows, labels = _float32(*problem.in_memory), problem.labels
    width = problem.task.out_features
    settings = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    candidates: list[dict[str, Any]] = [
        {**setting, "scaler": scaling} for scaling in problem.config.scalers for setting in settings
    ]

    def margins_of(plan: CVPlan) -> tuple[list[list[NDArray[np.float32]]], NDArray[np.float64]]:
        """Return the margins of each candidate out of each fold, and their scores, [candidates, folds]."""
        folds = plan.splits
        jobs = _jobs(rows, [labels[fitted] for fitted, _ in folds], len(candidates) * len(folds))
        with one_thread_per_fit():
            heads = Parallel(n_jobs=jobs, prefer="threads")(
                delayed(_fit_estimator)(make, candidate, rows, labels, width, fitted=fitted)
                for candidate in candidates
                for fitted, _ in folds
            )
        heads_by_candidate = [heads[start : start + len(folds)] for start in range(0, len(heads), len(folds))]
        margins = [
            [_margins_of(head, rows[scored]) for head, (_, scored) in zip(fold_heads, folds, strict=True)]
            for fold_heads in heads_by_candidate
        ]
        scores = [
            [
                selection_score(problem.task, part, labels[scored], margins=True)
                for part, (_, scored) in zip(parts, folds, strict=True)
            ]
            for parts in margins
        ]
        return margins, np.array(scores)

    margins, scores = margins_of(problem.cv)

    def fold() -> OutOfFold | None:
        if not problem.divisions:
            return None
        outputs = []
        for plan in problem.divisions:
            of_plan, scores_of_plan = (margins, scores) if plan is problem.cv else margins_of(plan)
            outputs.append([of_plan[pick][number] for number, pick in enumerate(best_on_others(scores_of_plan))])
        return collect(problem, outputs, calibrate=True)

    true = [labels[scored] for _, scored in problem.cv.splits]
    for candidate, of_folds in zip(candidates, scores, strict=True):
        candidate["score"] = float(np.mean(of_folds))
    best = max(range(len(candidates)), key=lambda number: candidates[number]["score"])
    temperature = fit_temperature(problem.task, np.concatenate(margins[best]), np.concatenate(true))
    head, train_only = (
        _fit_estimator(make, candidates[best], rows[:size], labels[:size], width, temperature)
        for size in (len(rows), len(problem.train))
    )
    best_settings = {**candidates[best], "selected by": problem.cv.description, "temperature": temperature}
    return HeadFit(head, train_only, best_settings, candidates, fold=fold)


def cross_val_proba(
    make_of: Callable[[NDArray[np.float32]], MakeModel],
    values: Sequence[float],
    features: NDArray[Any],
    labels: NDArray[np.int64],
    folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> NDArray[np.float32]:
    """Return the probabilities, float32 [n, classes], that standardized rows get from models not fitted to them.

    C goes upwards, each fold from where it was, while the log loss over all left-out rows falls: the probabilities
    matter, and not only which one is highest.

    Parameters
    ----------
    make_of : callable
        From the mean of the rows that are fitted, float32 [d], to what makes models of them, whose scores are logits.
    values : sequence of float
        Of C, increasing.
    features : ndarray [n, d]
        Float16 or float32; rows become float32 for the folds that are fitted at a time, `FITTING_BYTES` of them.
    labels : ndarray of int64 [n]
    folds : sequence of (rows fitted, rows left out)

    Returns
    -------
    ndarray of float32 [n, classes]
        0 exactly where the class was not among the rows that were fitted, and only there.
    """
    largest = max(len(fitted) for fitted, _ in folds) * features.shape[1] * np.dtype(np.float32).itemsize
    jobs = fits_side_by_side(largest, len(folds))
    states: list[Any] = [None] * len(folds)
    best, lowest = np.zeros((0, 0), np.float32), np.inf
    for c in values:
        with one_thread_per_fit():
            fold_results = Parallel(n_jobs=jobs, prefer="threads")(
                delayed(_fold_proba)(make_of, c, state, features, labels, fold)
                for state, fold in zip(states, folds, strict=True)
            )
        states = [state for state, _ in fold_results]
        probabilities = np.zeros((len(labels), fold_results[0][1].shape[1]), np.float32)
        for (_, fold_probabilities), (_, left_out) in zip(fold_results, folds, strict=True):
            probabilities[left_out] = fold_probabilities
        own_probabilities = probabilities[np.arange(len(labels)), labels]
        loss = -np.log(own_probabilities[own_probabilities > 0]).mean() if (own_probabilities > 0).any() else np.inf
        if loss >= lowest:
            break
        best, lowest = probabilities, loss
    return best


@_as_one_task()
def _fold_proba(
    make_of: Callable[[NDArray[np.float32]], MakeModel],
    c: float,
    state: Any,
    features: NDArray[Any],
    labels: NDArray[np.int64],
    fold: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> tuple[Any, NDArray[np.float32]]:
    """Go on with a fold at another C; return the state, and the probabilities of the rows that were left out."""
    fitted, left_out = fold
    rows = np.empty((len(fitted), features.shape[1]), np.float32)
    for start in range(0, len(fitted), _PROBA_ROWS):
        rows[start : start + _PROBA_ROWS] = features[fitted[start : start + _PROBA_ROWS]]
    center = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows -= center
    model = make_of(center)("standard", rows, labels[fitted])
    model.state = state if state is not None else model.state
    model.fit(c)
    blocks = (left_out[start : start + _PROBA_ROWS] for start in range(0, len(left_out), _PROBA_ROWS))
    scores = np.concatenate([model.scores(features[block].astype(np.float32) - center) for block in blocks])
    probabilities = softmax(scores.astype(np.float64), axis=1).astype(np.float32)
    known = np.isin(np.arange(scores.shape[1]), labels[fitted])
    return model.state, np.where(known, np.maximum(probabilities, _LEAST), 0).astype(np.float32)


def _fit_estimator(
    make: Callable[[dict[str, Any]], Any],
    candidate: Mapping[str, Any],
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    width: int,
    temperature: float = 1.0,
    fitted: Selection = slice(None),
) -> LinearHead:
    """Return a linear classifier of scikit-learn, fitted to some of the rows under a scaling, as a head."""
    rows, labels = rows[fitted], labels[fitted]
    scaling: Scaling = candidate["scaler"]
    scaled = ScaledRows.fit(rows, scaling, np.zeros(rows.shape[1], np.float32))
    estimator = make({name: value for name, value in candidate.items() if name not in ("scaler", "score")})
    estimator.fit(scaled.sample(torch.arange(len(rows))).numpy(), labels)
    weight, bias = estimator.coef_, estimator.intercept_
    if len(weight) == 1:  # of two classes, the second against the first
        weight, bias = np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros_like(bias), bias])
    weights, biases = np.zeros((width, rows.shape[1])), np.full(width, ABSENT_CLASS_SCORE)
    weights[estimator.classes_], biases[estimator.classes_] = weight / temperature, bias / temperature
    return LinearHead.from_coefficients(
        weights, biases, scaled.offset.numpy(), scaled.scale.numpy(), l2=scaling == "l2"
    )


@torch.inference_mode()
def _margins_of(head: LinearHead, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(head.eval()(torch.from_numpy(rows)).numpy())


def _float32(train: FeatureRows, val: FeatureRows) -> NDArray[np.float32]:
    """Return the features of both splits in one new array, converted by torch, which takes a tenth of NumPy's time."""
    rows = np.empty((len(train) + len(val), *train.row_shape), dtype=np.float32)
    for part, split_rows in ((rows[: len(train)], train), (rows[len(train) :], val)):
        torch.from_numpy(part).copy_(torch.from_numpy(split_rows.features))
    return rows


def search(grid: Grid, rows: NDArray[np.float32], labels: NDArray[np.int64], cv: CVPlan, seed: int) -> GridSearchResult:
    """Return the scores of settings: the mean of the grid's score over the rows that are held out."""
    result = GridSearchResult()
    if not cv.is_holdout:
        with one_thread_per_fit():
            result.fold_scores, result.fold_outputs = _cross_validated(grid, rows, labels, cv)
        for scaling in grid.scalings:
            scores_by_value = {c: scores for (name, c), scores in result.fold_scores.items() if name == scaling}
            result.candidates += [
                {"C": c, "scaler": scaling, "score": float(np.mean(scores))} for c, scores in scores_by_value.items()
            ]
        return result
    with threads_for(rows):
        _hold_out(result, grid, rows, labels, cv, seed)
    return result


def _hold_out(
    result: GridSearchResult,
    grid: Grid,
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    cv: CVPlan,
    seed: int,
) -> None:
    """Fill `result` with scores on the rows held out; of many rows, after all settings were tried on a part of them."""
    (fitted, scored), *_ = cv.splits
    train, train_labels, held_out = rows[fitted], labels[fitted], (rows[scored], labels[scored])
    part = searched_part(grid, len(train), seed)
    if part is None:
        for scaling in grid.scalings:
            model = grid.make(scaling, train, train_labels, fitted)
            for value, score, state, _ in _fit_path(model, grid, *held_out, places=scored):
                result.candidates.append({"C": value, "scaler": scaling, "score": score})
                result.states[scaling, value] = state
            del model  # before there is another one
        return
    subset, subset_labels = train[part], train_labels[part]
    for scaling in grid.scalings:
        model = grid.make(scaling, subset, subset_labels)
        for value, score, _, _ in _fit_path(model, grid, *held_out):
            result.candidates.append({"C": value, "scaler": scaling, "score": score, "rows": len(part)})
        del model
    del subset
    for scaling, start in surviving_scalers(grid, result.candidates).items():
        model = grid.make(scaling, train, train_labels)
        for value, score, state in _hill_climb(model, grid, grid.values.index(start), *held_out):
            result.candidates.append({"C": value, "scaler": scaling, "score": score})
            result.states[scaling, value] = state
        del model


def refit_best(
    problem: FitProblem, fits: PathFits, search_result: GridSearchResult, *, calibrate: bool
) -> tuple[HeadFit, FoldOutputs | None]:
    """Return the head of the best setting, fitted to all rows and to train alone.

    Where the scores are margins and no logits (`calibrate`), both are divided by a temperature. That is fitted to
    margins out of folds, which are returned too, where there are folds.
    """
    setting, labels, cv = (search_result.chosen["scaler"], search_result.chosen["C"]), problem.labels, problem.cv
    parts = [slice(0, len(problem.train)), slice(0, len(labels))]
    without_val, model = fits.fitted(setting, parts, search_result.states.get(setting))
    settings = {**search_result.chosen, "selected by": cv.description}
    margins: FoldOutputs | None = None
    if calibrate:
        if cv.is_holdout:
            of_all = without_val.scores_at(cv.splits[0][1])
        else:
            kept = search_result.fold_outputs.get(setting)
            margins = fits.out_of_fold([setting] * len(cv.splits), cv.splits) if kept is None else kept
            of_all = np.concatenate(margins)
        true = np.concatenate([labels[scored] for _, scored in cv.splits])
        settings["temperature"] = fit_temperature(problem.task, of_all, true)
    temperature = settings.get("temperature", 1.0)
    heads = model.head(temperature), without_val.head(temperature)
    return HeadFit(*heads, settings, search_result.candidates), margins


def fits_side_by_side(fit_bytes: int, count: int, room: int = FITTING_BYTES) -> int:
    """Return how many of `count` fits go side by side, where each takes so many bytes: one at least."""
    return max(1, min(count, usable_cores(), room // max(fit_bytes, 1)))


def _jobs(
    rows: NDArray[np.float32],
    fitted: Sequence[NDArray[Any]],
    count: int,
    make: MakeModel | None = None,
) -> int:
    """Return how many of `count` fits of a search go side by side.

    Each fit copies its rows, and a kernel machine compares them all. Many cores with little memory, as a process may be
    given of a large machine, would be out of it where few are not: unless one takes more, they take half of what is
    free, or `FITTING_BYTES` if that is more, and beside their rows no more than they have room for.

    Parameters
    ----------
    rows : ndarray of float32 [n, d]
    fitted : sequence of ndarray
        The labels of the rows that are fitted to at a time.
    make : callable, optional
        What makes the models that are fitted; if left out, they take nothing beside their rows.
    """
    most = max(map(len, fitted), default=0)
    beside = 0 if make is None else make.bytes_beside_rows(most)
    largest = rows[:1].nbytes * most + beside
    if make is not None and make.room is not None:
        count = fits_side_by_side(beside, count, make.room)
    return fits_side_by_side(largest, count, max(FITTING_BYTES, free_memory(torch.device("cpu")) // 2))


def threads_for(rows: NDArray[np.float32]) -> AbstractContextManager[None]:
    """Fit on one thread where the products are too small to be shared."""
    return nullcontext() if rows.size >= _SHARED_FROM else one_thread_per_fit()


def _cross_validated(
    grid: Grid, rows: NDArray[np.float32], labels: NDArray[np.int64], cv: CVPlan
) -> tuple[dict[tuple[Scaling, float], list[float]], dict[tuple[Scaling, float], FoldOutputs]]:
    """Return the settings that were tried with their score on each fold, and with what was scored, if that is kept.

    C goes upwards: a model that can starts from the one before, and the slow end of the grid is left out once two
    values in a row score clearly less than the best. One task takes one fold up the path until its own scores say
    so. Then the folds that are behind go on to where the furthest has come, and, while the mean over the folds does not
    say so yet, all of them from there.
    """
    folds = range(len(cv.splits))
    paths = {(scaling, fold): FoldPath(scaling) for scaling in grid.scalings for fold in folds}
    means: dict[Scaling, list[float]] = {}
    unfinished = list(paths)
    jobs = _jobs(rows, [labels[fitted] for fitted, _ in cv.splits], len(paths), grid.make)
    while unfinished:
        furthest = {scaling: max(len(paths[scaling, fold].scores) for fold in folds) for scaling in grid.scalings}
        walked = Parallel(n_jobs=jobs, prefer="threads")(
            delayed(_fit_fold_path)(
                grid, replace(paths[scaling, fold], least=furthest[scaling]), rows, labels, *cv.splits[fold]
            )
            for scaling, fold in unfinished
        )
        paths.update(zip(unfinished, walked, strict=True))
        for scaling in grid.scalings:
            means[scaling] = _mean_path(grid, [paths[scaling, fold].scores for fold in folds])
        unfinished = [
            (scaling, fold)
            for (scaling, fold), path in paths.items()
            if len(path.scores) == len(means[scaling]) < len(grid.values) and not grid.should_stop(means[scaling])
        ]
    tried = [
        (scaling, number, c) for scaling in grid.scalings for number, c in enumerate(grid.values[: len(means[scaling])])
    ]
    scores = {(scaling, c): [paths[scaling, fold].scores[number] for fold in folds] for scaling, number, c in tried}
    outputs: dict[tuple[Scaling, float], FoldOutputs] = {}
    if grid.keeps:
        outputs = {
            (scaling, c): [paths[scaling, fold].outputs[number] for fold in folds] for scaling, number, c in tried
        }
    return scores, outputs


@_as_one_task()
def _fit_fold_path(
    grid: Grid,
    path: FoldPath,
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    fitted: Selection,
    scored: Selection,
) -> FoldPath:
    """Go on with one fold over the values of C that have no score yet."""
    make = grid.make.prepared(rows, [path.scaling])
    model = make(path.scaling, rows[fitted], labels[fitted], fitted)
    model.state = path.state if path.state is not None else model.state
    scores, outputs = [*path.scores], [*path.outputs]
    for _, score, _, said in _fit_path(model, grid, rows[scored], labels[scored], path.scores, path.least, scored):
        scores.append(score)
        outputs += [said] if grid.keeps else []
    return replace(path, state=model.state, scores=scores, outputs=outputs)


def _fit_path(
    model: Model,
    grid: Grid,
    held_out: NDArray[np.float32],
    held_out_labels: NDArray[np.int64],
    scored: Sequence[float] = (),
    least: int = 0,
    places: Selection | None = None,
) -> Iterator[tuple[float, float, Any, NDArray[np.float32]]]:
    """Fit for one value of C after the other that has no score yet, the first `least` in any case.

    Yields each value with its score, the state of the model, and what was scored.
    """
    scores = list(scored)
    for value in grid.values[len(scores) :]:
        model.fit(value)
        outputs = model.scores(held_out, places)
        scores.append(grid.score(outputs, held_out_labels))
        yield value, scores[-1], model.state, outputs
        if len(scores) >= least and grid.should_stop(scores):
            break


def _hill_climb(
    model: Model, grid: Grid, start: int, held_out: NDArray[np.float32], held_out_labels: NDArray[np.int64]
) -> Iterator[tuple[float, float, Any]]:
    """Fit for one value of C after the other, as `climbed_next` says.

    Yields each value with its score and the state of the model.
    """
    scores: dict[int, float] = {}
    while (number := climbed_next(grid, start, scores)) is not None:
        model.fit(grid.values[number])
        scores[number] = grid.score(model.scores(held_out), held_out_labels)
        yield grid.values[number], scores[number], model.state


def _fitted(
    make: MakeModel,
    setting: tuple[Scaling, float],
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    state: Any,
    selection: Selection,
) -> Model:
    model = make(setting[0], rows[selection], labels[selection], selection)
    model.state = state if state is not None else model.state
    model.fit(setting[1], final=True)
    return model


@_as_one_task()
def _out_of_fold(
    make: MakeModel,
    setting: tuple[Scaling, float],
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    fitted: Selection,
    scored: Selection,
) -> NDArray[np.float32]:
    """Return the scores of the rows that were left out of a fit."""
    model = make.prepared(rows, [setting[0]])(setting[0], rows[fitted], labels[fitted], fitted)
    model.fit(setting[1])
    return model.scores(rows[scored], scored)


def searched_part(grid: Grid, train_size: int, seed: int) -> NDArray[np.int64] | None:
    """Return the rows of train that all settings are tried on first; None where they are tried on all rows at once."""
    if train_size < SUBSAMPLE_FROM or len(grid.values) * len(grid.scalings) <= _FEW:
        return None
    part, _ = train_test_split(np.arange(train_size), train_size=1 / _PART, random_state=seed, shuffle=True)
    return np.asarray(part)


def climbed_next(grid: Grid, start: int, scores: Mapping[int, float]) -> int | None:
    """Return the number of the value of C that is fitted next: the start, then those beside the best so far.

    None once both of these are known. Stronger regularization comes first: it is quicker, and more rows rarely want
    less of it than a part of them did.
    """
    if not scores:
        return start
    best = max(scores, key=lambda number: (scores[number], -number))
    beside = (number for number in (best - 1, best + 1) if 0 <= number < len(grid.values) and number not in scores)
    return next(beside, None)


def surviving_scalers(grid: Grid, candidates: Sequence[dict[str, Any]]) -> dict[Scaling, float]:
    """Return the best C of each scaling that is not far behind the best of all."""
    best = max(candidate["score"] for candidate in candidates)
    tops: dict[Scaling, dict[str, Any]] = {}
    for candidate in candidates:
        if candidate["scaler"] not in tops or candidate["score"] > tops[candidate["scaler"]]["score"]:
            tops[candidate["scaler"]] = candidate
    least = best - 2 * early_stop_margin(grid.task, best)
    return {scaling: top["C"] for scaling, top in tops.items() if top["score"] >= least}


def _mean_path(grid: Grid, paths: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean score of each value of C that all folds have reached, up to where the path is past the best."""
    means: list[float] = []
    for scores in zip(*paths, strict=False):
        means.append(float(np.mean(scores)))
        if grid.should_stop(means):
            break
    return means
