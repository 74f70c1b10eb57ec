"""The search over C and scaling with fits on the cores of the host, side by side where there are several.

It goes through joblib: threads here, or whatever backend the caller has chosen with parallel_config, which may be a
cluster (docs/scale.md). So tasks are functions of this module, and large arrays are arguments of their own, which such
a backend sends to its workers once per sweep and not with every task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray

from stages.fitting.feature_rows import FeatureRows
from stages.fitting.folds import CVPlan, Selection
from stages.fitting.out_of_fold import FoldOutputs
from stages.fitting.problem import FitProblem
from stages.fitting.solvers.grid import (
    FittedModel,
    Fold,
    Grid,
    GridSearchResult,
    MakeModel,
    Model,
    Setting,
    climbed_next,
    searched_part,
    surviving_scalers,
)
from stages.fitting.standardize import Scaling
from stages.network.heads.base import Head
from stages.runtime.device import free_memory
from stages.runtime.float32 import float32_products
from stages.runtime.threads import one_thread_per_fit, single_thread_pool, usable_cores

_SHARED_FROM = 8_000_000
"""Numbers in the rows from which on the matrix products of one fit are shared by all cores."""

FITTING_BYTES = 1 << 30
"""Most bytes of features in float32 that are fitted side by side, unless one fold takes more; in a search more, where
more is free."""


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

    @classmethod
    def of(cls, problem: FitProblem, make_of: Callable[[NDArray[np.float32]], MakeModel], *, margins: bool) -> HostFits:
        """Return the fits of a problem, whose rows are copied in float32."""
        rows = rows_in_float32(*problem.in_memory)
        center = rows[: len(problem.train)].mean(axis=0, dtype=np.float64).astype(np.float32)
        rows -= center
        with threads_for(rows) if problem.cv.is_holdout else one_thread_per_fit():  # as where it is made again
            make = make_of(center).prepared(rows, problem.config.scalers)
        return cls(Grid.of(problem, make, margins=margins), rows, problem.labels)

    def search(self, cv: CVPlan, seed: int) -> GridSearchResult:
        """Return the scores of settings."""
        return search(self.grid, self.rows, self.labels, cv, seed)

    def fitted(self, setting: Setting, selections: Sequence[Selection], state: Any) -> list[FittedModel]:
        """Return the models of a setting: side by side where a fit has one core, else each from where one ended."""
        if self.rows.size < _SHARED_FROM:
            labels = [self.labels[selection] for selection in selections]
            count = jobs_for(self.rows, labels, len(selections), self.grid.make)
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
        jobs = jobs_for(self.rows, labels, len(folds), self.grid.make)
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


def rows_in_float32(train: FeatureRows, val: FeatureRows) -> NDArray[np.float32]:
    """Return the features of both splits in one new array, converted by torch, which takes a tenth of NumPy's time."""
    rows = np.empty((len(train) + len(val), *train.row_shape), dtype=np.float32)
    for part, split_rows in ((rows[: len(train)], train), (rows[len(train) :], val)):
        torch.from_numpy(part).copy_(torch.from_numpy(split_rows.features))
    return rows


def fits_side_by_side(fit_bytes: int, count: int, room: int = FITTING_BYTES) -> int:
    """Return how many of `count` fits go side by side, where each takes so many bytes: one at least."""
    return max(1, min(count, usable_cores(), room // max(fit_bytes, 1)))


def jobs_for(
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


@contextmanager
def as_one_task() -> Iterator[None]:
    """Fit on one thread where joblib has sent the task, and send no part of it on, as scikit-learn itself would."""
    with one_thread_per_fit(), parallel_config("sequential"), float32_products():
        yield


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
    jobs = jobs_for(rows, [labels[fitted] for fitted, _ in cv.splits], len(paths), grid.make)
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


@as_one_task()
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


def _mean_path(grid: Grid, paths: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean score of each value of C that all folds have reached, up to where the path is past the best."""
    means: list[float] = []
    for scores in zip(*paths, strict=False):
        means.append(float(np.mean(scores)))
        if grid.should_stop(means):
            break
    return means


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


@as_one_task()
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
