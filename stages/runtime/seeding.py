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


_FILLING = frozenset({"uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_"})
_FILLING |= {"kaiming_uniform_", "kaiming_normal_", "orthogonal_"}
"""Names of what torch and its modules fill a tensor with random numbers by."""


_IN_THREAD = threading.local()


class NothingDrawn(TorchFunctionMode):
    """Within it, this thread makes modules whose numbers are not drawn, as they are given others.

    Drawing them takes time, and from the random state of the program what its own code would get.
    """

    @staticmethod
    @contextmanager
    def but_here() -> Iterator[None]:
        """Draw all the same: for modules of the user's own, which may keep what they draw without saving it."""
        before = getattr(_IN_THREAD, "draws", False)
        _IN_THREAD.draws = True
        try:
            yield
        finally:
            _IN_THREAD.draws = before

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Leave tensors that would be filled as they are, and make those of random numbers of zeros."""
        given = dict(kwargs or {})
        if getattr(_IN_THREAD, "draws", False):
            return func(*args, **given)
        if getattr(func, "__name__", "") in _FILLING:
            return args[0] if args else given["tensor"]
        return (torch.zeros if func is torch.randn else func)(*args, **given)
