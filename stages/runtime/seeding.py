"""Random numbers: seeds that follow from what they are for, and random states kept over a block."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from cache import key_of_bytes

_DRAWING = [threading.RLock()]
"""Held by the thread that draws from the random states of the process, of which there is one each: dropout knows no
other. Threads that train take turns, so that each draws what it would alone."""


def _nobody_draws() -> None:
    """Begin anew in a forked process: who held it is not there."""
    _DRAWING[0] = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_nobody_draws)


def seed_from(*parts: object, bits: int) -> int:
    """Return a seed that follows from the text of `parts` alone: the first `bits` bits of its digest.

    What the parts are and how many bits there are decides what is in caches of augmented views and what a training
    goes on with that was stopped: neither may change where it is in use.

    Parameters
    ----------
    parts : objects
        Joined by spaces.
    bits : int
        A multiple of 4.
    """
    return int(key_of_bytes(" ".join(map(str, parts)).encode())[: bits // 4], 16)


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of what is drawn once an epoch."""
    return seed * 1_000_003 + epoch


@contextmanager
def fixed_seed(seed: int) -> Iterator[None]:
    """Draw from torch's CPU generator as it is after `seed`, and leave the random state of the program as it was.

    Other threads that would draw within this or `preserve_rng_state` wait.
    """
    with _DRAWING[0], torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change other devices' states, too
        yield


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Put the random states of Python, numpy and torch, on all devices, back to what they were before the block.

    Other threads that would draw within this or `fixed_seed` wait: threads of the block itself have to do without.
    """
    with _DRAWING[0]:
        python_state, numpy_state = random.getstate(), np.random.get_state()
        mps_state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        try:
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            if mps_state is not None:
                torch.mps.set_rng_state(mps_state)


_DRAWING_NAMES = frozenset(
    {"uniform_", "normal_", "bernoulli_", "exponential_", "random_", "xavier_uniform_", "xavier_normal_"}
    | {
        "kaiming_uniform_",
        "kaiming_normal_",
        "orthogonal_",
        "sparse_",
        "rand",
        "randn",
        "randint",
        "randperm",
        "normal",
    }
)
"""Names of what torch and its modules draw random numbers by, of a generator that they are given."""


_IN_THREAD = threading.local()


class DrawnApart(TorchFunctionMode):
    """Within it, this thread draws on the CPU from a generator of its own, and not from that of the program.

    For modules that are made to be given other numbers than those that they begin with: a program's own code is to draw
    what it would draw without them. What is drawn is as random as ever: some of it is drawn until it is in bounds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._generator = torch.Generator()

    @staticmethod
    @contextmanager
    def but_here() -> Iterator[None]:
        """Draw as ever: for modules of the user's own, which may set the program's seed, and keep what comes of it."""
        before = getattr(_IN_THREAD, "draws", False)
        _IN_THREAD.draws = True
        try:
            yield
        finally:
            _IN_THREAD.draws = before

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Give what draws on the CPU, and has no generator, this one."""
        given = dict(kwargs or {})
        draws = getattr(func, "__name__", "") in _DRAWING_NAMES and not getattr(_IN_THREAD, "draws", False)
        if draws and given.get("generator") is None:
            filled = args[0] if args else given.get("tensor")
            device = filled.device if isinstance(filled, torch.Tensor) else given.get("device")
            if torch.device(device or torch.get_default_device()).type == "cpu":
                given["generator"] = self._generator
        return func(*args, **given)
