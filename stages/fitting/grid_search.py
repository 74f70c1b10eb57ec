"""The search over C and scaling for models that are fitted along a path, and the head of the setting that is chosen.

Cross-validation goes through joblib: threads here, or whatever backend the caller has chosen with parallel_config,
which may be a cluster (docs/scale.md). So tasks are functions of this module, and large arrays are arguments of their
own, which such a backend sends to its workers once per sweep and not with every task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from stages.fitting.folds import CVPlan as Scoring
from stages.fitting.folds import Selection
from stages.fitting.result import HeadFit
from stages.fitting.scores import selection_score
from stages.fitting.standardize import Scaling
from stages.fitting.temperature import fit_temperature
from stages.network.heads.base import Head
from stages.runtime.threads import one_thread_per_fit

EARLY_STOP_MARGIN = 0.005
"""Score below the best that ends a path over C, once two values in a row are lower than that."""


SUBSAMPLE_FROM = 16_000
"""Training rows from which on all settings are tried on a part of the rows first."""


_SHARED_FROM = 8_000_000
"""Numbers in the rows from which on the matrix products of one fit are shared by all cores."""


_PART = 8
"""One in so many rows is in that part."""


_FEW = 5
"""Settings that are all tried on all rows, however many those are."""


class Model(Protocol):
    """What is fitted for one value of C after the other."""

    def fit(self, c: float, *, final: bool = False) -> None:
        """Fit with a value of C; `final` fits are more exact."""

    def scores(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores of all classes, [n, classes], for rows as they are given to the model."""

    def head(self, temperature: float) -> Head:
        """Return scaling and model as one torch head; scores are divided by the temperature."""

    state: Any
    """Where a fit begins: an equal model, given it, goes on."""


MakeModel = Callable[[Scaling, NDArray[np.float32], NDArray[np.int64]], Model]
"""(scaling, rows, labels) -> model. It must be possible to pickle it."""


@dataclass
class GridSearchResult:
    """What was tried on the way to a setting.

    Attributes
    ----------
    tried : list of dict
        Every setting with its ``score``, and ``rows`` where that is of a part of the rows.
    states : dict
        (scaling, C) -> the state of the model fitted to all of train; empty where folds were fitted.
    """

    tried: list[dict[str, Any]] = field(default_factory=list)
    states: dict[tuple[Scaling, float], Any] = field(default_factory=dict)

    @property
    def chosen(self) -> dict[str, Any]:
        """The best setting of those that were scored on all rows; of equals the one with the smallest C."""
        whole = [one for one in self.tried if "rows" not in one]
        return max(whole, key=lambda one: (one["score"], -one["C"]))


def search(
    make: MakeModel,
    values: Sequence[float],
    scalings: Sequence[Scaling],
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    scoring: Scoring,
    *,
    balanced: bool,
    seed: int,
) -> GridSearchResult:
    """Return the scores of settings: mean accuracy (of the classes, if `balanced`) on the rows that are scored."""
    values = sorted(values)
    found = GridSearchResult()
    if not scoring.is_holdout:
        with one_thread_per_fit():
            found.tried = _cross_validated(make, values, scalings, rows, labels, scoring, balanced)
        return found
    with _threads_for(rows):
        _hold_out(found, make, values, scalings, rows, labels, scoring, balanced, seed)
    return found


def _hold_out(
    found: GridSearchResult,
    make: MakeModel,
    values: Sequence[float],
    scalings: Sequence[Scaling],
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    scoring: Scoring,
    balanced: bool,
    seed: int,
) -> None:
    """Fill `found` with scores on the rows held out; of many rows, after all settings were tried on a part of them."""
    (fitted, scored), *_ = scoring.splits
    train, train_labels, val, val_labels = rows[fitted], labels[fitted], rows[scored], labels[scored]
    if len(train) < SUBSAMPLE_FROM or len(values) * len(scalings) <= _FEW:
        for scaling in scalings:
            model = make(scaling, train, train_labels)
            for value, score, state in _fit_path(model, values, val, val_labels, balanced):
                found.tried.append({"C": value, "scaler": scaling, "score": score})
                found.states[scaling, value] = state
        return
    part, _ = train_test_split(np.arange(len(train)), train_size=1 / _PART, random_state=seed, shuffle=True)
    some, some_labels = train[part], train_labels[part]
    for scaling in scalings:
        model = make(scaling, some, some_labels)
        for value, score, _ in _fit_path(model, values, val, val_labels, balanced):
            found.tried.append({"C": value, "scaler": scaling, "score": score, "rows": len(part)})
    del model, some
    for scaling, start in _surviving_scalers(found.tried).items():
        model = make(scaling, train, train_labels)
        for value, score, state in _hill_climb(model, values, values.index(start), val, val_labels, balanced):
            found.tried.append({"C": value, "scaler": scaling, "score": score})
            found.states[scaling, value] = state


