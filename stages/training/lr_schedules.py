"""How the learning rate goes over the steps of a training: torch's own schedules, with one set of options.

Every schedule multiplies the rate of a parameter group, so groups keep their proportion to each other. How groups are
made is ``optimisers.py``; how a highest rate is found is ``range_test.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

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

from cache.errors import UsageError, suggestion
from stages.config.bounds import require
from stages.config.finetune import Schedule as Kind

_SETTINGS: dict[str, tuple[Kind, ...]] = {
    "warmup": ("constant", "step", "plateau", "cosine", "onecycle", "restarts"),
    "cycle_epochs": ("triangular", "triangular2", "exp_range", "restarts"),
    "cycle_mul": ("restarts",),
    "factor": ("step", "plateau", "exp_range"),
    "decay_epochs": ("step",),
    "patience": ("plateau",),
}
"""Which schedules each setting is for."""

_OPTIONS = {
    "cycle_multiplier": "cycle_mul",
    "factor": "decay_rate",
    "step_epochs": "decay_epochs",
    "patience": "plateau_patience",
}

_WARMUP: dict[Kind, float] = {"onecycle": 0.3, "restarts": 0.0}
_FACTOR: dict[Kind, float] = {"exp_range": 0.5}
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
        If a number is impossible, or is for another kind of schedule.
    """

    kind: Kind = "cosine"
    warmup: float | None = None
    cycle_epochs: float | None = None
    cycle_mul: int | None = None
    factor: float | None = None
    decay_epochs: int | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        kinds = get_args(Kind)
        if self.kind not in kinds:
            raise UsageError(
                f"`schedule` {self.kind}: there is no such schedule; there are {', '.join(kinds)}."
                f"{suggestion(self.kind, kinds)}"
            )
        for name, those in _SETTINGS.items():
            if getattr(self, name) is not None and self.kind not in those:
                raise UsageError(
                    f"{_option(name)} is of no use with `schedule` {self.kind}; it is for {', '.join(those)}"
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
    """

    def __init__(
        self, optimizer: Optimizer, each_step: Sequence[LRScheduler], plateau: ReduceLROnPlateau | None = None
    ) -> None:
        self._optimizer = optimizer
        self._each_step = list(each_step)
        self._plateau = plateau

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
            for scheduler in self._all():
                for name in {"base_lrs", "max_lrs"} & set(vars(scheduler)):
                    getattr(scheduler, name)[number] *= factor

    def state_dict(self) -> dict[str, Any]:
        """Return plain values; they go together with the optimiser's, which has the rates of now."""
        return {"schedulers": [scheduler.state_dict() for scheduler in self._outer()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the schedule with this state was; the optimiser's state is loaded by itself."""
        for scheduler, one in zip(self._outer(), state["schedulers"], strict=True):
            scheduler.load_state_dict(one)

    def _outer(self) -> list[LRScheduler]:
        return [*self._each_step, *([self._plateau] if self._plateau is not None else [])]

    def _all(self) -> list[LRScheduler]:
        return [inner for scheduler in self._outer() for inner in (scheduler, *getattr(scheduler, "_schedulers", ()))]


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
    kind = schedule.kind
    steps = steps_per_epoch * epochs + 1  # the rate is set once more after the last step
    warmup = _WARMUP.get(kind, 0.1) if schedule.warmup is None else schedule.warmup
    rising = round(steps * warmup)
    factor = schedule.factor or _FACTOR.get(kind, 0.1)

    if kind == "onecycle":
        return Scheduler(optimizer, [_one_cycle(optimizer, steps, rising)])
    if kind == "triangular" or kind == "triangular2" or kind == "exp_range":
        cycle = round((schedule.cycle_epochs or min(2, epochs)) * steps_per_epoch)
        return Scheduler(optimizer, [_cyclic(optimizer, kind, cycle, factor)])
    if kind == "step":
        falling = StepLR(optimizer, (schedule.decay_epochs or -(-epochs // 3)) * steps_per_epoch, factor)
        return Scheduler(optimizer, [falling, *_linear_warmup(optimizer, rising)])
    if kind == "plateau":
        patience = 2 if schedule.patience is None else schedule.patience
        return Scheduler(
            optimizer, _linear_warmup(optimizer, rising), ReduceLROnPlateau(optimizer, "min", factor, patience)
        )

    after: LRScheduler
    if kind == "cosine":
        after = CosineAnnealingLR(optimizer, T_max=max(steps - rising, 1))
    elif kind == "restarts":
        cycle = max(round((schedule.cycle_epochs or 1) * steps_per_epoch), 1)
        after = CosineAnnealingWarmRestarts(optimizer, cycle, int(schedule.cycle_mul or 2))
    else:
        after = ConstantLR(optimizer, factor=1.0, total_iters=0)
    if rising == 0:
        return Scheduler(optimizer, [after])
    return Scheduler(
        optimizer, [SequentialLR(optimizer, [*_linear_warmup(optimizer, rising), after], milestones=[rising])]
    )


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


def _one_cycle(optimizer: Optimizer, steps: int, rising: int) -> LRScheduler:
    total = max(steps, 3)  # torch's cycle needs a step up, a peak and a step down
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total,
        pct_start=min(max(rising, 2), total - 1) / total,
        cycle_momentum=_has_momentum(optimizer),
    )


def _cyclic(
    optimizer: Optimizer, kind: Literal["triangular", "triangular2", "exp_range"], cycle: int, factor: float
) -> LRScheduler:
    """Return cycles of so many steps; torch's exp_range multiplies the height in every step, ours once in a cycle."""
    cycle = max(cycle, 2)
    rates = [group["lr"] for group in optimizer.param_groups]
    return CyclicLR(
        optimizer,
        base_lr=[rate * _LOWEST_OF_CYCLE for rate in rates],
        max_lr=rates,
        step_size_up=cycle // 2,
        step_size_down=cycle - cycle // 2,
        mode=kind,
        gamma=factor ** (1 / cycle),
        cycle_momentum=_has_momentum(optimizer),
    )


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
