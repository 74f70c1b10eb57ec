"""Products of float32, computed in float32, whatever torch is set to by whoever calls.

What torch may round the factors of such products to is a setting of the process: to TF32 on NVIDIA's GPUs, to bfloat16
by oneDNN on a CPU that has instructions for it. A training script sets it for its own network. Stages 1 and 2 say
themselves in what they compute, so that the same images and options give the same features and heads in any process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

_LOCK = threading.Lock()
_WITHIN: dict[object, bool] = {}
"""Who is within `float32_products`, in the order in which they came, and whether they want TF32."""

_FOUND: list[_Settings] = []
"""What was set before the first of them came; empty where nobody is within."""


class _Settings(NamedTuple):
    """What a process has set.

    Attributes
    ----------
    matmul : str
        Of `torch.set_float32_matmul_precision`.
    cudnn : bool
        Of `torch.backends.cudnn.allow_tf32`.
    own : tuple of str
        What each of `_owners` is set to itself: ``none`` where it goes by another one.
    seen : tuple of str
        What comes of that.
    """

    matmul: str
    cudnn: bool
    own: tuple[str, ...]
    seen: tuple[str, ...]


@contextmanager
def float32_products(*, tf32: bool = False) -> Iterator[None]:
    """Have matrix products and convolutions of float32 compute in it; what was set before is put back afterwards.

    The settings are the process's: whatever other threads compute meanwhile, they compute so too. Threads may be within
    at once and leave in any order; the last of them puts back what the first has found, and until then it is as the one
    says who came last. What others set meanwhile is lost.

    Parameters
    ----------
    tf32 : bool
        Whether NVIDIA's GPUs round factors to TF32; for one thread at a time, which feeds the GPU.
    """
    asks = object()
    with _LOCK:
        if not _WITHIN:
            _FOUND.append(_found())
        if not _WITHIN or _of_the_last() != tf32:
            _set(tf32=tf32)
        _WITHIN[asks] = tf32
    try:
        yield
    finally:
        with _LOCK:
            now = _of_the_last()
            del _WITHIN[asks]
            if not _WITHIN:
                _put_back(_FOUND.pop())
            elif _of_the_last() != now:
                _set(tf32=not now)


def _of_the_last() -> bool:
    return next(reversed(_WITHIN.values()))


_GOES_BY = (None, 0, 1, 1, 1, 0, 0, 0)
"""By which other one each of `_owners` goes that is set to nothing itself."""

_OF_CUDNN = (2, 3)


def _owners() -> list[Any]:
    """Return what torch has a precision of: all there is, NVIDIA's GPUs, and parts."""
    backends: Any = torch.backends
    cuda = (backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    return [backends, *cuda, backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]


def _found() -> _Settings:
    """Return what is set, and leave all of it set to float32, without which the older names cannot always be read."""
    owners = _owners()
    seen = tuple(str(owner.fp32_precision) for owner in owners)
    own = []
    for owner, value, goes_by in zip(owners, seen, _GOES_BY, strict=False):
        still = str(owner.fp32_precision)
        if goes_by is not None and still == "ieee":  # as the one that it goes by, by now
            own.append("none" if value == seen[goes_by] else value)
        else:
            own.append(still)
        if still != "ieee" or goes_by is None:
            owner.fp32_precision = "ieee"
    try:
        cudnn = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # that the parts say otherwise
        cudnn = True
    return _Settings(torch.get_float32_matmul_precision(), cudnn, tuple(own), seen)


def _set(*, tf32: bool) -> None:
    """Say it by the older names: the newer ones of NVIDIA's go with them, and those of a CPU stay at float32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32


def _put_back(found: _Settings) -> None:
    torch.set_float32_matmul_precision(found.matmul)
    torch.backends.cudnn.allow_tf32 = found.cudnn
    for number, owner in enumerate(_owners()):
        # what convolutions begin with has no name, and the older one, which is read by it, has set it
        if number not in _OF_CUDNN or owner.fp32_precision != found.seen[number]:
            owner.fp32_precision = found.own[number]
