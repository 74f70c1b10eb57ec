"""Torch heads: epochs over rows, in memory or streamed; rate and weight decay chosen on the validation split."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.errors import CutonceError, UsageError
from stages.config.heads import HeadConfig
from stages.fitting.epochs.map_heads import MapHeadTraining, convolves_in_bf16
from stages.fitting.epochs.torch_folds import WARMUP, fold_torch_head
from stages.fitting.epochs.vmap_heads import VmapHeads, has_norm_layers
from stages.fitting.feature_rows import BATCH_ROWS, AnyFeatureRows, FeatureRows, concat, in_batches
from stages.fitting.out_of_fold import OutOfFold
from stages.fitting.problem import FitProblem, full_batches
from stages.fitting.result import HeadFit
from stages.fitting.scores import selection_score
from stages.fitting.standardize import BagStandardizer, Standardizer
from stages.network.heads.base import Head
from stages.network.heads.blocks import JoinedHead
from stages.network.heads.registry import build_head, recipe_of_head
from stages.runtime.device import uploaded
from stages.runtime.progress import progress
from stages.runtime.seeding import epoch_seed, preserve_rng_state
from stages.runtime.threads import single_threaded
from stages.tasks.base import find_metric
from stages.tasks.running_score import sums_of
from stages.training.config import TrainConfig
from stages.training.evaluation import predict
from stages.training.history import Epoch, RunningMetrics, Validation
from stages.training.losses import statistics_of
from stages.training.lr_schedules import LRScheduleConfig, make_schedule
from stages.training.train_loop import Contender, run_epochs

_SMALL_BATCH = 256
"""Rows of vectors below which a step is too small to be shared by several threads."""

_LOST_SCORE = -math.inf
"""Score of a setting whose loss was not a number in its first epoch: below all others, of errors too."""


def fit_torch_head(name: str, problem: FitProblem) -> HeadFit:
    """Train a torch head with every rate and weight decay of the options, keep the best, and train it on all rows."""
    defaults = recipe_of_head(name, on_maps=problem.maps is not None)
    problem = replace(problem, defaults=defaults)
    options, recipe, train, val = problem.config, problem.recipe, problem.train, problem.val
    if options.sampling == "balanced" and not isinstance(train, FeatureRows):
        raise UsageError(
            "`sampling` balanced draws rows at random, and these are streamed; use `class_weights` balanced"
        )
    settings = [
        {"rate": rate, "weight decay": decay} for rate, decay in itertools.product(recipe.lr, options.fit_weight_decay)
    ]
    are_vectors = len(train.row_shape) == 1 and problem.maps is None
    has_small_steps = (are_vectors or problem.bags) and recipe.batch_size < _SMALL_BATCH
    side_by_side = _HeadsSideBySide if problem.maps is None else MapHeadTraining

    def fold() -> OutOfFold | None:
        with preserve_rng_state():  # a step for all folds is large enough to be shared by threads
            drawn = _draw(name, problem)
            return fold_torch_head(problem, drawn, settings, lambda rows: _standardizer(rows, options, drawn))

    with preserve_rng_state(), single_threaded() if has_small_steps else nullcontext():
        template = _draw(name, problem)
        if recipe.batch_size == 1 and problem.maps is None and has_norm_layers(template):
            raise UsageError(
                f"`head` {name} normalizes the rows of a batch by each other, and with `fit_batch_size` 1 there is "
                "one; give 2 or more"
            )
        train_scaler = _standardizer(train, options, template)
        at_once = len(settings) if template.stackable else 1
        contenders: list[Contender] = []
        for start in range(0, len(settings), at_once):
            group = settings[start : start + at_once]
            contenders += _contend(side_by_side(template, group, problem, train, train_scaler))
        scores = [
            contender.result.best_selection if contender.result.best is not None else _LOST_SCORE
            for contender in contenders
        ]
        candidates = [{**setting, "score": score} for setting, score in zip(settings, scores, strict=True)]
        number = max(range(len(scores)), key=scores.__getitem__)
        result = contenders[number].result
        if result.best is None:
            raise CutonceError(
                "the training loss became NaN or infinite with every `fit_lr`; try a tenth of the lowest"
            )
        without_val = _with(template, contenders[number].best_weights, train_scaler)
        all_rows = concat(train, val)
        scaler = _standardizer(all_rows, options, template)
        refit = side_by_side(template, [settings[number]], problem, all_rows, scaler, validates=False)
        head = _with(template, _weights_after(refit, result.best.epoch), scaler)
    description = {
        **settings[number],
        "best epoch": result.best.epoch,
        "epochs run": result.history[-1].epoch,
        "batch size": recipe.batch_size,
        **{name: value for name, value in template.config.items() if name in ("hidden", "dropout", "l2", "rates")},
        **({"convolutions": "bf16"} if convolves_in_bf16(template, problem.device) else {}),
        "selected by": "validation split",
        "refitted on": f"train+val, {result.best.epoch} epochs",
    }
    return HeadFit(head, without_val, description, candidates, result.history, fold)


def _draw(name: str, problem: FitProblem) -> Head:
    """Return a new head, drawn from the seed."""
    torch.manual_seed(problem.seed)
    options, dropout = problem.config, problem.recipe.dropout
    cut, blocks, maps = problem.cut, problem.blocks, problem.maps
    if blocks is not None and blocks.images:
        beside = blocks.width - blocks.images
        shape, outputs = problem.train.row_shape, problem.task.out_features
        return JoinedHead(shape, outputs, name, beside, options.hidden_dim, dropout)
    return build_head(
        name,
        problem.train.row_shape,
        problem.task.out_features,
        {
            "hidden": options.hidden_dim,
            "dropout": dropout,
            "l2": options.fit_scaler == "l2",
            "maps": None if maps is None else maps.to_json(),
        },
        None if cut is None else (cut.graph, cut.cut),
    )


def _contend(heads: _HeadsSideBySide | MapHeadTraining) -> list[Contender]:
    """Train heads until each has stopped; return their histories and best weights."""
    contenders = [Contender() for _ in heads.settings]
    epochs = progress(range(1, heads.config.epochs + 1), label="epochs, at most", unit="epochs")
    run_epochs(heads, contenders, epochs, heads.config.patience)
    return contenders


def _weights_after(heads: _HeadsSideBySide | MapHeadTraining, epochs: int) -> dict[str, Tensor]:
    """Return the weights of the first head after so many epochs, of which none is validated."""
    run_epochs(heads, [Contender()], progress(range(1, epochs + 1), label="all rows", unit="epochs"))
    return heads.snapshot(0)


class _HeadsSideBySide:
    """The trainee that is copies of a head, one for each setting, which are shown the same batches.

    Parameters
    ----------
    template : Head
    settings : list of dict
        Highest rate and weight decay of each.
    problem : FitProblem
    rows : FeatureRows or StreamedFeatureRows
        What is trained on.
    scaler : Standardizer, optional
    validates : bool
        Whether there is a validation split beside the rows.
    """

    def __init__(
        self,
        template: Head,
        settings: list[dict[str, float]],
        problem: FitProblem,
        rows: AnyFeatureRows,
        scaler: Standardizer | None,
        validates: bool = True,
    ) -> None:
        options, recipe, task = problem.config, problem.recipe, problem.task
        self.settings = settings
        self.config = TrainConfig(
            recipe.epochs, problem.seed, label_smoothing=options.fit_label_smoothing, patience=options.fit_patience
        )
        self._problem, self._rows, self._scaler, self._validates = problem, rows, scaler, validates
        self._metric = find_metric(task)
        rates, decays = ([setting[name] for setting in settings] for name in ("rate", "weight decay"))
        self._heads = VmapHeads([template] * len(settings), rates, decays, problem.device)
        # what a schedule does to rate and momentum, done to an optimizer of nothing; the heads follow it
        self._lr_driver = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
        steps_per_epoch = max(len(rows) // recipe.batch_size, 1)
        schedule = LRScheduleConfig("onecycle", WARMUP)
        self._schedule = make_schedule(self._lr_driver, schedule, steps_per_epoch, recipe.epochs)
        sample_weights = task.weights(rows.labels) if problem.balanced else None
        self._sample_weights = torch.from_numpy(sample_weights) if sample_weights is not None else None
        self._epoch = 0
        self._loss_sums = torch.zeros(0)  # where the heads are: to read it is to wait
        self._tallies: list[RunningMetrics] = []

    def train_epoch(self, epoch: int) -> None:
        """Show all heads the full batches of an epoch."""
        self._epoch = epoch
        seed = epoch_seed(self.config.seed, epoch)
        torch.manual_seed(seed)
        self._heads.train(True)
        device = self._problem.device
        self._loss_sums = torch.zeros(self._heads.size, device=device)
        self._tallies = [RunningMetrics() for _ in self.settings]
        unscored: list[tuple[Tensor, Tensor]] = []
        for indices, block in full_batches(self._rows, self._problem, seed):
            targets = uploaded(torch.from_numpy(self._rows.labels[indices]), device)
            logits = self._heads.logits(_inputs(block, self._scaler, device))
            losses = self._losses(logits, targets, indices)
            group = self._lr_driver.param_groups[0]
            # a head whose loss is lost stays where it is; the others go on
            self._heads.step(losses.nan_to_num(0.0, 0.0, 0.0), group["lr"], group["betas"][0])
            self._lr_driver.step()
            self._schedule.step()
            self._loss_sums += losses.detach() * len(indices)
            unscored.append((logits.detach(), targets))
            if len(unscored) * len(targets) >= BATCH_ROWS:  # scoring each step would take longer than the step
                self._score(unscored)
                unscored = []
        if unscored:
            self._score(unscored)

    def validate(self) -> list[Validation]:
        """Return loss, score and what selects of every head, on the validation rows."""
        if not self._validates:
            return []
        val, device = self._problem.val, self._problem.device
        blocks = (_inputs(block, self._scaler, device) for _, block in in_batches(val))
        logits = predict(self._heads, blocks, None).transpose(0, 1).contiguous()
        return [self._validation(head_logits, torch.from_numpy(val.labels)) for head_logits in logits]

    def row(self, index: int, validation: Validation, seconds: float) -> Epoch | None:
        """Return the row of the epoch; None where the loss of a head is lost."""
        tally = self._tallies[index]
        train_loss = float(self._loss_sums[index]) / tally.count if tally.count else float("nan")
        if not np.isfinite(train_loss) or not np.isfinite(validation.loss):
            return None
        rate = self.settings[index]["rate"] * self._lr_driver.param_groups[0]["lr"]
        train_score = tally.score(self._metric)
        return Epoch(self._epoch, train_loss, train_score, validation.loss, validation.score, rate, seconds)

    def snapshot(self, index: int) -> dict[str, Tensor]:
        """Return a copy of all tensors of a head."""
        return self._heads.weights(index)

    def end_epoch(self) -> None:
        """Nothing is kept on disk: a head that was stopped is trained again."""

    def _losses(self, logits: Tensor, targets: Tensor, indices: NDArray[np.int64]) -> Tensor:
        """Return the mean loss of each head, [M]."""
        weights, heads = None, len(logits)
        if self._sample_weights is not None:
            weights = uploaded(self._sample_weights[torch.from_numpy(indices)], self._problem.device)
        of_labels = weights is not None and weights.ndim == 2
        losses = self._problem.task.loss(
            logits.flatten(0, 1),
            targets.repeat(heads, *[1] * (targets.ndim - 1)),
            smoothing=self.config.label_smoothing,
            class_weights=weights.repeat(heads, 1) if weights is not None and of_labels else None,
            reduction="none",
        ).view(heads, -1)
        if weights is not None and not of_labels:
            losses = losses * weights
        return losses.mean(dim=1)

    def _score(self, steps: list[tuple[Tensor, Tensor]]) -> None:
        """Add the logits [M, b, ...] and targets of some steps to what the heads scored in the epoch."""
        logits, targets = torch.cat([pair[0] for pair in steps], dim=1), torch.cat([pair[1] for pair in steps])
        for tally, head_logits, loss_sum in zip(self._tallies, logits, self._loss_sums.cpu(), strict=True):
            if not loss_sum.isfinite():  # this head is lost, and statistics of its output would be refused
                continue
            sums = sums_of(self._metric, statistics_of(self._problem.task, head_logits, targets))
            tally.add(RunningMetrics(score_sums=[] if sums is None else sums.tolist(), count=len(targets)))

    def _validation(self, logits: Tensor, targets: Tensor) -> Validation:
        """Return how a head with these logits on all validation rows validates."""
        task = self._problem.task
        loss = float(task.loss(logits, targets) / len(targets))
        if not np.isfinite(loss):
            return Validation(loss, float("nan"), float("nan"))
        score = self._metric.score(statistics_of(task, logits, targets))
        return Validation(loss, score, selection_score(task, logits.numpy(), targets.numpy()))


def _inputs(block: Any, scaler: Standardizer | None, device: torch.device) -> Tensor:
    rows = uploaded(torch.from_numpy(block), device).float()
    return rows if scaler is None else scaler.transform(rows)


def _standardizer(rows: AnyFeatureRows, options: HeadConfig, head: Head) -> Standardizer | None:
    """Return what standardizes the rows, where the head is one that is trained on such; else nothing."""
    if not head.standardized or options.fit_scaler != "standard":
        return None
    return (BagStandardizer if head.takes_bags else Standardizer).fit(rows)


def _with(template: Head, weights: dict[str, Tensor], scaler: Standardizer | None) -> Head:
    """Return a head with these tensors that takes rows as they are cached."""
    head = VmapHeads([template], [0.0], [0.0], torch.device("cpu")).head(weights)
    if scaler is not None:
        scaler.fold_into(next(module for module in head.modules() if isinstance(module, nn.Linear)))
    return head