def refit_best(
    make: MakeModel,
    found: GridSearchResult,
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    train: slice,
    scoring: Scoring,
    *,
    calibrate: bool,
) -> HeadFit:
    """Return the head of the best setting, fitted to all rows and to train alone.

    Where the scores are margins and no logits (`calibrate`), both are divided by a temperature.
    """
    setting = found.chosen["scaler"], found.chosen["C"]
    with _threads_for(rows):
        without_val = _fitted(make, setting, rows[train], labels[train], found.states.get(setting))
        whole = _fitted(make, setting, rows, labels, without_val.state)
    settings = {**found.chosen, "selected by": scoring.description}
    if calibrate:
        margins = _margins(make, setting, rows, labels, without_val, scoring)
        true = np.concatenate([labels[scored] for _, scored in scoring.splits])
        settings["temperature"] = fit_temperature(margins, true)
    temperature = settings.get("temperature", 1.0)
    return HeadFit(whole.head(temperature), without_val.head(temperature), settings, found.tried)


def _threads_for(rows: NDArray[np.float32]) -> AbstractContextManager[None]:
    """Fit on one thread where the products are too small to be shared."""
    return nullcontext() if rows.size >= _SHARED_FROM else one_thread_per_fit()


@contextmanager
def _as_one_task() -> Iterator[None]:
    """Fit on one thread where joblib has sent the task, and send no part of it on, as scikit-learn itself would."""
    with one_thread_per_fit(), parallel_config("sequential"):
        yield


def _cross_validated(
    make: MakeModel,
    values: Sequence[float],
    scalings: Sequence[Scaling],
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    scoring: Scoring,
    balanced: bool,
) -> list[dict[str, Any]]:
    """Return the settings that were tried with their mean score over the folds.

    C goes upwards: a model that can starts from the one before, and the slow end of the grid is left out once two
    values in a row score clearly less than the best. One task takes one fold up the path until its own scores say
    so. Then the folds that are behind go on to where the furthest has come, and, while the mean over the folds does not
    say so yet, all of them from there.
    """
    folds = range(len(scoring.splits))
    paths: dict[tuple[Scaling, int], tuple[Any, list[float]]] = {
        (scaling, fold): (None, []) for scaling in scalings for fold in folds
    }
    means: dict[Scaling, list[float]] = {}
    behind = list(paths)
    while behind:
        furthest = {scaling: max(len(paths[scaling, fold][1]) for fold in folds) for scaling in scalings}
        walked = Parallel(n_jobs=-1, prefer="threads")(
            delayed(_fit_fold_path)(
                *(make, values, scaling, *paths[scaling, fold], furthest[scaling]),
                *(rows, labels, *scoring.splits[fold], balanced),
            )
            for scaling, fold in behind
        )
        paths.update(zip(behind, walked, strict=True))
        for scaling in scalings:
            means[scaling] = _mean_path([paths[scaling, fold][1] for fold in folds])
        behind = [
            (scaling, fold)
            for (scaling, fold), (_, scores) in paths.items()
            if len(scores) == len(means[scaling]) < len(values) and not _should_stop(means[scaling])
        ]
    return [one for scaling in scalings for one in _rows_of(scaling, values, means[scaling])]


