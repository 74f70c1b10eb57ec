"""Images decoded and rendered by threads ahead of who consumes them, batch by batch, in order.

Threads and not processes: the decoders release the interpreter's lock, and nothing has to be copied between processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from cache.errors import UsageError
from stages.data.decoding import read_image
from stages.data.photograph import UnreadableImageError


@dataclass(frozen=True)
class Batch:
    """Rendered images that belong together, and what could not be rendered.

    Attributes
    ----------
    indices : list of int
        Positions of the images in the locations, ascending.
    images : Tensor
        uint8 [b, 3, S, S], row by row those of `indices`; [0, 3, 0, 0] if there are none.
    failures : list of (index, reason)
        The others of the batch.
    """

    indices: list[int]
    images: Tensor
    failures: list[tuple[int, str]]


def stream(
    locations: Sequence[str],
    render: Callable[[Tensor], Tensor],
    batch_size: int,
    workers: int,
    lookahead: int = 3,
) -> Iterator[Batch]:
    """Yield the images at `locations`, rendered, in order.

    Besides the batch that the consumer has, at most `lookahead` are in memory. An image that cannot be read is
    carried in its batch's failures and ends nothing. The threads end with the iteration, however that ends.

    Parameters
    ----------
    render : callable
        uint8 [3, H, W] -> uint8 [3, S, S]; called in the threads, so it must be safe there.
    workers : int
        Threads.

    Raises
    ------
    UsageError
        If `batch_size` or `workers` is less than 1.
    """
    if batch_size < 1 or workers < 1:
        raise UsageError(f"--batch-size {batch_size} and --workers {workers} must be at least 1")
    starts = iter(range(0, len(locations), batch_size))
    ahead: deque[tuple[int, list[Future[Tensor | UnreadableImageError]]]] = deque()

    def rendered(location: str) -> Tensor | UnreadableImageError:
        try:
            return render(read_image(location))
        except UnreadableImageError as error:
            return error

    with _decoding_threads(workers) as pool:

        def begin(how_many: int) -> None:
            for start in islice(starts, how_many):
                some = locations[start : start + batch_size]
                ahead.append((start, [pool.submit(rendered, location) for location in some]))

        begin(lookahead)
        while ahead:
            batch = _gather(*ahead.popleft())
            begin(1)
            yield batch


def _gather(start: int, futures: Sequence[Future[Tensor | UnreadableImageError]]) -> Batch:
    results = [future.result() for future in futures]
    good = {start + offset: one for offset, one in enumerate(results) if isinstance(one, Tensor)}
    failures = [(start + i, one.reason) for i, one in enumerate(results) if isinstance(one, UnreadableImageError)]
    images = torch.stack(list(good.values())) if good else torch.empty((0, 3, 0, 0), dtype=torch.uint8)
    return Batch(list(good), images, failures)


@contextmanager
def _decoding_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Open a pool of threads that each compute alone, so that they do not fight the forward pass for the cores.

    torch keeps a number of threads for each thread, taken from a process-wide one when the thread first asks. Setting
    it in a decoding thread changes the process-wide one too. So this thread asks before that can happen, and says its
    own number again at the end, for threads that are started later.
    """
    torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "decode", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(torch.get_num_threads())
