"""The training loop: epochs of steps, validation after each, the best epoch kept, an early end, a way to go on.

`run_epochs` drives whatever trains in epochs, one model or several side by side, and knows of them only what `Trainee`
says. `train` has it drive one model by gradient steps over batches; it knows neither images nor caches: a batch is
whatever the model takes, with targets. What a step is stands in ``train_step.py``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim import Optimizer

from cache.errors import CutonceError, DataError, UsageError
from stages.config.version_1 import as_version_1
from stages.runtime.device import is_lost, not_deterministic
from stages.runtime.distributed import SINGLE_PROCESS, Rank
from stages.tasks.base import Task, find_metric
from stages.training.checkpoint import CheckpointFile, TrainingFingerprint
from stages.training.class_weights import ClassWeights
from stages.training.config import TrainConfig
from stages.training.ema import ModelEMA, TrainableState
from stages.training.evaluation import Batches, evaluate_loss
from stages.training.history import Epoch, RunningMetrics, TrainResult, Validation
from stages.training.lr_schedules import Scheduler
from stages.training.train_step import Batch, NotFiniteError, TrainStep


class Trainee(Protocol):
    """What trains in epochs: one model, or several side by side, which are told apart by their `index`."""

    def train_epoch(self, epoch: int) -> None:
        """Take the steps of an epoch; epochs count from 1."""
        ...

    def validate(self) -> Sequence[Validation]:
        """Return how each model validates; nothing where there is nothing to validate on."""
        ...

    def row(self, index: int, validation: Validation, seconds: float) -> Epoch | None:
        """Return the epoch's row in the history of a model; None of a model that is lost and trains no more."""
        ...

    def snapshot(self, index: int) -> dict[str, Tensor]:
        """Return a copy of the tensors of a model that was just validated."""
        ...

    def end_epoch(self) -> None:
        """Do what is left to be done once the rows are written."""
        ...


@dataclass
class Contender:
    """One of the models that train side by side.

    Attributes
    ----------
    result : TrainResult
    best_weights : dict of str to Tensor
        Those of its best epoch so far.
    lost : bool
        Whether its loss is not a number any more.
    """

    result: TrainResult = field(default_factory=TrainResult)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    lost: bool = False

    def is_done(self, patience: int | None) -> bool:
        """Whether it is lost, or its validation loss has not got lower for `patience` epochs."""
        return self.lost or (patience is not None and self.result.epochs_without_improvement() >= patience)


def run_epochs(
    trainee: Trainee, contenders: Sequence[Contender], epochs: Iterable[int], patience: int | None = None
) -> None:
    """Train epoch after epoch, and keep each model's history and best weights, until there are no more.

    Parameters
    ----------
    trainee : Trainee
    contenders : sequence of Contender
        One for each of its models, with what is known from before.
    epochs : iterable of int
        Numbers of the epochs that are left.
    patience : int, optional
        A model whose validation loss has not got lower for so many epochs is done; the training ends with the last.
    """
    for epoch in epochs:
        running = [index for index, contender in enumerate(contenders) if not contender.is_done(patience)]
        if not running:
            break
        started = time.perf_counter()
        trainee.train_epoch(epoch)
        validations = trainee.validate()
        seconds = time.perf_counter() - started
        for index in running if validations else ():
            contender, row = contenders[index], trainee.row(index, validations[index], seconds)
            if row is None:
                contender.lost = True
            elif contender.result.add(row, validations[index].selection):
                contender.best_weights = trainee.snapshot(index)
        trainee.end_epoch()


