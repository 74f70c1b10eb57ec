"""Torch heads out of folds: a head for each fold and setting, all of them trained side by side.

Each is shown the rows of its own fold, standardized by these. After every epoch all are asked about the rows that they
have not seen, so that rate, weight decay and number of epochs of a fold are those that are best on the other folds
(``stages.fitting.out_of_fold``). No row is set apart within a fold, and nothing is fitted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.fitting.epochs.vmap_heads import VmapHeads
from stages.fitting.feature_rows import BATCH_ROWS, Block, FeatureRows
from stages.fitting.out_of_fold import OutOfFold, collect
from stages.fitting.problem import FitProblem
from stages.fitting.scores import selection_score
from stages.fitting.standardize import Standardizer
from stages.network.heads.base import Head
from stages.runtime.device import uploaded
from stages.runtime.seeding import epoch_seed
from stages.training.history import validation_rank
from stages.training.lr_schedules import LRScheduleConfig, make_schedule

WARMUP = 0.3
"""Share of the steps in which the rate of the one-cycle schedule rises."""

MakeStandardizer = Callable[[FeatureRows], Standardizer | None]


@dataclass(frozen=True)
class _Fold:
    """The rows of a fold, and what standardizes them."""

    division: int
    fitted: NDArray[np.int64]
    scored: NDArray[np.int64]
    scaler: Standardizer | None
    weights: Tensor | None
    """Of each row of all, float32 [n] or [n, labels]."""

    def inputs(self, block: NDArray[np.floating], device: torch.device) -> Tensor:
        """Return rows as the heads of this fold take them."""
        rows = uploaded(torch.from_numpy(block), device).float()
        return rows if self.scaler is None else self.scaler.transform(rows)


def fold_torch_head(
    problem: FitProblem, template: Head, settings: Sequence[dict[str, float]], standardizer: MakeStandardizer
) -> OutOfFold | None:
    """Return the outputs of a torch head out of folds; None where there are none, or every setting diverges.

    Parameters
    ----------
    problem : FitProblem
    template : Head
        What every one of them begins as.
    settings : sequence of dict
        Highest rate and weight decay of each that is tried.
    standardizer : callable
        From rows to what standardizes them.
    """
    if not problem.divisions:
        return None
    heads = _FoldedHeads(problem, template, settings, standardizer)
    best: list[tuple[tuple[float, float], NDArray[np.float32] | None]] = [((-np.inf, -np.inf), None)] * len(heads.folds)
    lowest = np.full((len(problem.divisions), len(settings)), np.inf)
    waited = np.zeros(lowest.shape, dtype=int)
    division_of = np.array([fold.division for fold in heads.folds])
    for epoch in range(1, problem.recipe.epochs + 1):
        heads.train_epoch(epoch)
        outputs, losses, scores = heads.validate()  # by fold and setting
        for fold, setting in np.ndindex(losses.shape):
            others = division_of == division_of[fold]
            others[fold] = False
            rank = validation_rank(float(scores[others, setting].mean()), float(losses[others, setting].mean()))
            if np.isfinite(outputs[fold][setting]).all() and (best[fold][1] is None or rank > best[fold][0]):
                best[fold] = rank, outputs[fold][setting]
        means = np.stack([losses[division_of == division].mean(axis=0) for division in range(len(lowest))])
        waited = np.where(means < lowest, 0, waited + 1)
        lowest = np.fmin(lowest, means)
        if (waited >= problem.config.fit_patience).all():
            break
    found = [output for _, output in best if output is not None]
    if len(found) < len(best):
        return None
    return collect(
        problem,
        [
            [output for output, of_fold in zip(found, heads.folds, strict=True) if of_fold.division == division]
            for division in range(len(problem.divisions))
        ],
    )


class _FoldedHeads:
    """Copies of a head, one for each fold and setting.

    Attributes
    ----------
    folds : list of _Fold
        Those of all divisions.
    """

    def __init__(
        self,
        problem: FitProblem,
        template: Head,
        settings: Sequence[dict[str, float]],
        standardizer: MakeStandardizer,
    ) -> None:
        rows = problem.all_rows
        self._problem, self._rows = problem, rows
        self.folds = list(self._divided(template, standardizer))
        at_once = len(self.folds) if template.stackable else 1
        parts = [len(self.folds[start : start + at_once]) for start in range(0, len(self.folds), at_once)]
        self._heads = [
            [
                VmapHeads([template] * size, [setting["rate"]] * size, [setting["weight decay"]] * size, problem.device)
                for size in parts
            ]
            for setting in settings
        ]
        fewest = min(len(fold.fitted) for fold in self.folds)
        self._batch_rows = min(problem.recipe.batch_size, fewest)
        steps_per_epoch = max(fewest // problem.recipe.batch_size, 1)
        # what a schedule does to rate and momentum, done to an optimizer of nothing; the heads follow it
        self._lr_driver = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
        self._schedule = make_schedule(
            self._lr_driver, LRScheduleConfig("onecycle", WARMUP), steps_per_epoch, problem.recipe.epochs
        )

    def train_epoch(self, epoch: int) -> None:
        """Show each head the full batches of an epoch, as many as the fold of the fewest rows has."""
        seed = epoch_seed(self._problem.seed, epoch)
        torch.manual_seed(seed)
        batches = [self._batches(fold, seed) for fold in self.folds]
        for heads in chain(*self._heads):
            heads.train(True)
        for blocks in zip(*batches, strict=False):
            group = self._lr_driver.param_groups[0]
            rows, targets, weights = self._stacked(blocks)
            for of_setting in self._heads:
                start = 0
                for heads in of_setting:
                    part = slice(start, start + heads.size)
                    logits = heads.logits(rows[part], own=True)
                    losses = self._losses(logits, targets[part], None if weights is None else weights[part])
                    # a head whose loss is lost stays where it is; the others go on
                    heads.step_alike(losses.nan_to_num(0.0, 0.0, 0.0), group["lr"], group["betas"][0])
                    start += heads.size
            self._lr_driver.step()
            self._schedule.step()

    def validate(self) -> tuple[list[list[NDArray[np.float32]]], NDArray[np.float64], NDArray[np.float64]]:
        """Return outputs for the rows that were left out, mean losses and scores, by fold and setting."""
        task = self._problem.task
        outputs = self._outputs()
        losses, scores = (np.full((len(self.folds), len(self._heads)), np.nan) for _ in range(2))
        for fold, setting in np.ndindex(losses.shape):
            of_fold, labels = outputs[fold][setting], self._rows.labels[self.folds[fold].scored]
            loss = float(task.loss(torch.from_numpy(of_fold), torch.from_numpy(labels)) / len(labels))
            if np.isfinite(loss):
                losses[fold, setting], scores[fold, setting] = loss, selection_score(task, of_fold, labels)
        return outputs, losses, scores

    @torch.no_grad()
    def _outputs(self) -> list[list[NDArray[np.float32]]]:
        """Return what each head says of the rows that were left out of its fold, by fold and setting."""
        parts: list[list[list[Tensor]]] = [[[] for _ in self._heads] for _ in self.folds]
        for heads in chain(*self._heads):
            heads.eval()
        most = max(len(fold.scored) for fold in self.folds)
        for start in range(0, most, BATCH_ROWS):
            # folds of fewer rows say the last one over again
            asked = np.arange(start, min(start + BATCH_ROWS, most))
            places = [fold.scored[np.minimum(asked, len(fold.scored) - 1)] for fold in self.folds]
            rows = self._stacked_rows([(place, self._rows.features[place]) for place in places])
            for setting, of_setting in enumerate(self._heads):
                for fold, logits in enumerate(_logits(of_setting, rows)):
                    known = max(len(self.folds[fold].scored) - start, 0)
                    parts[fold][setting].append(logits[:known].cpu())
        return [[np.asarray(torch.cat(part).numpy()) for part in of_fold] for of_fold in parts]

    def _divided(self, template: Head, standardizer: MakeStandardizer) -> Iterator[_Fold]:
        """Yield the folds of all divisions."""
        rows, places, task = replace(self._rows, augmented=()), np.arange(len(self._rows)), self._problem.task
        for number, plan in enumerate(self._problem.divisions):
            for selections in plan.splits:
                fitted, scored = (places[selection] for selection in selections)
                weights = None
                of_fitted = task.weights(rows.labels[fitted]) if self._problem.balanced else None
                if of_fitted is not None:
                    of_all = np.zeros((len(rows), *of_fitted.shape[1:]), np.float32)
                    of_all[fitted] = of_fitted
                    weights = torch.from_numpy(of_all).to(self._problem.device)
                scaler = standardizer(rows.at(fitted)) if template.standardized else None
                yield _Fold(number, fitted, scored, scaler, weights)

    def _batches(self, fold: _Fold, seed: int) -> Iterator[Block]:
        balanced = self._problem.config.sampling == "balanced"
        batches = self._rows.shuffled(self._batch_rows, seed, balanced=balanced, among=fold.fitted)
        return (batch for batch in batches if len(batch[0]) == self._batch_rows)  # the rest sits the epoch out

    def _stacked_rows(self, blocks: Sequence[Block]) -> Tensor:
        """Return the rows of a step, [M, b, ...], from those of each fold."""
        rows = [fold.inputs(block, self._problem.device) for fold, (_, block) in zip(self.folds, blocks, strict=True)]
        return torch.stack(rows)

    def _stacked(self, blocks: Sequence[Block]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return rows, targets and weights of a step, [M, b, ...] each, from the batch of each fold."""
        labels = np.stack([self._rows.labels[indices] for indices, _ in blocks])
        targets = uploaded(torch.from_numpy(labels), self._problem.device)
        weights = [
            fold.weights[uploaded(torch.from_numpy(indices), self._problem.device)]
            for fold, (indices, _) in zip(self.folds, blocks, strict=True)
            if fold.weights is not None
        ]
        return self._stacked_rows(blocks), targets, torch.stack(weights) if weights else None

    def _losses(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Return the mean loss of each head, [M]."""
        of_labels = weights is not None and weights.ndim == 3
        losses = self._problem.task.loss(
            logits.flatten(0, 1),
            targets.flatten(0, 1),
            smoothing=self._problem.config.fit_label_smoothing,
            class_weights=weights.flatten(0, 1) if weights is not None and of_labels else None,
            reduction="none",
        ).view(len(logits), -1)
        if weights is not None and not of_labels:
            losses = losses * weights
        return losses.mean(dim=1)


def _logits(side_by_side: Sequence[VmapHeads], rows: Tensor) -> Iterator[Tensor]:
    """Yield what each head says of its own rows, from [folds, b, ...]."""
    start = 0
    for heads in side_by_side:
        yield from heads.logits(rows[start : start + heads.size], own=True)
        start += heads.size
