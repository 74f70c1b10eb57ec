"""Images decoded and rendered by threads ahead of who consumes them, batch by batch, in order.

Threads and not processes: the decoders release the interpreter's lock, and nothing has to be copied between processes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cache.prefetch import prefetch_map
from stages.data.augment.policy import Augmentation
from stages.data.images.preprocessing import Preprocessing, stack_pixels
from stages.data.images.reading import PLAIN, Reading
from stages.data.images.rgb import UnreadableImageError
from stages.data.sources.open_image import read_image
from stages.runtime.threads import single_thread_pool

_LOOKAHEAD = 3
"""Batches that are decoded ahead."""


class RequestedViews(NamedTuple):
    """What `render` of a request gives, for who renders many images at once: evaluation views, then augmented ones.

    Attributes
    ----------
    preprocessing : Preprocessing
        Whose evaluation view comes first.
    mirrored : tuple of bool
        How it comes: as it is, as its mirror image, both, one after the other, or not at all.
    augment : Augmentation, optional
        What renders the views that come after.
    seeds : tuple of int
        Theirs.
    """

    preprocessing: Preprocessing
    mirrored: tuple[bool, ...] = (False,)
    augment: Augmentation | None = None
    seeds: tuple[int, ...] = ()


class ImageRequest(NamedTuple):
    """An image that is wanted, and how.

    Attributes
    ----------
    location : str
    render : callable
        uint8 [3, H, W] -> uint8 [3, S, S], or [v, 3, S, S] for several renderings of one decoded image. Called in a
        thread.
    reading : Reading
        How a file is read.
    views : RequestedViews, optional
        What the renderings are, where that is known: whoever has many images may render them at once.
    remark : callable, optional
        Height and width of the image -> what there is to say of that, empty where nothing; counted with what is said
        of the file.
    renderings : int
        Rows that `render` gives, for who puts images of several requests into one batch before they are rendered.
    """

    location: str
    render: Callable[[Tensor], Tensor]
    reading: Reading = PLAIN
    remark: Callable[[int, int], str] | None = None
    views: RequestedViews | None = None
    renderings: int = 1


@dataclass(frozen=True)
class ImageBatch:
    """Rendered images that belong together, and what could not be rendered.

    Attributes
    ----------
    indices : list of int
        Number of the request that each row belongs to, ascending; several renderings of one follow each other.
    images : Tensor
        uint8 [b, 3, S, S]; [0, 3, 0, 0] if there are none.
    failures : list of (index, reason)
        Requests up to here that could not be met, since the batch before.
    finished : int
        Requests that are done with this batch, from the first on.
    decode_seconds : float
        Time that processors spent on decoding and rendering, since the batch before.
    remarks : Counter
        How many of the images had each remark, since the batch before.
    """

    indices: list[int]
    images: Tensor
    failures: list[tuple[int, str]]
    finished: int
    decode_seconds: float
    remarks: Counter[str]


def render(request: ImageRequest, remarks: Counter[str]) -> list[Tensor]:
    """Return the renderings, uint8 [3, S, S] each, of the requested image, and count what there is to say of it.

    Raises
    ------
    UnreadableImageError
        If the image cannot be read, or not be rendered.
    """
    of_image: list[str] = []
    pixels = read_image(request.location, request.reading, of_image)
    if request.remark is not None:
        of_image += filter(None, [request.remark(*pixels.shape[-2:])])
    image = request.render(pixels)
    remarks.update(set(of_image))
    return list(image) if image.ndim == 4 else [image]


def stream_images(
    requests: Iterable[ImageRequest], batch_size: int, workers: int, renderings: int = 1
) -> Iterator[ImageBatch]:
    """Yield the requested images in order, `batch_size` renderings at a time.

    Besides the batch that the consumer has, at most three are in memory. An image that cannot be read is carried in a
    batch's failures and ends nothing. The threads end with the iteration, however that ends.

    Parameters
    ----------
    requests : iterable of ImageRequest
        Asked for no sooner than needed.
    batch_size : int
        Rows of a batch; the last one has what is left.
    workers : int
        Threads.
    renderings : int
        Most rows that one request gives.
    """
    indices: list[int] = []
    rows: list[Tensor] = []
    failures: list[tuple[int, str]] = []
    finished = 0
    seconds = 0.0
    remarks: Counter[str] = Counter()

    def batch(size: int) -> ImageBatch:
        nonlocal failures, seconds, remarks
        images = stack_pixels(rows[:size]) if rows else torch.empty((0, 3, 0, 0), dtype=torch.uint8)
        # the request of the first row that is left for the next batch is not done
        finished_requests = indices[size] if len(indices) > size else finished
        result = ImageBatch(indices[:size], images, failures, finished_requests, seconds, remarks)
        del indices[:size], rows[:size]
        failures, seconds, remarks = [], 0.0, Counter()
        return result

    images_ahead = max(_LOOKAHEAD * batch_size // renderings, workers)
    with (
        single_thread_pool(workers, "decode") as pool,
        closing(prefetch_map(_rendered, requests, pool=pool, ahead=images_ahead)) as decoded,
    ):
        for rendered in decoded:
            seconds += rendered.seconds
            remarks.update(rendered.remarks)
            if isinstance(rendered.rows, UnreadableImageError):
                failures.append((finished, rendered.rows.reason))
            else:
                indices += [finished] * len(rendered.rows)
                rows += rendered.rows
            finished += 1
            while len(rows) >= batch_size:
                yield batch(batch_size)
            if len(failures) >= batch_size:
                yield batch(batch_size)
        if rows or failures:
            yield batch(batch_size)


class _Rendered(NamedTuple):
    rows: list[Tensor] | UnreadableImageError
    seconds: float
    remarks: Counter[str]


def _rendered(request: ImageRequest) -> _Rendered:
    started = time.thread_time()
    rows: list[Tensor] | UnreadableImageError
    remarks: Counter[str] = Counter()
    try:
        rows = render(request, remarks)
    except UnreadableImageError as error:
        rows = error
    return _Rendered(rows, time.thread_time() - started, remarks)
