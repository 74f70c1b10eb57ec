"""The range test: which learning rate is high enough, and which is too high (Smith 2017, section 3.3).

The rate rises exponentially from step to step while the loss is watched. All of it happens to a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, islice

import numpy as np
from numpy.typing import NDArray

from cache.errors import CutonceError, DataError, UsageError, suggestion
from stages.runtime.progress import progress, untold
from stages.runtime.seeding import preserve_rng_state
from stages.training.train_loop import TrainRun
from stages.training.train_step import Batch, NotFiniteError, TrainStep

_SMOOTHING = 0.9
"""Share of the running mean of the loss that stays in each step."""


_SETTLED = 10
"""Steps after which the running mean is one of as many losses as it will be: until then its slope is that of chance."""


_FEWEST = 2 * _SETTLED


_SHARE = 0.5
"""Share of what the running mean has fallen by that it rises by again, beyond chance, where a rate is too high."""


_CHANCE = float(np.sqrt((1 - _SMOOTHING) / (1 + _SMOOTHING)))
"""Times the deviation of a loss that such a mean deviates."""


_DIVERGED = 4.0
"""Times the lowest smoothed loss: where the test ends."""


@dataclass(frozen=True)
class LRFinderResult:
    """What a range test found.

    Attributes
    ----------
    rates : float64 [steps]
        Rate of each step; of the group with the highest one, where all rise together.
    losses : float64 [steps]
        Loss of each step, before it was made.
    smoothed : float64 [steps]
        Its running mean.
    suggestion : float or None
        Where the loss falls most steeply over the logarithm of the rate; None where it never falls by more than chance.
    block : str or None
        The only block that trained.
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    suggestion: float | None
    block: str | None = None

    @property
    def lowest(self) -> int:
        """The step with the lowest running mean, once that has settled and before it rises clearly for the first time.

        The last step where it never settles. Among the first few steps the easiest batch is often lower than all that
        follows, where a network begins that can do its task already; and a block that trains alone is often thrown
        about at high rates and learns again at still higher ones, where nobody would begin.
        """
        settled = self.smoothed[_SETTLED:]
        if len(settled) == 0:
            return len(self.smoothed) - 1
        lowest_so_far = np.minimum.accumulate(settled)
        clearly = np.maximum(_SHARE * (settled[0] - lowest_so_far), 3 * np.sqrt(2) * _CHANCE * self._deviation)
        rises = np.flatnonzero(settled - lowest_so_far > clearly)
        return _SETTLED + int(settled[: rises[0] if len(rises) else None].argmin())

    @property
    def _deviation(self) -> float:
        """How far the loss of a batch is from the mean, by the median, which the last steps leave alone."""
        return float(1.4826 / np.sqrt(2) * np.median(np.abs(np.diff(self.losses))))


