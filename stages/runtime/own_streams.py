"""Streams of a GPU that nobody else here works on."""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary

import torch

_POOL = 32
"""How many streams torch has for a device; it hands them out in turn, those too that somebody still has."""

_IN_USE: WeakValueDictionary[int, torch.cuda.Stream] = WeakValueDictionary()
"""Those that `own_stream` gave and that somebody still holds, by CUDA's number for them."""

_ONE_AT_A_TIME = threading.Lock()


def own_stream(device: torch.device) -> torch.cuda.Stream:
    """Return a stream of a device that is nobody else's as long as it is held; where all are taken, any of them.

    A CUDA graph is recorded of all that its stream is given meanwhile, whoever gives it, and the recording ends where
    anybody waits for that stream.
    """
    with _ONE_AT_A_TIME:
        for _ in range(_POOL):
            stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            if stream.cuda_stream not in _IN_USE:
                _IN_USE[stream.cuda_stream] = stream
                break
    return stream
