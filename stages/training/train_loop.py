"""The training loop: epochs over batches, validation after each, the best epoch kept, a checkpoint to go on from.

It knows neither images nor caches: a batch is whatever the model takes, with labels. What a step is stands in
``step.py``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim import Optimizer

from cache.errors import CutonceError, DataError
from stages.config.version_1 import as_version_1
from stages.runtime.distributed import SINGLE_PROCESS, Rank
from stages.training.checkpoint import CheckpointFile, TrainingFingerprint
from stages.training.config import TrainConfig
from stages.training.ema import ModelEMA, TrainableState
from stages.training.evaluation import Batches, evaluate_loss
from stages.training.history import Epoch, RunningMetrics, TrainResult
from stages.training.lr_schedules import Scheduler
from stages.training.train_step import Batch, NotFiniteError, TrainStep

__all__ = ["Batches", "Epoch", "TrainConfig", "TrainResult", "evaluate_loss", "train"]


def train(
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: Scheduler,
    options: TrainConfig,
    *,
    train_batches: Callable[[int, int], Batches],
    val_batches: Callable[[], Batches],
    checkpoint: Path | None = None,
    identity: TrainingFingerprint | None = None,
    on_epoch_start: Callable[[int, int], None] = lambda epoch, first: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    rank: Rank = SINGLE_PROCESS,
) -> TrainResult:
    """Train `model` and leave it with the weights of its best validation epoch.

    Parameters
    ----------
    model : nn.Module
        Inputs -> logits, or (logits, [(weight, auxiliary logits), ...]). To compile it, use ``model.compile()``.
    optimizer : Optimizer
        Over all parameters that train at any time, in the groups of ``optimisers.py``.
    scheduler : Scheduler
        Made for as many steps as there will be.
    options : TrainConfig
    train_batches : callable
        ``(epoch, first) -> iterable of (inputs, labels)``, from batch number `first` of the epoch on; epochs count from
        1, batches from 0. A batch must depend on epoch and number alone, not on torch's random state.
    val_batches : callable
        ``() -> iterable of (inputs, labels)``.
    checkpoint : Path, optional
        Written after every epoch and every `checkpoint_seconds`. Where it exists, the training goes on from it, to the
        very weights it would have come to.
    identity : mapping, optional
        All else that shapes this training, by option; the checkpoint of another one is refused. The options given here
        and the number of processes need not be in it.
    on_epoch_start : callable
        ``(epoch, first)``, called before the batches of an epoch are asked for, to freeze and unfreeze layers; `first`
        is more than 0 where a killed training goes on within the epoch.
    on_epoch : callable
        Told each row of the history, in every process.
    rank : Rank
        One of several processes, each with a share of every batch and of the validation batches, and with as many
        batches as the others. All end with the same weights; the first writes the checkpoint.

    Raises
    ------
    UsageError
        If the checkpoint is of another training: says what differs.
    CutonceError
        If the loss becomes NaN or infinite: says in which step, and where the best weights so far are kept.
    """
    run = _TrainState(model, optimizer, scheduler, options, rank)
    checkpoints = CheckpointFile(
        checkpoint if rank.is_main else None,
        {**_shaping(options), "processes": rank.world_size, **(identity or {})},
        options.checkpoint_seconds,
    )
    if (saved := rank.broadcast_from_first(checkpoints.load)) is None:
        on_epoch(run.add(Epoch(0, None, None, *run.validate(val_batches()), lr=0.0, seconds=0.0)))
    else:
        run.restore(saved)

    try:
        while not run.finished:
            started = time.perf_counter() - run.seconds
            on_epoch_start(run.epoch, run.batches)
            model.train()
            for batches in run.accumulation_groups(train_batches):
                run.step(batches)
                if checkpoints.due:
                    run.seconds = time.perf_counter() - started
                    checkpoints.save(run.state())
            validated = run.validate(val_batches())
            epoch = run.end_epoch(*validated, seconds=time.perf_counter() - started)
            checkpoints.save(run.state())
            on_epoch(epoch)
    except NotFiniteError as error:
        raise CutonceError(run.diagnosis(error, checkpoint)) from error

    run.weights.load(model, run.best_weights)
    model.eval()
    return run.fit


class _TrainState:
    """All that changes while a model trains: what a checkpoint keeps and gives back.

    Attributes
    ----------
    epoch, batches : int
        The epoch in progress, from 1, and how many of its batches are done.
    steps : int
        Steps of the optimiser in all epochs.
    seconds : float
        That the epoch in progress took before it was interrupted.
    tally : RunningMetrics
        Of the epoch in progress.
    fit : TrainResult
    best_weights : dict of str to Tensor
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, scheduler: Scheduler, options: TrainConfig, rank: Rank
    ) -> None:
        self._model, self._optimizer, self._scheduler, self._options = model, optimizer, scheduler, options
        self._rank = rank
        self._step = TrainStep(model, optimizer, options, rank)
        self._average = ModelEMA(model, options.model_ema_decay)
        self.weights = TrainableState(model, optimizer)
        self.epoch, self.batches, self.steps, self.seconds, self.tally = 1, 0, 0, 0.0, RunningMetrics()
        self.fit = TrainResult()
        self.best_weights: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or nothing has got better for too long."""
        patience = self._options.patience
        return self.epoch > self._options.epochs or (patience is not None and self.fit.idle() >= patience)

    def accumulation_groups(self, train_batches: Callable[[int, int], Batches]) -> Iterator[list[Batch]]:
        """Yield the batches of each step that is left of the epoch."""
        torch.manual_seed(self._seed())  # what a loader of batches draws as it begins is the same every time
        batches = iter(train_batches(self.epoch, self.batches))
        while some := list(islice(batches, self._options.grad_accum_steps)):
            yield some
        if not self.batches:
            raise DataError("there is no batch to train on; give more images, or smaller batches")

    def step(self, batches: list[Batch]) -> None:
        """Train on a few batches."""
        seed = self._seed(self.batches)
        self.batches += len(batches)
        self.steps += 1
        self.tally.add(self._step(batches, seed))
        self._scheduler.step()
        self._average.update(self.steps)

    def validate(self, batches: Batches) -> tuple[float, float]:
        """Return loss and accuracy on the validation batches."""
        if self._rank.world_size > 1:  # each process has BatchNorm statistics of its own; those of the first count
            for buffer in (*self._model.buffers(), *self._average.model.buffers()):
                torch.distributed.broadcast(buffer, src=0)
        return evaluate_loss(self._average.model, batches, self._rank)

    def end_epoch(self, val_loss: float, val_accuracy: float, seconds: float) -> Epoch:
        """Write the row of the epoch in progress, and go to the next."""
        if not math.isfinite(val_loss):
            raise NotFiniteError(f"validation loss became {val_loss}")
        self._scheduler.end_epoch(val_loss)
        groups = self._optimizer.param_groups
        row = self.add(
            Epoch(
                self.epoch,
                self.tally.loss,
                self.tally.accuracy,
                val_loss,
                val_accuracy,
                lr=max(float(group["lr"]) for group in groups),
                seconds=seconds,
                terms=self.tally.means(),
                lrs={group["block"]: float(group["lr"]) for group in groups},
            )
        )
        self.epoch, self.batches, self.seconds, self.tally = self.epoch + 1, 0, 0.0, RunningMetrics()
        return row

    def add(self, epoch: Epoch) -> Epoch:
        """Add a row to the history, and keep the weights if it is the best."""
        if self.fit.add(epoch):
            self.best_weights = self.weights.snapshot(self._average.model)
        return epoch

    def state(self) -> dict[str, Any]:
        """Return all of it, as torch and JSON have it, not copied.

        Raises
        ------
        NotFiniteError
            If a weight is not finite: such a state is not worth going on from.
        """
        trained = (parameter for group in self._optimizer.param_groups for parameter in group["params"])
        if not all(bool(parameter.isfinite().all()) for parameter in trained):
            raise NotFiniteError("weights became NaN or infinite")
        return {
            "model": self.weights.of(self._model),
            "average": self.weights.of(self._average.model),
            "optimiser": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "scaler": self._step.precision.scaler.state_dict(),
            "parts": self._step.micro_batches,
            "place": [self.epoch, self.batches, self.steps, self.seconds],
            "tally": asdict(self.tally),
            "history": [epoch.to_json() for epoch in self.fit.history],
            "best weights": self.best_weights,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take on a state."""
        self.weights.load(self._model, state["model"])
        self.weights.load(self._average.model, state["average"])
        self._optimizer.load_state_dict(state["optimiser"])
        self._scheduler.load_state_dict(state["scheduler"])
        self._step.precision.scaler.load_state_dict(state["scaler"])
        self._step.micro_batches = state["parts"]
        self.epoch, self.batches, self.steps, self.seconds = state["place"]
        self.tally = RunningMetrics(**state["tally"])
        for row in state["history"]:
            self.fit.add(Epoch.from_json(row))
        self.best_weights = state["best weights"]
        self.fit.resumed_from = self.fit.history[-1].epoch

    def diagnosis(self, error: NotFiniteError, checkpoint: Path | None) -> str:
        """Say where a training was lost, why it may have been, and what is left of it."""
        rate = max(float(group["lr"]) for group in self._optimizer.param_groups)
        said = (
            f"the {error} at step {-(-self.batches // self._options.grad_accum_steps)} of epoch {self.epoch}, at "
            "a rate of "
            f"{rate:.3g}; the learning rate is too high for this network: try a tenth of it"
        )
        if self._options.amp_dtype == "fp16":
            said += ", or `amp_dtype` bf16, whose numbers overflow less soon"
        if checkpoint is not None and checkpoint.exists() and self.fit.best is not None:
            said += f". The best weights so far, those of epoch {self.fit.best.epoch}, are kept in {checkpoint}"
        return said

    def _seed(self, *place: int) -> int:
        """Return a seed for this process and this epoch, or a place in it."""
        numbers = (self._options.seed, self._rank.index, self.epoch, *place)
        return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _shaping(options: TrainConfig) -> TrainingFingerprint:
    """Return the options that change what a training comes to."""
    return {name: value for name, value in as_version_1(asdict(options)).items() if name != "checkpoint_seconds"}