@dataclass(frozen=True)
class TrainRun:
    """What trains, and on what.

    Attributes
    ----------
    model : nn.Module
        Inputs -> logits, or (logits, [(weight, auxiliary logits), ...]). To compile it, use ``model.compile()``.
    optimizer : Optimizer
        Over all parameters that train at any time, in the groups of ``optim.py``.
    config : TrainConfig
    task : Task
    train_batches : callable
        ``(epoch, first) -> iterable of (inputs, targets)``, from batch number `first` of the epoch on; epochs count
        from 1, batches from 0. A batch must depend on epoch and number alone, not on torch's random state.
    val_batches : callable
        ``() -> iterable of (inputs, targets)``.
    rank : Rank
        One of several processes, each with a share of every batch and of the validation batches, and with as many
        batches as the others. All end with the same weights; the first writes the checkpoint.
    class_weights : ClassWeights, optional
        How much classes count in the loss that is minimized, and not in that of validation; by default alike.
    """

    model: nn.Module
    optimizer: Optimizer
    config: TrainConfig
    task: Task
    train_batches: Callable[[int, int], Batches]
    val_batches: Callable[[], Batches]
    rank: Rank = SINGLE_PROCESS
    class_weights: ClassWeights | None = None


@dataclass(frozen=True)
class TrainHooks:
    """What happens beside the training.

    Attributes
    ----------
    checkpoint : Path, optional
        Written after every epoch and every `checkpoint_seconds`. Where it exists, the training goes on from it, to the
        very weights it would have come to.
    identity : mapping
        All else that shapes this training, by option; the checkpoint of another one is refused. The options of the
        training and the number of processes need not be in it.
    on_epoch_start : callable
        ``(epoch, first)``, called before the batches of an epoch are asked for, to freeze and unfreeze layers; `first`
        is more than 0 where a killed training goes on within the epoch.
    on_epoch : callable
        Told each row of the history, in every process.
    """

    checkpoint: Path | None = None
    identity: TrainingFingerprint = field(default_factory=dict)
    on_epoch_start: Callable[[int, int], None] = lambda epoch, first: None
    on_epoch: Callable[[Epoch], None] = lambda epoch: None


NO_HOOKS = TrainHooks()


def train(run: TrainRun, scheduler: Scheduler, hooks: TrainHooks = NO_HOOKS) -> TrainResult:
    """Train a model and leave it with the weights of its best validation epoch.

    Parameters
    ----------
    run : TrainRun
    scheduler : Scheduler
        Made for as many steps as there will be.
    hooks : TrainHooks

    Raises
    ------
    UsageError
        If the checkpoint is of another training: says what differs. If it is to be deterministic, and torch knows no
        such way for an operator of the model.
    CutonceError
        If the loss becomes NaN or infinite, or the device is lost: says in which step, and what is kept of it.
    """
    state = _TrainState(run, scheduler, hooks)
    if (saved := run.rank.broadcast_from_first(state.checkpoints.load)) is None:
        state.begin()
    else:
        state.restore(saved)
    try:
        run_epochs(state, [state.contender], range(state.epoch, run.config.epochs + 1), run.config.patience)
    except NotFiniteError as error:
        raise CutonceError(state.diagnosis(error)) from error
    except RuntimeError as error:
        if operator := not_deterministic(error):
            raise UsageError(
                f"`deterministic`: torch cannot train this with the same bits each time, for want of such a kernel for "
                f"{operator}: leave the option out, or unfreeze less"
            ) from error
        if not is_lost(error):
            raise
        raise CutonceError(state.loss_of_device(error)) from error
    state.weights.load(run.model, state.contender.best_weights)
    run.model.eval()
    return state.contender.result


