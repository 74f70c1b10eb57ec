"""The head of the best C and scaling of models that are fitted along a path; cross-validation of other classifiers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.special import softmax

from stages.fitting.feature_rows import StreamedFeatureRows
from stages.fitting.folds import CVPlan, Selection
from stages.fitting.out_of_fold import FoldOutputs, OutOfFold, best_on_others, collect, in_places
from stages.fitting.problem import FitProblem
from stages.fitting.result import HeadFit
from stages.fitting.scores import fold_scores, selection_score
from stages.fitting.solvers.grid import GridSearchResult, MakeModel, PathFits
from stages.fitting.solvers.host_search import HostFits, as_one_task, fits_side_by_side, jobs_for, rows_in_float32
from stages.fitting.standardize import ScaledRows, Scaling
from stages.network.heads.linear import LinearHead
from stages.runtime.device import free_memory
from stages.runtime.threads import one_thread_per_fit
from stages.tasks.temperature import ABSENT_CLASS_SCORE, fit_temperature

_COPIED_SHARE = 0.5
"""Share of the free memory up to which many rows are copied in float32; else blocks of them are, again and again."""

_PROBA_ROWS = 2048
"""Rows that are converted at a time for these."""

_LEAST = float(np.finfo(np.float32).tiny)


def fit_along_path(
    problem: FitProblem, make_of: Callable[[NDArray[np.float32]], MakeModel], *, margins: bool
) -> HeadFit:
    """Return the head of the best C and scaling of `problem.config`, fitted to all rows and to train alone.

    What both say is divided by one temperature, which is fitted to rows that were left out. Margins have no scale of
    their own; and of logits settings are chosen by how many are right, so that few rows take a C so small that each
    class is about as likely as the others.

    Parameters
    ----------
    make_of : callable
        From the mean of train, float32 [d], which is taken from all rows, to what makes models of them.
    margins : bool
        Whether scores are margins and no logits: settings are then scored under a temperature, too.
    """
    fits: PathFits | None = None
    if problem.device.type == "cuda" or not _may_be_copied(problem):
        from stages.fitting.solvers.device_search import device_fits  # what fits on cores does without

        fits = device_fits(problem, make_of, margins=margins)
    if fits is None:
        fits = HostFits.of(problem, make_of, margins=margins)
    result = fits.search(problem.cv, problem.seed)
    refit = partial(refit_best, problem, fits, result)
    if problem.deferred:
        fold = partial(_fold, problem, fits, result, None)
        return HeadFit.deferred(problem, result.candidates, lambda: refit()[0], fold)
    fitted, left_out = refit()
    return replace(fitted, fold=partial(_fold, problem, fits, result, left_out))


def _may_be_copied(problem: FitProblem) -> bool:
    """Return whether there is room for a copy of all rows in float32, which fits on cores are made to."""
    if isinstance(problem.train, StreamedFeatureRows):
        return False
    numbers = len(problem.labels) * math.prod(problem.train.row_shape)
    copied = numbers * np.dtype(np.float32).itemsize
    return not problem.cv.is_holdout or copied <= _COPIED_SHARE * free_memory(torch.device("cpu"))


def refit_best(
    problem: FitProblem, fits: PathFits, search_result: GridSearchResult
) -> tuple[HeadFit, FoldOutputs | None]:
    """Return the head of the best setting, fitted to all rows and to train alone.

    Both are divided by a temperature, which is fitted to scores out of folds. These are returned, too, where there are
    folds.
    """
    setting, labels, cv = (search_result.chosen["scaler"], search_result.chosen["C"]), problem.labels, problem.cv
    parts = [slice(0, len(problem.train)), slice(0, len(labels))]
    without_val, model = fits.fitted(setting, parts, search_result.states.get(setting))
    left_out: FoldOutputs | None = None
    if cv.is_holdout:
        of_all = without_val.scores_at(cv.splits[0][1])
    else:
        kept = search_result.fold_outputs.get(setting)
        left_out = fits.out_of_fold([setting] * len(cv.splits), cv.splits) if kept is None else kept
        of_all = np.concatenate(left_out)
    true = np.concatenate([labels[scored] for _, scored in cv.splits])
    temperature = fit_temperature(problem.task, of_all, true)
    heads = model.head(temperature), without_val.head(temperature)
    settings = {**search_result.chosen, "selected by": cv.description, "temperature": temperature}
    return HeadFit(*heads, settings, search_result.candidates), left_out


def _fold(
    problem: FitProblem,
    fits: PathFits,
    result: GridSearchResult,
    left_out: FoldOutputs | None,
) -> OutOfFold | None:
    """Return the scores of all rows out of folds, each fold's by the setting that is best on the others.

    `left_out` is what the chosen setting says out of the folds of `problem.cv`, where that is known.
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
        known = left_out if plan is problem.cv else None
        unknown = [number for number, setting in enumerate(picked) if known is None or setting != chosen]
        fitted = fits.out_of_fold([picked[number] for number in unknown], [plan.splits[number] for number in unknown])
        of_plan = dict(enumerate(known or ()))
        of_plan.update(zip(unknown, fitted, strict=True))
        outputs.append([of_plan[number] for number in range(len(picked))])
    return collect(problem, outputs, calibrate=True)


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
    rows, labels = rows_in_float32(*problem.in_memory), problem.labels
    width = problem.task.out_features
    settings = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    candidates: list[dict[str, Any]] = [
        {**setting, "scaler": scaling} for scaling in problem.config.scalers for setting in settings
    ]

    def margins_of(plan: CVPlan) -> tuple[list[list[NDArray[np.float32]]], NDArray[np.float64]]:
        """Return the margins of each candidate out of each fold, and their scores, [candidates, folds]."""
        folds = plan.splits
        jobs = jobs_for(rows, [labels[fitted] for fitted, _ in folds], len(candidates) * len(folds))
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


@as_one_task()
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
