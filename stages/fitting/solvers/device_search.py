"""The search over C and scaling with all fits in batches: what `host_search` does on cores one by one.

On an accelerator that is the way; on cores it is for rows that stay in the cache, or are too large to be copied in
float32: one pass over the rows serves all models.

The way is the same: C goes upwards, the slow end of the grid is left out once two values in a row score clearly less
than the best, and of many rows all settings are tried on a part first. But all scalings and folds take each step
together, and several values of C at once where these are small (`_AT_ONCE`): what an accelerator does to few numbers
takes as long as what it does to many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.fitting.feature_rows import StreamedFeatureRows
from stages.fitting.folds import CVPlan, Selection
from stages.fitting.problem import FitProblem
from stages.fitting.solvers.cached_rows import AnyDeviceRows, CachedRows, rows_of_cache
from stages.fitting.solvers.device_linear import DeviceLinearModels, LinearFit, State
from stages.fitting.solvers.device_rows import DeviceRows
from stages.fitting.solvers.grid import (
    FittedModel,
    Fold,
    Grid,
    GridSearchResult,
    MakeModel,
    Setting,
    climbed_next,
    searched_part,
    surviving_scalers,
)
from stages.fitting.solvers.linear_models import EXACT_UP_TO, LinearModelFactory
from stages.fitting.solvers.linear_targets import two_sided
from stages.fitting.standardize import Scaling
from stages.network.heads.linear import LinearHead

PAYS_FROM = 200_000_000
"""Rows times numbers of a row times outputs from which on fits are made on an accelerator: some hundred operations on
it, one after the other, take as long as a few products of so many numbers on cores."""

_AT_ONCE = 4
"""Most values of C that begin together: each then begins farther from its end than if it had waited for the last."""

_TOGETHER = 200_000_000
"""Scores of all models of a batch up to which more values of C are taken into it."""


def device_fits(
    problem: FitProblem, make_of: Callable[[NDArray[np.float32]], MakeModel], *, margins: bool
) -> DeviceFits | None:
    """Return the fits of a search on the device of a problem; None where models are not linear, or rows too few to pay.

    On cores and of rows that are streamed none are too few.

    Parameters
    ----------
    problem : FitProblem
    make_of : callable
        From what is taken from all rows, float32 [d], to what makes models of them.
    margins : bool
        Whether scores are margins and no logits.
    """
    (width,) = problem.train.row_shape
    few = len(problem.labels) * width * problem.task.out_features < PAYS_FROM
    if few and problem.device.type == "cuda" and not isinstance(problem.train, StreamedFeatureRows):
        return None
    if not isinstance(make_of(np.zeros(width, np.float32)), LinearModelFactory):
        return None
    return DeviceFits.of(problem, make_of, margins=margins)


@dataclass(frozen=True)
class DeviceFits:
    """Fits side by side on an accelerator: see `PathFits`.

    Attributes
    ----------
    grid : Grid
    factory : LinearModelFactory
    rows : DeviceRows or CachedRows
        Of train, followed by those of validation.
    labels : ndarray [n, ...]
    """

    grid: Grid
    factory: LinearModelFactory
    rows: AnyDeviceRows
    labels: NDArray[Any]

    @classmethod
    def of(
        cls, problem: FitProblem, make_of: Callable[[NDArray[np.float32]], MakeModel], *, margins: bool
    ) -> DeviceFits:
        """Return the fits of a problem on its device."""
        rows = _rows_of(problem)
        factory = make_of(_mean(rows.at(slice(0, len(problem.train)))))
        assert isinstance(factory, LinearModelFactory)
        return cls(Grid.of(problem, factory, margins=margins), factory, rows, problem.labels)

    def search(self, cv: CVPlan, seed: int) -> GridSearchResult:
        """Return the scores of settings."""
        return self._hold_out(*cv.splits[0], seed) if cv.is_holdout else self._cross_validated(cv)

    def fitted(self, setting: Setting, selections: Sequence[Selection], state: State | None) -> list[FittedModel]:
        """Return the models of a setting, each from where the last one ended; in float64 where its rows are few.

        Rows that have to be read anew for each pass are gone through for all models at once.
        """
        if isinstance(self.rows, CachedRows):
            return self._fitted_together(setting, selections, state)
        found: list[FittedModel] = []
        for selection in selections:
            dtype = _type_for(len(self.labels[selection]))
            models, fit = self._models(self.rows.at(selection), self.labels[selection], dtype), LinearFit(*setting)
            (state,) = models.fit([fit], [state], final=True)
            found.append(_DeviceModel(models, fit, state, self.rows))
        return found

    def _fitted_together(
        self, setting: Setting, selections: Sequence[Selection], state: State | None
    ) -> list[FittedModel]:
        dtype = _type_for(max(len(self.labels[selection]) for selection in selections))
        found: dict[int, FittedModel] = {}
        for models, numbers in self._groups(selections, dtype):
            fits = [LinearFit(*setting, fold) for fold in range(len(numbers))]
            states = models.fit(fits, [state] * len(fits), final=True)
            for number, fit, end in zip(numbers, fits, states, strict=True):
                found[number] = _DeviceModel(models, fit, end, self.rows)
        return [found[number] for number in range(len(selections))]

    def out_of_fold(self, settings: Sequence[Setting], folds: Sequence[Fold]) -> list[NDArray[np.float32]]:
        """Return the scores of the rows that each fold leaves out."""
        outputs: dict[int, NDArray[np.float32]] = {}
        for models, numbers in self._groups([fitted for fitted, _ in folds]):
            fits = [LinearFit(*settings[number], fold) for fold, number in enumerate(numbers)]
            states = models.fit(fits, [None] * len(fits))
            for number, fit, state in zip(numbers, fits, states, strict=True):
                outputs[number] = models.scores([fit], [state], self.rows.at(folds[number][1]))[0]
        return [outputs[number] for number in range(len(folds))]

    def _models(
        self, rows: AnyDeviceRows, labels: NDArray[Any], dtype: torch.dtype = torch.float32
    ) -> DeviceLinearModels:
        return DeviceLinearModels(self.factory, rows, labels, [slice(0, len(labels))], dtype)

    def _groups(
        self, fitted: Sequence[Selection], dtype: torch.dtype = torch.float32
    ) -> list[tuple[DeviceLinearModels, list[int]]]:
        """Return models for the folds that learn the same classes or labels, with the numbers of these."""
        numbers: dict[bytes, list[int]] = {}
        for number, selection in enumerate(fitted):
            labels = self.labels[selection]
            learned = np.unique(labels) if labels.ndim == 1 else two_sided(labels)
            numbers.setdefault(learned.tobytes(), []).append(number)
        return [
            (
                DeviceLinearModels(self.factory, self.rows, self.labels, [fitted[number] for number in group], dtype),
                group,
            )
            for group in numbers.values()
        ]

    def _cross_validated(self, cv: CVPlan) -> GridSearchResult:
        result = GridSearchResult()
        groups = self._groups([fitted for fitted, _ in cv.splits])
        paths = self._walked(groups, [scored for _, scored in cv.splits])
        for scaling, steps in paths.items():
            for step in steps:
                result.candidates.append({"C": step.c, "scaler": scaling, "score": step.score})
                result.fold_scores[scaling, step.c] = step.scores
                if self.grid.keeps:
                    result.fold_outputs[scaling, step.c] = step.outputs
        return result

    def _hold_out(self, fitted: Selection, scored: Selection, seed: int) -> GridSearchResult:
        grid, result = self.grid, GridSearchResult()
        train, train_labels = self.rows.at(fitted), self.labels[fitted]
        part = searched_part(grid, len(train), seed)
        if part is not None and isinstance(train, CachedRows):
            part = np.sort(part[: train.most_held])  # they are read in their order
        if part is None:
            models = self._models(train, train_labels)
            for scaling, steps in self._walked([(models, [0])], [scored]).items():
                for step in steps:
                    result.candidates.append({"C": step.c, "scaler": scaling, "score": step.score})
                    result.states[scaling, step.c] = step.state
            return result
        models = self._models(train.at(part), train_labels[part])
        paths = self._walked([(models, [0])], [scored])
        for scaling, steps in paths.items():
            for step in steps:
                result.candidates.append({"C": step.c, "scaler": scaling, "score": step.score, "rows": len(part)})
        models, survivors = self._models(train, train_labels), surviving_scalers(grid, result.candidates)
        scores: dict[Scaling, dict[int, float]] = {scaling: {} for scaling in survivors}
        # from zero: where classes can be told apart, the weights of a part are far from the minimum, and fits end early
        last: dict[Scaling, State | None] = dict.fromkeys(survivors)
        while going := {
            scaling: number
            for scaling, c in survivors.items()
            if (number := climbed_next(grid, grid.values.index(c), scores[scaling])) is not None
        }:
            fits = [LinearFit(scaling, grid.values[number]) for scaling, number in going.items()]
            states = models.fit(fits, [last[scaling] for scaling in going])
            outputs = models.scores(fits, states, self.rows.at(scored))
            for (scaling, number), state, output in zip(going.items(), states, outputs, strict=True):
                scores[scaling][number] = grid.score(output, self.labels[scored])
                last[scaling] = result.states[scaling, grid.values[number]] = state
        result.candidates += [
            {"C": grid.values[number], "scaler": scaling, "score": score}
            for scaling, of_scaling in scores.items()
            for number, score in of_scaling.items()
        ]
        return result

    def _walked(
        self,
        groups: Sequence[tuple[DeviceLinearModels, Sequence[int]]],
        scored: Sequence[Selection],
    ) -> dict[Scaling, list[_Step]]:
        """Return the steps of each scaling up the values of C, as far as they are taken.

        Parameters
        ----------
        groups : sequence of (DeviceLinearModels, sequence of int)
            Models, and the numbers of their folds.
        scored : sequence of Selection
            The rows that each fold leaves out, which are copied one fold at a time.
        """
        grid, labels = self.grid, [self.labels[selection] for selection in scored]
        steps: dict[Scaling, list[_Step]] = {scaling: [] for scaling in grid.scalings}
        last: dict[tuple[Scaling, int], State] = {}
        active, start = list(grid.scalings), 0
        while active and start < len(grid.values):
            values = grid.values[start : start + self._at_once(groups, len(active))]
            wave = {scaling: [_Step(c, len(scored)) for c in values] for scaling in active}
            for models, numbers in groups:
                fits = [LinearFit(name, c, fold) for fold in range(len(numbers)) for name in active for c in values]
                begins = [last.get((fit.scaling, numbers[fit.fold])) for fit in fits]
                states = models.fit(fits, begins)
                for fold, number in enumerate(numbers):
                    of_fold = slice(fold * len(active) * len(values), (fold + 1) * len(active) * len(values))
                    outputs = models.scores(fits[of_fold], states[of_fold], self.rows.at(scored[number]))
                    for fit, state, output in zip(fits[of_fold], states[of_fold], outputs, strict=True):
                        step = wave[fit.scaling][values.index(fit.c)]
                        step.take(number, grid.score(output, labels[number]), state, output if grid.keeps else None)
                        last[fit.scaling, number] = state
            start += len(values)
            for scaling in list(active):
                for step in wave[scaling]:
                    steps[scaling].append(step)
                    if grid.should_stop([step.score for step in steps[scaling]]):
                        active.remove(scaling)
                        break
        return steps

    def _at_once(self, groups: Sequence[tuple[DeviceLinearModels, Sequence[int]]], scalings: int) -> int:
        """Return how many values of C begin together."""
        most = max(len(models.rows) * models.targets.width * len(numbers) for models, numbers in groups)
        return min(max(_TOGETHER // max(scalings * most, 1), 1), _AT_ONCE)


@dataclass
class _Step:
    """One value of C on the way up, by the numbers of the folds; the state is that of the only one."""

    c: float
    folds: int
    scores: list[float] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    state: State | None = None

    def __post_init__(self) -> None:
        self.scores, self.outputs = [0.0] * self.folds, [None] * self.folds

    @property
    def score(self) -> float:
        """The mean over the folds."""
        return float(np.mean(self.scores))

    def take(self, fold: int, score: float, state: State, output: NDArray[np.float32] | None) -> None:
        """Keep what came of a fold."""
        self.scores[fold], self.outputs[fold] = score, output
        if self.folds == 1:  # of folds nobody goes on from it, and those of all settings would stay on the device
            self.state = state


@dataclass(frozen=True)
class _DeviceModel:
    """A model that was fitted to the end, and the rows that it may be asked about."""

    models: DeviceLinearModels
    fit: LinearFit
    state: State
    rows: AnyDeviceRows

    def scores_at(self, selection: Selection) -> NDArray[np.float32]:
        """Return the scores for some of the rows."""
        return self.models.scores([self.fit], [self.state], self.rows.at(selection))[0]

    def head(self, temperature: float) -> LinearHead:
        """Return scaling and model as one torch head."""
        return self.models.head(self.fit, self.state, temperature)


def _type_for(count: int) -> torch.dtype:
    """Return the type that models of so many rows are computed in to the end."""
    return torch.float64 if count <= EXACT_UP_TO else torch.float32


def _rows_of(problem: FitProblem) -> AnyDeviceRows:
    """Return the rows of train, followed by those of validation, for the device of a problem, or for the cores.

    Apple's accelerator has no numbers of 64 bits, which losses are summed in.
    """
    device = problem.device if problem.device.type == "cuda" else torch.device("cpu")
    if isinstance(problem.train, StreamedFeatureRows):
        assert isinstance(problem.val, StreamedFeatureRows)
        return rows_of_cache(problem.train + problem.val, device)
    parts = [part.features for part in problem.in_memory]
    dtype = np.result_type(*parts)
    return DeviceRows.of([part.astype(dtype, copy=False) for part in parts], device)


def _mean(rows: AnyDeviceRows) -> NDArray[np.float32]:
    """Return the mean of rows, float32 [d]."""
    total = torch.zeros(rows.width, dtype=torch.float64, device=rows.device)
    for _, block in rows.blocks(1 << 16):
        total += block.sum(dim=0, dtype=torch.float64)
    return np.asarray((total / len(rows)).float().cpu().numpy())
