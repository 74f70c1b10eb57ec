"""Requested images through a network, in order: read, decoded, rendered and computed, while others are written.

On a CPU each core does all of it for images of its own, on one thread. Two cores with a batch each take less time than
both with one batch after the other, since nobody waits for the slower half of an operator; there are never more threads
at work than cores, which would push each other out of the caches; and a sum over one thread always comes out with the
same bits. On an accelerator threads decode ahead, and the device computes one batch while the next is made ready.

What becomes of the rows is told by who asks for them, such as ``extract``. An engine is a function under
:func:`register_engine`, here or in a file of its own.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.errors import UsageError
from cache.prefetch import prefetch_map
from stages.config.registry import ENGINES, EngineKind
from stages.data.image_stream import ImageRequest, render, stream_images
from stages.data.images.preprocessing import stack_pixels
from stages.data.images.rgb import UnreadableImageError
from stages.runtime.threads import single_thread_pool

Compute = Callable[[Tensor], list[Tensor]]
"""Rendered images, uint8 [b, 3, S, S] -> tensors [b, ...]."""

_AHEAD = 2
"""Parts of the work, per thread, that are handed out before the first of them is done."""


@dataclass(frozen=True)
class ComputedBatch:
    """What became of the next requests.

    Attributes
    ----------
    indices : list of int
        Number of the request that each row belongs to, ascending; several renderings of one follow each other.
    rows : list of arrays [n, ...]
        One for each tensor that was computed; empty where no image could be read.
    failures : list of (index, reason)
        Requests that could not be met.
    finished : int
        Requests that are done with this, from the first on.
    busy : dict
        By the names of stages (``read``, ``decode``, ``forward``, ``copy``, ``interpreter``, as far as they are told
        apart), the seconds that each was busy, of its threads on average, since the batch before.
    remarks : Counter
        How many of the images had each remark that is made while files are read.
    """

    indices: list[int]
    rows: list[NDArray[np.generic]]
    failures: list[tuple[int, str]]
    finished: int
    busy: dict[str, float]
    remarks: Counter[str] = field(default_factory=Counter)


class Engine(Protocol):
    """What brings requested images through a network."""

    def __call__(
        self,
        requests: Iterable[ImageRequest],
        compute: Compute,
        device: torch.device,
        batch_size: int,
        threads: int,
        renderings: int = 1,
        /,
    ) -> Iterator[ComputedBatch]:
        """Yield what `compute` makes of the requested images, in order.

        An image that cannot be read is carried among the failures and ends nothing. The threads end with the iteration,
        however that ends.

        Parameters
        ----------
        requests : iterable of ImageRequest
            Asked for in this thread, no sooner than needed.
        compute : callable
            Given at most `batch_size` images at a time. On a CPU it is called in several threads at once.
        device : torch.device
            Where `compute` computes.
        threads : int
            On a CPU they decode and compute, else they decode.
        renderings : int
            Most rows that one request gives.
        """
        ...


EngineT = TypeVar("EngineT", bound=Engine)


def register_engine(
    name: str, *, devices: tuple[str, ...] = (), automatic: bool = True, help_text: str = ""
) -> Callable[[EngineT], EngineT]:
    """Make a function an engine of stage 1.

    Parameters
    ----------
    name, devices, automatic
        As in :class:`~stages.config.registry.EngineKind`; literals in our own files.
    help_text
        What help says of it; by default the beginning of the docstring.

    Raises
    ------
    UsageError
        If another function is registered under the name.
    """
    return ENGINES.decorator(EngineKind(name, devices, automatic, help_text=help_text))


def get_engine(name: str, device: torch.device) -> Engine:
    """Return an engine for a device.

    Parameters
    ----------
    name
        Of an engine; ``auto`` takes one that names the type of the device, or else one that takes any.

    Raises
    ------
    UsageError
        If there is no such engine, it does not compute on the device, or several would be right.
    """
    if name != "auto":
        kind = ENGINES.find(name, ", and auto")
        if kind.devices and device.type not in kind.devices:
            raise UsageError(
                f"`engine` {name} computes on {' and '.join(kind.devices)}, and the `device` is {device.type}; use "
                "`engine` auto"
            )
    else:
        name = _suitable_engine(device)
    engine: Engine = ENGINES.get(name)
    return engine


def _suitable_engine(device: torch.device) -> str:
    ENGINES.things()  # plug-ins too say only then what they compute on
    kinds = [kind for kind in ENGINES.known.values() if kind.automatic]
    suitable = [kind.name for kind in kinds if device.type in kind.devices]
    suitable = suitable or [kind.name for kind in kinds if not kind.devices]
    if len(suitable) > 1:
        raise UsageError(f"`engine` auto: {' and '.join(suitable)} both compute on {device.type}; name one of them")
    return suitable[0]


@register_engine("cores", devices=("cpu",))
def on_cores(
    requests: Iterable[ImageRequest],
    compute: Compute,
    device: torch.device,
    batch_size: int,
    threads: int,
    renderings: int = 1,
) -> Iterator[ComputedBatch]:
    """Each core decodes and computes images of its own. See :class:`Engine`."""

    def decode_and_forward(numbered: tuple[int, list[ImageRequest]]) -> ComputedBatch:
        first, part = numbered
        return _decode_and_forward(part, first, compute, batch_size, threads)

    with (
        single_thread_pool(threads, "compute") as pool,
        closing(
            prefetch_map(decode_and_forward, _parts(requests, batch_size), pool=pool, ahead=_AHEAD * threads)
        ) as computed,
    ):
        yield from computed


@register_engine("openvino", devices=("cpu",), automatic=False)
def on_openvino(
    requests: Iterable[ImageRequest],
    compute: Compute,
    device: torch.device,
    batch_size: int,
    threads: int,
    renderings: int = 1,
) -> Iterator[ComputedBatch]:
    """As cores, but the trunk by OpenVINO, if that is installed: 1.0 to 1.7 times as fast."""
    yield from on_cores(requests, compute, device, batch_size, threads, renderings)


@register_engine("accelerator")
def on_accelerator(
    requests: Iterable[ImageRequest],
    compute: Compute,
    device: torch.device,
    batch_size: int,
    threads: int,
    renderings: int = 1,
) -> Iterator[ComputedBatch]:
    """Threads decode while a device computes. See :class:`Engine`."""
    for batch in stream_images(requests, batch_size, threads, renderings):
        started = time.perf_counter()
        rows = [row.to("cpu").numpy() for row in compute(batch.images)] if batch.indices else []
        busy = {"decode": batch.decode_seconds / threads, "forward": time.perf_counter() - started}
        yield ComputedBatch(batch.indices, rows, batch.failures, batch.finished, busy, batch.remarks)


def _parts(requests: Iterable[ImageRequest], batch_size: int) -> Iterator[tuple[int, list[ImageRequest]]]:
    """Yield the requests in parts, each with the number of its first; the system is told of each file."""
    remaining = iter(requests)
    first = 0
    while part := list(islice(remaining, batch_size)):
        for request in part:
            _advise_willneed(request.location)
        yield first, part
        first += len(part)


def _advise_willneed(location: str) -> None:
    """Tell the system that a file will be read soon, so that it fetches it while other images are computed."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError, ValueError):  # whoever reads it finds out, and says what is wrong with it
            file = os.open(location, os.O_RDONLY | os.O_NONBLOCK)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(file)


def _decode_and_forward(
    part: list[ImageRequest], first: int, compute: Compute, batch_size: int, threads: int
) -> ComputedBatch:
    """Decode, render and compute some requests on one of so many threads; `first` is the number of the first."""
    started = time.perf_counter()
    indices: list[int] = []
    images: list[Tensor] = []
    failures: list[tuple[int, str]] = []
    remarks: Counter[str] = Counter()
    for number, request in enumerate(part, first):
        try:
            rendered = render(request, remarks)
        except UnreadableImageError as error:
            failures.append((number, error.reason))
            continue
        images += rendered
        indices += [number] * len(rendered)
    decoded = time.perf_counter()
    rows_by_batch = [
        [tensor.numpy() for tensor in compute(stack_pixels(images[start : start + batch_size]))]
        for start in range(0, len(images), batch_size)
    ]
    rows = (
        rows_by_batch[0]
        if len(rows_by_batch) == 1
        else [np.concatenate(arrays) for arrays in zip(*rows_by_batch, strict=True)]
    )
    busy = {"decode": (decoded - started) / threads, "forward": (time.perf_counter() - decoded) / threads}
    return ComputedBatch(indices, rows, failures, first + len(part), busy, remarks)
