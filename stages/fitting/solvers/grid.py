"""What a search over C and scaling tries, what fits and models have to be able to do for it, and the way it takes.

C goes upwards, and the slow end of the grid is left out once two values in a row score clearly less than the best. Of
many rows all settings are tried on a part first, and the best of them climb from there on all rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from stages.fitting.folds import CVPlan, Selection
from stages.fitting.out_of_fold import FoldOutputs
from stages.fitting.problem import FitProblem
from stages.fitting.scores import early_stop_margin, selection_score
from stages.fitting.standardize import Scaling
from stages.network.heads.base import Head
from stages.tasks.base import Task

SUBSAMPLE_FROM = 16_000
"""Training rows from which on all settings are tried on a part of the rows first."""

_PART = 8
"""One in so many rows is in that part."""

_FEW = 5
"""Settings that are all tried on all rows, however many those are."""

_KEPT_BYTES = 256 << 20
"""Most bytes of what all settings say of rows out of folds that are kept, so that no fold is fitted again for them."""

Setting = tuple[Scaling, float]
"""A scaling, and a value of C."""

Fold = tuple[Selection, Selection]
"""Rows that are fitted to, and rows that are scored."""


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