def lr_find(
    run: TrainRun,
    *,
    lowest: float = 1e-7,
    highest: float = 1.0,
    steps: int = 100,
    block: str | None = None,
) -> LRFinderResult:
    """Train a copy of the model with a rate that rises from `lowest` to `highest`, until the loss diverges.

    It is done in this process alone. Model, optimizer and the random states of Python, numpy and torch are to the bit
    what they were before, also where this raises.

    Parameters
    ----------
    run : TrainRun
        Epochs of its batches are asked for until there are enough; nothing is validated.
    lowest, highest : float
        The rates of all groups rise together, in the proportion that they have now; this is the highest of them.
    steps : int
    block : str, optional
        Only this block trains, its rate rising from `lowest` to `highest`: where others trained beside it, the loss
        would fall by what they learn, whatever the rate of this one.

    Raises
    ------
    UsageError
        If the range is none, there is no such block, or its rate, or that of all, is 0.
    CutonceError
        If the loss is not finite from the very beginning.
    """
    if not 0 < lowest < highest:
        raise UsageError(f"a range test rises from a rate above 0 to a higher one, not from {lowest:g} to {highest:g}")
    if steps < _FEWEST:
        raise UsageError(f"a range test of {steps} steps shows nothing; make it {_FEWEST} or more, or 100")
    blocks = list(dict.fromkeys(group.get("block") for group in run.optimizer.param_groups))
    if block is not None and block not in blocks:
        raise UsageError(f"there is no block {block!r} that trains.{suggestion(block, map(str, blocks))}")

    if not any(group["lr"] for group in run.optimizer.param_groups if block in (None, group.get("block"))):
        raise UsageError(
            f"a range test raises rates in their own proportion, and the rate of {block or 'all blocks'} is 0: "
            "give one above 0"
        )

    # copied together, the optimizer's copy is over the parameters of the model's copy
    trial, trial_optimizer = copy.deepcopy((run.model, run.optimizer))
    trial.train()
    rising = [group for group in trial_optimizer.param_groups if block in (None, group.get("block"))]
    still = [group for group in trial_optimizer.param_groups if block not in (None, group.get("block"))]
    top = max(float(group["lr"]) for group in rising)
    proportions = [float(group["lr"]) / top for group in rising]
    step = TrainStep(trial, trial_optimizer, run.config, run.task, weights=run.class_weights)
    losses: list[float] = []
    smoothed: list[float] = []
    rates = np.geomspace(lowest, highest, steps)
    for group in still:
        group["lr"] = 0.0
    with preserve_rng_state(), progress(label="range test", total=steps) as told, untold():
        for rate, batches in zip(rates, _step_batches(run), strict=False):
            for group, proportion in zip(rising, proportions, strict=True):
                group["lr"] = float(rate) * proportion
            try:
                losses.append(step(batches, run.config.seed + len(losses)).loss)
            except NotFiniteError:
                break
            smoothed.append(_running_mean(losses))
            if smoothed[-1] > _DIVERGED * min(smoothed):
                break
            told.update()
    if not losses:
        raise CutonceError(f"the loss is not finite at a rate of {lowest:g}: it is the network that overflows")
    tested = rates[: len(losses)]
    result = LRFinderResult(tested, np.array(losses), np.array(smoothed), None, block)
    return replace(result, suggestion=_steepest_descent(result))


def _step_batches(run: TrainRun) -> Iterator[list[Batch]]:
    """Yield the batches of step after step, epoch after epoch."""

    def epoch(number: int) -> Iterator[Batch]:
        batches = iter(run.train_batches(number, 0))
        if (first := next(batches, None)) is None:
            raise DataError("there is no batch to train on; give more images, or smaller batches")
        yield first
        yield from batches

    batches = chain.from_iterable(map(epoch, count(1)))
    while True:
        yield list(islice(batches, run.config.grad_accum_steps))


def _running_mean(losses: list[float]) -> float:
    """Return the exponentially weighted mean; divided by the sum of its weights, the first values count in full."""
    weights = _SMOOTHING ** np.arange(len(losses) - 1, -1, -1)
    return float(np.average(losses, weights=weights))


def _steepest_descent(test: LRFinderResult) -> float | None:
    """Return the rate around which the loss falls most steeply, before its lowest mean; None where it falls by chance.

    The fall at a step is the difference between the means of the losses before it and from it on; the running mean
    would tell it some steps late. By chance is what is no more than three standard errors, as batches differ from one
    to the next: a network that begins with a fitted head has little to gain, and the steepest of many falls is never 0.
    """
    losses = test.losses[: test.lowest + 1]
    width = min(_SETTLED, len(losses) // 2)
    if width < 2:
        return None
    means = np.convolve(losses, np.full(width, 1 / width), "valid")
    falls = means[:-width] - means[width:]
    deviation = float(np.std(np.diff(losses))) / np.sqrt(2)
    steepest = int(falls.argmax())
    if falls[steepest] <= 3 * deviation * np.sqrt(2 / width):
        return None
    return float(test.rates[steepest + width])
