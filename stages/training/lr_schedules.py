"""How the learning rate goes over the steps of a training: torch's own schedules, with one set of options.

Every schedule multiplies the rate of a parameter group, so groups keep their proportion to each other. How groups are
made is ``optim.py``; how a highest rate is found is ``lr_finder.py``. A schedule is a function under
:func:`register_schedule`, here or in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from cache.errors import UsageError
from stages.config.bounds import require
from stages.config.registry import SCHEDULES, ScheduleKind

_SETTINGS = ("warmup", "cycle_epochs", "cycle_mul", "factor", "decay_epochs", "patience")

_OPTIONS = {"factor": "decay_rate", "patience": "plateau_patience"}

_LOWEST_OF_CYCLE = 1 / 4
"""Of the highest rate, where triangular cycles begin: a third or a fourth of it (Smith 2017, section 3.3)."""


@dataclass(frozen=True)
class LRScheduleConfig:
    """Which way the rate goes. What is None has a default; what is given must be of use to the kind.

    Attributes
    ----------
    kind : str
        ``constant``: as it is. ``step``: times `factor` every `decay_epochs`. ``plateau``: times `factor` when the
        validation loss has not fallen for more than `patience` epochs. ``cosine``: to zero along half a cosine
        (Loshchilov & Hutter 2017). ``onecycle``: up from 1/25 of the highest and down to 1e-4 of that (Smith & Topin
        2018). ``triangular``, ``triangular2``, ``exp_range``: up from a quarter of the highest and down again,
        linearly, in cycles (Smith 2017); the second halves the height of each cycle, the third lets it shrink to
        `factor` times what it was from one cycle to the next.
        ``restarts``: cosines, one after the other (Loshchilov & Hutter 2017).
    warmup : float, optional
        Share of all steps, at least 0 and less than 1, in which the rate rises to its highest. Default: 0.3 for
        onecycle, 0 for restarts, else 0.1.
    cycle_epochs : float, optional
        Epochs of the first cycle. Default: 1 for restarts, else 2 (1 where there is but one epoch).
    cycle_mul : int, optional
        How many times longer each cycle is than the one before. Default: 2.
    factor : float, optional
        In (0, 1). Default: 0.5 for exp_range, else 0.1.
    decay_epochs : int, optional
        Default: a third of the epochs, rounded up.
    patience : int, optional
        Default: 2.

    Raises
    ------
    UsageError
        If there is no such schedule, or a number is impossible, or is for another kind of schedule.
    """

    kind: str = "cosine"
    warmup: float | None = None
    cycle_epochs: float | None = None
    cycle_mul: int | None = None
    factor: float | None = None
    decay_epochs: int | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        settings = SCHEDULES.find(self.kind).settings
        for name in _SETTINGS:
            if getattr(self, name) is not None and name not in settings:
                takers = [kind.name for kind in SCHEDULES.known.values() if name in kind.settings]
                raise UsageError(
                    f"{_option(name)} is of no use with `schedule` {self.kind}; it is for {', '.join(takers)}"
                )
        self._require("warmup", "a share of the steps, at least 0 and less than 1", lambda share: 0 <= share < 1)
        self._require("cycle_epochs", "more than 0", lambda epochs: epochs > 0)
        self._require("cycle_mul", "a whole number of at least 1", lambda times: times >= 1 and times % 1 == 0)
        self._require("factor", "between 0 and 1", lambda factor: 0 < factor < 1)
        self._require("decay_epochs", "at least 1", lambda epochs: epochs >= 1)
        self._require("patience", "at least 0", lambda epochs: epochs >= 0)

    def check(self, epochs: int) -> None:
        """Refuse a cycle, or a step, that is longer than a training of `epochs`.

        Raises
        ------
        UsageError
            With the option and what to do.
        """
        for name in ("cycle_epochs", "decay_epochs"):
            value = getattr(self, name)
            if value is not None and value > epochs:
                raise UsageError(
                    f"{_option(name)} {value:g} is longer than the training of {epochs} epochs; "
                    "make it shorter, or `epochs` more"
                )

    def _require(self, name: str, what: str, holds: Callable[[float], bool]) -> None:
        require(_OPTIONS.get(name, name), getattr(self, name), what, holds)


class Scheduler:
    """A schedule at work on an optimiser.

    Parameters
    ----------
    each_step : sequence of LRScheduler
        Each is stepped after every step of the optimiser, and multiplies the rates.
    plateau : ReduceLROnPlateau, optional
        Looks at the validation loss after every epoch.
    parts : sequence of LRScheduler
        What those of `each_step` that consist of others are made of, with rates of their own.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        each_step: Sequence[LRScheduler],
        plateau: ReduceLROnPlateau | None = None,
        parts: Sequence[LRScheduler] = (),
    ) -> None:
        self._optimizer = optimizer
        self._each_step = list(each_step)
        self._plateau = plateau
        self._parts = list(parts)

    def step(self) -> None:
        """Set the rates of the next step; to be called after each step of the optimiser."""
        for scheduler in self._each_step:
            scheduler.step()

    def end_epoch(self, val_loss: float) -> None:
        """Tell how the epoch validated, which ``plateau`` goes by."""
        if self._plateau is not None:
            self._plateau.step(val_loss)

    def rescale(self, block: str, factor: float) -> None:
        """Multiply the rates of a block's groups, now and in all steps to come.

        The schedule goes on where it is: this is for a range test that is repeated when a block begins to train.
        """
        for number, group in enumerate(self._optimizer.param_groups):
            if group.get("block") != block:
                continue
            for name in {"lr", "initial_lr", "max_lr", "min_lr"} & set(group):
                group[name] *= factor
            for scheduler in (*self._outer(), *self._parts):
                for name in {"base_lrs", "max_lrs"} & set(vars(scheduler)):
                    getattr(scheduler, name)[number] *= factor

    def state_dict(self) -> dict[str, Any]:
        """Return plain values; they go together with the optimiser's, which has the rates of now."""
        return {"schedulers": [scheduler.state_dict() for scheduler in self._outer()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the schedule with this state was; the optimiser's state is loaded by itself."""
        for scheduler, scheduler_state in zip(self._outer(), state["schedulers"], strict=True):
            scheduler.load_state_dict(scheduler_state)

    def _outer(self) -> list[LRScheduler]:
        return [*self._each_step, *([self._plateau] if self._plateau is not None else [])]


def make_schedule(optimizer: Optimizer, schedule: LRScheduleConfig, steps_per_epoch: int, epochs: int) -> Scheduler:
    """Put a schedule to work.

    Parameters
    ----------
    optimizer : Optimizer
        Its groups' ``lr`` are the highest rates.
    schedule : LRScheduleConfig
    steps_per_epoch : int
        Steps of the optimiser, each of which may be over several batches.
    epochs : int

    Raises
    ------
    UsageError
        If a cycle or a step is longer than the training, see :meth:`LRScheduleConfig.check`.
    """
    schedule.check(epochs)
    make: MakeSchedule = SCHEDULES.get(schedule.kind)
    return make(optimizer, schedule, steps_per_epoch, epochs)


MakeSchedule = Callable[[Optimizer, LRScheduleConfig, int, int], Scheduler]
"""An optimizer whose rates are the highest, what is asked for, steps per epoch, epochs -> the schedule at work."""


def register_schedule(
    name: str, *, settings: tuple[str, ...] = (), help_text: str = ""
) -> Callable[[MakeSchedule], MakeSchedule]:
    """Make a function a schedule.

    Parameters
    ----------
    name
        What `schedule` is for it. In our own files this and `settings` are literals.
    settings
        Those of `LRScheduleConfig` that mean something to it; others are refused.
    help_text
        What it is, in a few words; by default the beginning of the docstring.

    Raises
    ------
    UsageError
        If another function is registered under the name.
    """
    return SCHEDULES.decorator(ScheduleKind(name, settings, help_text=help_text))


@register_schedule("constant", settings=("warmup",))
def constant(optimizer: Optimizer, schedule: LRScheduleConfig, steps_per_epoch: int, epochs: int) -> Scheduler:
    """As it is, after the warmup."""
    rising = _warmup_steps(schedule, _step_count(steps_per_epoch, epochs))
    return _after_warmup(optimizer, rising, ConstantLR(optimizer, factor=1.0, total_iters=0))


@register_schedule("step", settings=("warmup", "factor", "decay_epochs"))
def step(optimizer: Optimizer, schedule: LRScheduleConfig, steps_per_epoch: int, epochs: int) -> Scheduler:
    """Times a factor every few epochs."""
    rising = _warmup_steps(schedule, _step_count(steps_per_epoch, epochs))
    decay_steps = (schedule.decay_epochs or -(-epochs // 3)) * steps_per_epoch
    falling = StepLR(optimizer, decay_steps, schedule.factor or 0.1)
    return Scheduler(optimizer, [falling, *_linear_warmup(optimizer, rising)])


@register_schedule("plateau", settings=("warmup", "factor", "patience"))
def plateau(optimizer: Optimizer, schedule: LRScheduleConfig, steps_per_epoch: int, epochs: int) -> Scheduler:
    """Times a factor when the validation loss no longer falls."""
    rising = _warmup_steps(schedule, _step_count(steps_per_epoch, epochs))
    patience = 2 if schedule.patience is None else schedule.patience
    warmup = _linear_warmup(optimizer, rising)
    return Scheduler(optimizer, warmup, ReduceLROnPlateau(optimizer, "min", schedule.factor or 0.1, patience))


@register_schedule("cosine", settings=("warmup",))
def cosine(optimizer: Optimizer, schedule: LRScheduleConfig, steps_per_epoch: int, epochs: int) -> Scheduler:
    """Half a cosine, to zero."""
    steps = _step_count(steps_per_epoch, epochs)
    rising = _warmup_steps(schedule, steps)
    return _after_warmup(optimizer, rising, CosineAnnealingLR(optimizer, T_max=max(steps - rising, 1)))


@register_schedule("onecycle", settings=("warmup",))
def one_cycle(optimizer: Optimizer, schedule: LRScheduleConfig, steps_per_epoch: int, epochs: int) -> Scheduler:
    """Up from 1/25 of the highest, and down to 1e-4 of that."""
    steps = _step_count(steps_per_epoch, epochs)
    rising = _warmup_steps(schedule, steps, default=0.3)
    total = max(steps, 3)  # torch's cycle needs a step up, a peak and a step down
    cycle = OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total,
        pct_start=min(max(rising, 2), total - 1) / total,
        cycle_momentum=_has_momentum(optimizer),
    )
    return Scheduler(optimizer, [cycle])


@register_schedule("triangular", settings=("cycle_epochs",))
@register_schedule("triangular2", settings=("cycle_epochs",))
@register_schedule("exp_range", settings=("cycle_epochs", "factor"))
def triangular(optimizer: Optimizer, schedule: LRScheduleConfig, steps_per_epoch: int, epochs: int) -> Scheduler:
    """Cycles of a linear climb and descent; torch's exp_range shrinks them in every step, ours once in a cycle."""
    cycle = max(round((schedule.cycle_epochs or min(2, epochs)) * steps_per_epoch), 2)
    rates = [group["lr"] for group in optimizer.param_groups]
    mode: Any = schedule.kind
    cyclic = CyclicLR(
        optimizer,
        base_lr=[rate * _LOWEST_OF_CYCLE for rate in rates],
        max_lr=rates,
        step_size_up=cycle // 2,
        step_size_down=cycle - cycle // 2,
        mode=mode,
        gamma=(schedule.factor or 0.5) ** (1 / cycle),
        cycle_momentum=_has_momentum(optimizer),
    )
    return Scheduler(optimizer, [cyclic])


@register_schedule("restarts", settings=("warmup", "cycle_epochs", "cycle_mul"))
def restarts(optimizer: Optimizer, schedule: LRScheduleConfig, steps_per_epoch: int, epochs: int) -> Scheduler:
    """Cosines, one after the other."""
    rising = _warmup_steps(schedule, _step_count(steps_per_epoch, epochs), default=0.0)
    cycle = max(round((schedule.cycle_epochs or 1) * steps_per_epoch), 1)
    cycle_mul = int(schedule.cycle_mul or 2)
    return _after_warmup(optimizer, rising, CosineAnnealingWarmRestarts(optimizer, cycle, cycle_mul))


def lr_trace(
    schedule: LRScheduleConfig, highest: Sequence[float], steps_per_epoch: int, epochs: int
) -> NDArray[np.float64]:
    """Return the rates of every step without training, float64 [steps, groups].

    Parameters
    ----------
    schedule : LRScheduleConfig
        ``plateau`` falls where the validation loss says so, which only training shows: here it never does.
    highest : sequence of float
        Highest rate of each group.
    """
    optimizer = SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in highest])
    scheduler = make_schedule(optimizer, schedule, steps_per_epoch, epochs)
    rates = []
    for _ in range(steps_per_epoch * epochs):
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return np.array(rates).reshape(-1, len(highest))


def _step_count(steps_per_epoch: int, epochs: int) -> int:
    return steps_per_epoch * epochs + 1  # the rate is set once more after the last step


def _warmup_steps(schedule: LRScheduleConfig, steps: int, default: float = 0.1) -> int:
    return round(steps * (default if schedule.warmup is None else schedule.warmup))


def _after_warmup(optimizer: Optimizer, rising: int, after: LRScheduler) -> Scheduler:
    """Return a schedule that begins when the climb is over."""
    if rising == 0:
        return Scheduler(optimizer, [after])
    parts = [*_linear_warmup(optimizer, rising), after]
    return Scheduler(optimizer, [SequentialLR(optimizer, parts, milestones=[rising])], parts=parts)


def _linear_warmup(optimizer: Optimizer, steps: int) -> list[LRScheduler]:
    """Return what multiplies the rates by an even climb; LinearLR cannot begin at zero, so step one is above it."""
    return [LinearLR(optimizer, start_factor=1 / (steps + 1), total_iters=steps)] if steps else []


def _has_momentum(optimizer: Optimizer) -> bool:
    """Whether there is a momentum to lower while the rate rises (Smith 2018, section 4.3)."""
    if isinstance(optimizer, SGD):
        return all(group["momentum"] > 0 for group in optimizer.param_groups)
    return isinstance(optimizer, Adam | AdamW)


def _option(name: str) -> str:
    return f"`{_OPTIONS.get(name, name)}`"
