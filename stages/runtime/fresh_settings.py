"""What whoever calls may have set torch and NumPy to: the library computes as where nobody has set anything."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
import torch

from stages.runtime.threads import usable_after_fork

_LOCK = threading.Lock()

_FOUND: list[torch.dtype] = []
"""The default type of floating-point tensors as each of those found it who are within `fresh_settings`."""

ParametersT = ParamSpec("ParametersT")
ResultT = TypeVar("ResultT")


@contextmanager
def fresh_settings() -> Iterator[None]:
    """Have torch and NumPy compute as they do in a process that has just begun.

    Around a call there may be ``torch.no_grad``, ``torch.inference_mode``, ``torch.autocast``, a device that tensors
    are made on, or ``numpy.errstate``: they are meant for what the caller computes.
    All that is of this thread but the type that tensors have where none is said, which torch keeps for the process:
    other threads make float32 meanwhile, and the last to leave puts back what the first has found.
    """
    with ExitStack() as settings:
        settings.enter_context(_float32_by_default())
        settings.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        settings.enter_context(torch.inference_mode(False))
        settings.enter_context(torch.enable_grad())
        for device_type in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device_type):
                settings.enter_context(torch.autocast(device_type, enabled=False))
        if torch.get_default_device().type != "cpu":
            settings.enter_context(torch.device("cpu"))
        yield


@contextmanager
def _float32_by_default() -> Iterator[None]:
    with _LOCK:
        _FOUND.append(torch.get_default_dtype() if not _FOUND else _FOUND[0])
        torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        with _LOCK:
            found = _FOUND.pop()
            if not _FOUND:
                torch.set_default_dtype(found)


@contextmanager
def _start_method_left_open() -> Iterator[None]:
    """Have the caller still free to choose how processes start: joblib and tqdm settle on the default for good."""
    found = multiprocessing.get_start_method(allow_none=True)
    try:
        yield
    finally:
        default = multiprocessing.get_all_start_methods()[0]
        if not found and multiprocessing.get_start_method(allow_none=True) == default:
            multiprocessing.set_start_method(None, force=True)


def usable_anywhere(function: Callable[ParametersT, ResultT]) -> Callable[ParametersT, ResultT]:
    """Let a function be called whatever torch and NumPy are set to, and in a forked process (`usable_after_fork`).

    How processes start is left for the caller to choose afterwards, too (``multiprocessing.set_start_method``).
    """

    @wraps(function)
    def call(*args: ParametersT.args, **kwargs: ParametersT.kwargs) -> ResultT:
        with fresh_settings(), _start_method_left_open():
            return function(*args, **kwargs)

    return usable_after_fork(call)
