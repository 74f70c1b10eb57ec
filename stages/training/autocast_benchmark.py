"""Which arithmetic trains a model quicker on this machine: tried, since it depends on the layers as much as on it."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from itertools import islice

import torch

from stages.runtime.device import supports_bf16
from stages.runtime.seeding import preserve_rng_state
from stages.training.amp import Autocast
from stages.training.train_loop import TrainRun
from stages.training.train_step import TrainStep

_TIMED = 2
"""Steps that are timed, after one that gets the libraries ready."""


def benchmark_autocast(run: TrainRun) -> Autocast:
    """Return ``bf16`` where it is quicker than float32, else ``none``; nothing is changed but the time of day.

    Products and convolutions gain, what goes through a map element by element may lose. A device that has no
    instructions for bfloat16 is not tried.
    """
    device = next(run.model.parameters()).device
    if not supports_bf16(device):
        return "none"
    batches = list(islice(run.train_batches(1, 0), 1 + _TIMED))
    candidates: tuple[Autocast, ...] = ("none", "bf16")
    seconds = {}
    for autocast in candidates:
        trial, trial_optimizer = copy.deepcopy((run.model, run.optimizer))
        trial.train()
        with preserve_rng_state():
            step = TrainStep(trial, trial_optimizer, replace(run.config, amp_dtype=autocast), run.task)
            step([batches[0]], run.config.seed)
            _wait(device)
            started = time.perf_counter()
            for batch in batches:
                step([batch], run.config.seed)
            _wait(device)
            seconds[autocast] = time.perf_counter() - started
    return "bf16" if seconds["bf16"] < seconds["none"] else "none"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
