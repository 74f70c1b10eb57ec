"""Learning-rate schedules over steps, made of torch's own, and the parameter groups they act on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from timm.optim._param_groups import param_groups_weight_decay
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR

from cache.errors import UsageError

Schedule = Literal["cosine", "onecycle", "constant"]


def parameter_groups(modules: Sequence[tuple[nn.Module, float]], weight_decay: float) -> list[dict[str, Any]]:
    """Return optimiser groups: each module with its own learning rate, weight decay not on biases and normalisation.

    Parameters
    ----------
    modules : sequence of (nn.Module, float)
        What trains, and its highest learning rate. Parameters that do not require a gradient are left out.
    weight_decay : float
        Decoupled weight decay of matrices and kernels; vectors (biases, scales of normalisation layers) get none.

    Raises
    ------
    UsageError
        If nothing is left to train.
    """
    groups = []
    for module, rate in modules:
        for group in param_groups_weight_decay(module, weight_decay):
            if group["params"]:
                groups.append({**group, "lr": rate})
    if not groups:
        raise UsageError("nothing is left to train: every parameter is frozen; unfreeze a layer that has weights")
    return groups


def make_schedule(optimiser: Optimizer, kind: Schedule, steps: int, warmup: float) -> LRScheduler:
    """Return a scheduler to step once per optimiser step.

    Parameters
    ----------
    optimiser : Optimizer
        Its groups' ``lr`` are the highest rates.
    kind : {"cosine", "onecycle", "constant"}
        cosine: to zero along half a cosine (Loshchilov & Hutter 2017). onecycle: up from 1/25 and down to 1e-4 of
        that (Smith & Topin 2018). constant: as it is.
    steps : int
        Steps of the whole training.
    warmup : float
        Share of the steps, in [0, 1), in which the rate rises.
    """
    if not 0 <= warmup < 1:
        raise UsageError(f"--warmup {warmup} must be a share of the steps, at least 0 and less than 1")
    rising = round(steps * warmup)
    if kind == "onecycle":
        rates = [group["lr"] for group in optimiser.param_groups]
        total = max(steps, 3)  # torch's cycle needs a step up, a peak and a step down
        return OneCycleLR(optimiser, rates, total_steps=total, pct_start=min(max(rising, 2), total - 1) / total)
    after: LRScheduler
    if kind == "cosine":
        after = CosineAnnealingLR(optimiser, T_max=max(steps - rising, 1))
    else:
        after = ConstantLR(optimiser, factor=1.0, total_iters=0)
    if rising == 0:
        return after
    # LinearLR begins at a factor above zero; 1/(rising+1) makes the climb even from a rate of zero before step one
    before = LinearLR(optimiser, start_factor=1 / (rising + 1), total_iters=rising)
    return SequentialLR(optimiser, [before, after], milestones=[rising])
