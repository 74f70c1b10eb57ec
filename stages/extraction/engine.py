"""Requested images through a network, in order: read, decoded, rendered and computed, while others are written.

On a CPU each core does all of it for images of its own, on one thread. Two cores with a batch each take less time than
both with one batch after the other, since nobody waits for the slower half of an operator; there are never more threads
at work than cores, which would push each other out of the caches; and a sum over one thread always comes out with the
same bits. On an accelerator threads decode ahead, and the device computes one batch while the next is made ready.

What becomes of the rows is told by who asks for them, such as ``extract``.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.prefetch import prefetch_map
from stages.data.image_stream import ImageBatch, ImageRequest, render, stream_images
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
    decode_seconds, forward_seconds : float
        How long threads were busy with reading, decoding and rendering, and with computing.
    """

    indices: list[int]
    rows: list[NDArray[np.generic]]
    failures: list[tuple[int, str]]
    finished: int
    decode_seconds: float
    forward_seconds: float


def run_batches(
    requests: Iterable[ImageRequest],
    compute: Compute,
    device: torch.device,
    batch_size: int,
    threads: int,
    renderings: int = 1,
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
    if device.type == "cpu":
        return _on_cores(requests, compute, batch_size, threads)
    return _on_accelerator(stream_images(requests, batch_size, threads, renderings), compute, device)


def _on_cores(
    requests: Iterable[ImageRequest], compute: Compute, batch_size: int, threads: int
) -> Iterator[ComputedBatch]:
    def decode_and_forward(numbered: tuple[int, list[ImageRequest]]) -> ComputedBatch:
        first, part = numbered
        return _decode_and_forward(part, first, compute, batch_size)

    with (
        single_thread_pool(threads, "compute") as pool,
        closing(
            prefetch_map(decode_and_forward, _parts(requests, batch_size), pool=pool, ahead=_AHEAD * threads)
        ) as computed,
    ):
        yield from computed


def _parts(requests: Iterable[ImageRequest], batch_size: int) -> Iterator[tuple[int, list[ImageRequest]]]:
    """Yield the requests in parts, each with the number of its first; the system is told of each file."""
    coming = iter(requests)
    first = 0
    while part := list(islice(coming, batch_size)):
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


def _decode_and_forward(part: list[ImageRequest], first: int, compute: Compute, batch_size: int) -> ComputedBatch:
    """Decode, render and compute some requests; `first` is the number of the first of them."""
    started = time.perf_counter()
    indices: list[int] = []
    images: list[Tensor] = []
    failures: list[tuple[int, str]] = []
    for number, request in enumerate(part, first):
        try:
            rendered = render(request)
        except UnreadableImageError as error:
            failures.append((number, error.reason))
            continue
        images += rendered
        indices += [number] * len(rendered)
    decoded = time.perf_counter()
    of_batches = [
        [tensor.numpy() for tensor in compute(stack_pixels(images[at : at + batch_size]))]
        for at in range(0, len(images), batch_size)
    ]
    rows = of_batches[0] if len(of_batches) == 1 else [np.concatenate(one) for one in zip(*of_batches, strict=True)]
    forward_seconds = time.perf_counter() - decoded
    return ComputedBatch(indices, rows, failures, first + len(part), decoded - started, forward_seconds)


def _on_accelerator(batches: Iterable[ImageBatch], compute: Compute, device: torch.device) -> Iterator[ComputedBatch]:
    """Launch each batch as soon as it is decoded; what the one before has become is waited for only then."""
    launched: deque[Callable[[], ComputedBatch]] = deque()
    for batch in batches:
        launched.append(_launch(batch, compute, device))
        if len(launched) > 1:
            yield launched.popleft()()
    for finish in launched:
        yield finish()


def _launch(batch: ImageBatch, compute: Compute, device: torch.device) -> Callable[[], ComputedBatch]:
    """Start computing a batch; return what waits for its rows."""
    cuda = device.type == "cuda"
    before = time.perf_counter()
    rows: list[Tensor] = []
    if batch.indices:
        images = batch.images.pin_memory() if cuda else batch.images
        rows = [row.to("cpu", non_blocking=cuda) for row in compute(images)]
    copied = torch.cuda.current_stream(device).record_event() if cuda else None
    busy = time.perf_counter() - before

    def finish() -> ComputedBatch:
        waiting = time.perf_counter()
        if copied is not None:
            copied.synchronize()
        seconds = busy + time.perf_counter() - waiting
        arrays = [row.numpy() for row in rows]
        return ComputedBatch(batch.indices, arrays, batch.failures, batch.finished, batch.decode_seconds, seconds)

    return finish