class _TrainState:
    """The trainee that is one model: all that changes while it trains, which a checkpoint keeps and gives back.

    Attributes
    ----------
    epoch, batches : int
        The epoch in progress, from 1, and how many of its batches are done.
    steps : int
        Steps of the optimizer in all epochs.
    seconds : float
        That the epoch in progress took so far.
    tally : RunningMetrics
        Of the epoch in progress.
    contender : Contender
    checkpoints : CheckpointFile
    """

    def __init__(self, run: TrainRun, scheduler: Scheduler, hooks: TrainHooks) -> None:
        self._run, self._scheduler, self._hooks = run, scheduler, hooks
        self._metric = find_metric(run.task)
        self._step = TrainStep(run.model, run.optimizer, run.config, run.task, run.rank, run.class_weights)
        self._average = ModelEMA(run.model, run.config.model_ema_decay)
        self.weights = TrainableState(run.model, run.optimizer)
        self.epoch, self.batches, self.steps, self.tally = 1, 0, 0, RunningMetrics()
        self.seconds = self._seconds_before = 0.0
        self.contender = Contender()
        self.checkpoints = CheckpointFile(
            hooks.checkpoint if run.rank.is_main else None,
            {**_shaping(run.config), "processes": run.rank.world_size, **hooks.identity},
            run.config.checkpoint_seconds,
        )

    def begin(self) -> None:
        """Validate the model as it came, which is epoch 0."""
        (validation,) = self.validate()
        row = Epoch(0, None, None, validation.loss, validation.score, lr=0.0, seconds=0.0)
        self.contender.result.add(row, validation.selection)
        self.contender.best_weights = self.snapshot(0)
        self._hooks.on_epoch(row)

    def train_epoch(self, epoch: int) -> None:
        """Take the steps that are left of an epoch."""
        started = time.perf_counter() - self._seconds_before
        self._hooks.on_epoch_start(epoch, self.batches)
        self._run.model.train()
        for batches in self._accumulation_groups():
            self._take_step(batches)
            if self.checkpoints.due:
                self._take_up(self._step.outstanding())
                self.seconds = time.perf_counter() - started
                self.checkpoints.save(self._state())
        self._take_up(self._step.outstanding())

    def validate(self) -> list[Validation]:
        """Return loss and score on the validation batches."""
        run = self._run
        if run.rank.world_size > 1:  # each process has BatchNorm statistics of its own; those of the first count
            for buffer in (*run.model.buffers(), *self._average.model.buffers()):
                torch.distributed.broadcast(buffer, src=0)
        loss, score = evaluate_loss(self._average.model, run.val_batches(), run.task, run.rank)
        return [Validation(loss, score, self._selection(score))]

    def row(self, index: int, validation: Validation, seconds: float) -> Epoch:
        """Return the row of the epoch in progress."""
        if not math.isfinite(validation.loss):
            raise NotFiniteError(f"validation loss became {validation.loss}")
        self._scheduler.end_epoch(validation.loss)
        rates = {block: rate for block, rate in self._rates().items() if not math.isnan(rate)}
        return Epoch(
            self.epoch,
            self.tally.loss,
            self.tally.score(self._metric),
            validation.loss,
            validation.score,
            lr=max(rates.values(), default=0.0),
            seconds=self._seconds_before + seconds,
            terms=self.tally.means(),
            lrs=rates,
        )

    def snapshot(self, index: int) -> dict[str, Tensor]:
        """Return a copy of what was validated."""
        return self.weights.snapshot(self._average.model)

    def end_epoch(self) -> None:
        """Go to the next epoch, from which a killed training goes on."""
        self.epoch, self.batches, self.tally = self.epoch + 1, 0, RunningMetrics()
        self.seconds = self._seconds_before = 0.0
        self.checkpoints.save(self._state())
        self._hooks.on_epoch(self.contender.result.history[-1])

    def restore(self, state: dict[str, Any]) -> None:
        """Take on the state of a checkpoint."""
        self.weights.load(self._run.model, state["model"])
        self.weights.load(self._average.model, state["average"])
        self._run.optimizer.load_state_dict(state["optimiser"])
        self._scheduler.load_state_dict(state["scheduler"])
        self._step.precision.scaler.load_state_dict(state["scaler"])
        self._step.micro_batches = state["parts"]
        self.epoch, self.batches, self.steps, self.seconds = state["place"]
        self._seconds_before = self.seconds
        self.tally = RunningMetrics.from_json(state["tally"])
        result = self.contender.result
        for row in (Epoch.from_json(row, self._metric.name) for row in state["history"]):
            result.add(row, self._selection(row.val_score))
        self.contender.best_weights = state["best weights"]
        result.rates = state["rates"].tolist() if "rates" in state else [[math.nan] * len(self._rates())] * self.steps
        result.resumed_from = result.history[-1].epoch

    def diagnosis(self, error: NotFiniteError) -> str:
        """Say where a training was lost, why it may have been, and what is left of it."""
        config, checkpoint, best = self._run.config, self._hooks.checkpoint, self.contender.result.best
        rate = max(float(group["lr"]) for group in self._run.optimizer.param_groups)
        step = -(-self.batches // config.grad_accum_steps) - error.steps_ago
        message = (
            f"the {error} at step {step} of epoch {self.epoch}, at a rate of {rate:.3g}; the learning rate is too high "
            "for this network: try a tenth of it"
        )
        if config.amp_dtype == "fp16":
            message += ", or `amp_dtype` bf16, whose numbers overflow less soon"
        if checkpoint is not None and checkpoint.exists() and best is not None:
            message += f". The best weights so far, those of epoch {best.epoch}, are kept in {checkpoint}"
        return message

    def loss_of_device(self, error: RuntimeError) -> str:
        """Say where the device was lost, and how the training goes on."""
        checkpoint = self._hooks.checkpoint
        kept = (
            f"The same command goes on from {checkpoint}"
            if checkpoint is not None and checkpoint.exists()
            else "Nothing is kept of this training yet: the same command begins it again"
        )
        place = f"batch {self.batches} of epoch {self.epoch}"
        return f"{self._step.device} was lost in {place} ({str(error).splitlines()[0]}). {kept}"

    def _accumulation_groups(self) -> Iterator[list[Batch]]:
        """Yield the batches of each step that is left of the epoch."""
        torch.manual_seed(self._seed())  # what a loader of batches draws as it begins is the same every time
        batches = iter(self._run.train_batches(self.epoch, self.batches))
        while group := list(islice(batches, self._run.config.grad_accum_steps)):
            yield group
        if not self.batches:
            raise DataError("there is no batch to train on; give more images, or smaller batches")

    def _take_step(self, batches: list[Batch]) -> None:
        seed = self._seed(self.batches)
        self.contender.result.rates.append([*self._rates().values()])
        self.batches += len(batches)
        self.steps += 1
        self._take_up(self._step.take(batches, seed))
        self._scheduler.step()
        self._average.update(self.steps)

    def _rates(self) -> dict[str, float]:
        """Return the rate of each block now, nan of one that is frozen."""
        rates: dict[str, float] = {}
        for group in self._run.optimizer.param_groups:  # others after a checkpoint than before it
            trains = any(parameter.requires_grad for parameter in group["params"])
            rates.setdefault(group["block"], float(group["lr"]) if trains else math.nan)
        return rates

    def _take_up(self, steps: list[RunningMetrics]) -> None:
        for metrics in steps:
            self.tally.add(metrics)

    def _selection(self, score: float) -> float:
        return score if self._metric.higher_is_better else -score

    def _state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as torch and JSON have it, not copied.

        Raises
        ------
        NotFiniteError
            If a weight is not finite: such a state is not worth going on from.
        """
        optimizer, contender = self._run.optimizer, self.contender
        trained = (parameter for group in optimizer.param_groups for parameter in group["params"])
        if not torch.stack([parameter.isfinite().all() for parameter in trained]).all():
            raise NotFiniteError("weights became NaN or infinite")
        return {
            "model": self.weights.of(self._run.model),
            "average": self.weights.of(self._average.model),
            "optimiser": optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "scaler": self._step.precision.scaler.state_dict(),
            "parts": self._step.micro_batches,
            "place": [self.epoch, self.batches, self.steps, self.seconds],
            "tally": self.tally.to_json(),
            "history": [epoch.to_json(self._metric.name) for epoch in contender.result.history],
            "best weights": contender.best_weights,
            "rates": torch.tensor(contender.result.rates, dtype=torch.float64),
        }

    def _seed(self, *place: int) -> int:
        """Return a seed for this process and this epoch, or a place in it."""
        numbers = (self._run.config.seed, self._run.rank.index, self.epoch, *place)
        return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _shaping(options: TrainConfig) -> TrainingFingerprint:
    """Return the options that change what a training comes to."""
    return {name: value for name, value in as_version_1(asdict(options)).items() if name != "checkpoint_seconds"}