@_as_one_task()
def _fit_fold_path(
    make: MakeModel,
    values: Sequence[float],
    scaling: Scaling,
    state: Any,
    scores: Sequence[float],
    least: int,
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    fitted: Selection,
    scored: Selection,
    balanced: bool,
) -> tuple[Any, list[float]]:
    """Go on with one fold over the values of C that have no score yet; return the last state and all scores."""
    model = make(scaling, rows[fitted], labels[fitted])
    model.state = state if state is not None else model.state
    held_out = rows[scored], labels[scored]
    new = [score for _, score, _ in _fit_path(model, values, *held_out, balanced, scores, least)]
    return model.state, [*scores, *new]


def _fit_path(
    model: Model,
    values: Sequence[float],
    held_out: NDArray[np.float32],
    held_out_labels: NDArray[np.int64],
    balanced: bool,
    scored: Sequence[float] = (),
    least: int = 0,
) -> Iterator[tuple[float, float, Any]]:
    """Fit for one value of C after the other that has no score yet, the first `least` in any case.

    Yields each value with its score and the state of the model.
    """
    scores = list(scored)
    for value in values[len(scores) :]:
        model.fit(value)
        scores.append(selection_score(model.scores(held_out), held_out_labels, balanced))
        yield value, scores[-1], model.state
        if len(scores) >= least and _should_stop(scores):
            break


def _hill_climb(
    model: Model,
    values: Sequence[float],
    start: int,
    held_out: NDArray[np.float32],
    held_out_labels: NDArray[np.int64],
    balanced: bool,
) -> Iterator[tuple[float, float, Any]]:
    """Fit for one value of C, then for those beside the best so far, until both of these are known.

    Stronger regularisation comes first: it is quicker, and more rows rarely want less of it than a part of them did.
    Yields each value with its score and the state of the model.
    """
    scores: dict[int, float] = {}
    beside = [start]
    while beside:
        place = beside[0]
        model.fit(values[place])
        scores[place] = selection_score(model.scores(held_out), held_out_labels, balanced)
        yield values[place], scores[place], model.state
        best = max(scores, key=lambda place: (scores[place], -place))
        beside = [place for place in (best - 1, best + 1) if 0 <= place < len(values) and place not in scores]


def _fitted(
    make: MakeModel,
    setting: tuple[Scaling, float],
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    state: Any,
) -> Model:
    model = make(setting[0], rows, labels)
    model.state = state if state is not None else model.state
    model.fit(setting[1], final=True)
    return model


def _margins(
    make: MakeModel,
    setting: tuple[Scaling, float],
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    without_val: Model,
    scoring: Scoring,
) -> NDArray[np.float32]:
    """Return the scores of all rows that are scored, by models that were not fitted to them."""
    if scoring.is_holdout:
        return without_val.scores(rows[scoring.splits[0][1]])
    with one_thread_per_fit():
        parts = Parallel(n_jobs=-1, prefer="threads")(
            delayed(_out_of_fold)(make, setting, rows, labels, *pair) for pair in scoring.splits
        )
    return np.concatenate(parts)


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
    model = make(setting[0], rows[fitted], labels[fitted])
    model.fit(setting[1])
    return model.scores(rows[scored])


def _surviving_scalers(tried: Sequence[dict[str, Any]]) -> dict[Scaling, float]:
    """Return the best C of each scaling that is not far behind the best of all."""
    best = max(one["score"] for one in tried)
    tops: dict[Scaling, dict[str, Any]] = {}
    for one in tried:
        if one["scaler"] not in tops or one["score"] > tops[one["scaler"]]["score"]:
            tops[one["scaler"]] = one
    return {scaling: top["C"] for scaling, top in tops.items() if top["score"] >= best - 2 * EARLY_STOP_MARGIN}


def _rows_of(scaling: Scaling, values: Sequence[float], scores: Sequence[float]) -> list[dict[str, Any]]:
    return [{"C": value, "scaler": scaling, "score": score} for value, score in zip(values, scores, strict=False)]


def _mean_path(paths: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean score of each value of C that all folds have reached, up to where the path is past the best."""
    means: list[float] = []
    for scores in zip(*paths, strict=False):
        means.append(float(np.mean(scores)))
        if _should_stop(means):
            break
    return means


def _should_stop(scores: Sequence[float]) -> bool:
    return max(scores[-2:]) < max(scores) - EARLY_STOP_MARGIN
