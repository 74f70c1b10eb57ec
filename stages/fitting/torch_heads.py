"""Torch heads: epochs over rows, in memory or streamed; rate and weight decay chosen on the validation split."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cache.errors import CutonceError, UsageError
from stages.config.heads import HeadConfig as Options
from stages.fitting.feature_rows import AnyFeatureRows, FeatureRows, concat, in_batches
from stages.fitting.problem import FitProblem
from stages.fitting.result import HeadFit
from stages.fitting.scores import selection_score
from stages.fitting.standardize import Standardizer
from stages.fitting.vmap_heads import VmapHeads
from stages.network.heads.base import Head
from stages.network.heads.registry import build_head
from stages.runtime.progress import progress
from stages.runtime.seeding import epoch_seed, preserve_rng_state
from stages.runtime.threads import single_threaded
from stages.training.history import Epoch
from stages.training.lr_schedules import LRScheduleConfig, make_schedule

_WARMUP = 0.3
"""Share of the steps in which the rate of the one-cycle schedule rises."""

_SMALL_BATCH = 256
"""Rows of vectors below which a step is too small to be shared by several threads."""


@dataclass
class HeadTrainResult:
    """How one setting went.

    Attributes
    ----------
    history : list of Epoch
        Up to where it stopped.
    best : Epoch
        The epoch that validated best, by accuracy, then by loss.
    score : float
        Validation accuracy of that epoch; with balanced classes, the mean of their recall.
    weights : dict
        Tensors of that epoch.
    """

    history: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    score: float = -1.0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def epochs_since_best(self) -> int:
        """Return the number of epochs since the lowest validation loss."""
        losses = [epoch.val_loss for epoch in self.history]
        return len(losses) - 1 - int(np.argmin(losses))


def fit_torch_head(name: str, problem: FitProblem) -> HeadFit:
    """Train a torch head with every rate and weight decay of the options, keep the best, and train it on all rows."""
    options, train, val = problem.config, problem.train, problem.val
    if options.sampling == "balanced" and not isinstance(train, FeatureRows):
        raise UsageError(
            "`sampling` balanced draws rows at random, and these are streamed; use `class_weights` balanced"
        )
    settings = [
        {"rate": rate, "weight decay": decay}
        for rate, decay in itertools.product(options.fit_lr, options.fit_weight_decay)
    ]
    few = len(train.row_shape) == 1 and options.fit_batch_size < _SMALL_BATCH
    with preserve_rng_state(), single_threaded() if few else nullcontext():
        template = _draw(name, problem)
        of_train = _standardizer(train, options, template)
        at_once = len(settings) if template.stackable else 1
        courses: list[HeadTrainResult] = []
        for start in range(0, len(settings), at_once):
            some = settings[start : start + at_once]
            courses += _train(template, some, problem, train, of_train)
        tried = [{**one, "score": course.score} for one, course in zip(settings, courses, strict=True)]
        number = max(range(len(courses)), key=lambda number: courses[number].score)
        chosen = courses[number]
        if chosen.best is None:
            raise CutonceError(
                "the training loss became NaN or infinite with every `fit_lr`; try a tenth of the lowest"
            )
        without_val = _with(template, chosen.weights, of_train)
        both = concat(train, val)
        of_both = _standardizer(both, options, template)
        n_epochs = chosen.best.epoch
        again = _train(template, [settings[number]], problem, both, of_both, n_epochs)[0]
        head = _with(template, again.weights, of_both)
    said = {
        **settings[number],
        "best epoch": n_epochs,
        "epochs run": chosen.history[-1].epoch,
        "batch size": options.fit_batch_size,
        **{name: value for name, value in template.config.items() if name in ("hidden", "dropout", "l2")},
        "selected by": "validation split",
        "refitted on": f"train+val, {n_epochs} epochs",
    }
    return HeadFit(head, without_val, said, tried, chosen.history)


def _draw(name: str, problem: FitProblem) -> Head:
    """Return a new head, drawn from the seed."""
    torch.manual_seed(problem.seed)
    options, cut = problem.config, problem.cut
    return build_head(
        name,
        problem.train.row_shape,
        problem.task.out_features,
        options.hidden_dim,
        options.dropout,
        l2=options.fit_scaler == "l2",
        graph=cut.graph if cut is not None else None,
        cut=cut.cut if cut is not None else None,
    )


def _train(
    pattern: Head,
    settings: list[dict[str, float]],
    problem: FitProblem,
    rows: AnyFeatureRows,
    scaler: Standardizer | None,
    n_epochs: int | None = None,
) -> list[HeadTrainResult]:
    """Train copies of a head side by side on some rows.

    Each keeps its best epoch on the validation split; or, where `n_epochs` says how many there are, the last one, and
    nothing is validated.
    """
    options, task, seed, device = problem.config, problem.task, problem.seed, problem.device
    heads = [pattern] * len(settings)
    stack = VmapHeads(heads, [one["rate"] for one in settings], [one["weight decay"] for one in settings], device)
    steps_per_epoch = max(len(rows) // options.fit_batch_size, 1)
    lr_driver = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = make_schedule(lr_driver, LRScheduleConfig("onecycle", _WARMUP), steps_per_epoch, options.fit_epochs)
    courses = [HeadTrainResult() for _ in settings]
    running = set(range(len(settings)))
    of_samples = task.weights(rows.labels) if problem.balanced else None
    weights = torch.from_numpy(of_samples) if of_samples is not None else None
    numbers = range(1, (n_epochs or options.fit_epochs) + 1)
    for number in progress(numbers, label="all rows" if n_epochs else "epochs, at most", unit="epochs"):
        if not running:
            break
        started = time.perf_counter()
        torch.manual_seed(epoch_seed(seed, number))
        stack.train(True)
        loss_sum, right, count = torch.zeros(stack.size), torch.zeros(stack.size), 0
        for places, block in _full_batches(rows, options, epoch_seed(seed, number)):
            labels = torch.from_numpy(rows.labels[places]).to(device)
            logits = stack.logits(_inputs(block, scaler, device))
            of_all = logits.flatten(0, 1), labels.repeat(stack.size)
            each = task.loss(*of_all, smoothing=options.fit_label_smoothing, reduction="none").view(stack.size, -1)
            if weights is not None:
                each = each * weights[torch.from_numpy(places)].to(device)
            losses = each.mean(dim=1)
            # a head whose loss is lost stays where it is; the others go on
            stack.step(
                losses.nan_to_num(0.0, 0.0, 0.0), lr_driver.param_groups[0]["lr"], lr_driver.param_groups[0]["betas"][0]
            )
            lr_driver.step()
            schedule.step()
            loss_sum += losses.detach().cpu() * len(places)
            right += (logits.detach().argmax(dim=2) == labels).sum(dim=1).cpu()
            count += len(places)
        if n_epochs:
            continue
        validated = _validate(stack, problem, scaler)
        seconds = time.perf_counter() - started
        for one in list(running):
            course, (val_loss, val_accuracy, score) = courses[one], validated[one]
            train_loss, train_accuracy = float(loss_sum[one]) / count, float(right[one]) / count
            if not np.isfinite(train_loss) or not np.isfinite(val_loss):
                running.discard(one)
                continue
            rate = settings[one]["rate"] * lr_driver.param_groups[0]["lr"]
            row = Epoch(number, train_loss, train_accuracy, val_loss, val_accuracy, rate, seconds)
            course.history.append(row)
            if course.best is None or (score, -val_loss) > (course.score, -course.best.val_loss):
                course.best, course.score, course.weights = row, score, stack.weights(one)
            if course.epochs_since_best() >= options.patience:
                running.discard(one)
    if n_epochs:
        courses[0].weights = stack.weights(0)
    return courses


@torch.no_grad()
def _validate(stack: VmapHeads, problem: FitProblem, scaler: Standardizer | None) -> list[tuple[float, float, float]]:
    """Return loss, accuracy and score of every head on the validation rows."""
    val, device = problem.val, problem.device
    stack.train(False)
    of_batches = [stack.logits(_inputs(block, scaler, device)).float().cpu() for _, block in in_batches(val)]
    logits, labels = torch.cat(of_batches, dim=1), torch.from_numpy(val.labels)
    return [
        (
            float(problem.task.loss(of_head, labels) / len(labels)),
            float((of_head.argmax(dim=1) == labels).float().mean()),
            selection_score(of_head.numpy(), val.labels, problem.balanced),
        )
        for of_head in logits
    ]


def _full_batches(rows: AnyFeatureRows, options: Options, seed: int) -> Iterator[tuple[Any, Any]]:
    """Yield full batches of an epoch; the rest of fewer rows sits it out, or is all there is."""
    size = min(options.fit_batch_size, len(rows))
    if isinstance(rows, FeatureRows):
        batches = rows.shuffled(size, seed, balanced=options.sampling == "balanced")
    else:
        batches = rows.shuffled(size, seed)
    return ((places, block) for places, block in batches if len(places) == size)


def _inputs(block: Any, scaler: Standardizer | None, device: torch.device) -> Tensor:
    rows = torch.from_numpy(block).to(device).float()
    return rows if scaler is None else scaler.transform(rows)


def _standardizer(rows: AnyFeatureRows, options: Options, head: Head) -> Standardizer | None:
    """Return what standardizes the rows, where the head is one that is trained on such; else nothing."""
    return Standardizer.fit(rows) if head.standardized and options.fit_scaler == "standard" else None


def _with(pattern: Head, weights: dict[str, Tensor], scaler: Standardizer | None) -> Head:
    """Return a head with these tensors that takes rows as they are cached."""
    head = VmapHeads([pattern], [0.0], [0.0], torch.device("cpu")).head(weights)
    if scaler is not None:
        scaler.fold_into(next(module for module in head.modules() if isinstance(module, nn.Linear)))
    return head
