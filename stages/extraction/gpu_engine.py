"""Images through a network on a GPU that decodes JPEG itself: files are read by threads, and the GPU does the rest.

The interpreter's lock is what is scarce here: at ten thousand images a second it has a tenth of a millisecond for
each. So nothing is done for an image in Python but to open, read and close its file, to look through its segments and
to note what it is for; all else is done for some hundreds of images at once, in three places that work side by side:

1. threads read parts of the work, and find out which files are JPEGs that the GPU decodes; what is not, threads beside
   them decode and render as everywhere else;
2. one thread decodes and renders on a stream of its own, and puts the images of a part together in their order;
3. the thread that asked launches the network on them and copies the rows into pinned memory; what has become of the
   part before is waited for only then.

Who decodes an image depends on its bytes alone, and no image's pixels on those of others: so rows are the same in any
order and however the work is divided.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cache.errors import CutonceError
from cache.prefetch import prefetch_map
from stages.data.encoded_files import read_encoded
from stages.data.image_stream import ImageRequest, render
from stages.data.images.batched_render import render_batch
from stages.data.images.decode import PIXEL_LIMIT
from stages.data.images.gpu_jpeg import decode_jpegs
from stages.data.images.jpeg_structure import JpegSize
from stages.data.images.preprocessing import Preprocessing, stack_pixels
from stages.data.images.rgb import UnreadableImageError
from stages.data.sources.open_image import is_file
from stages.extraction.engine import Compute, ComputedBatch, register_engine
from stages.runtime.device import uploaded
from stages.runtime.interpreter import InterpreterProbe
from stages.runtime.memory import InHalves
from stages.runtime.threads import single_thread_pool

_READERS = 4
"""Threads that read; more bring nothing."""

_READ_AHEAD = 6
"""Parts of the work that are read, or being read, before they are decoded."""

_DECODED_AHEAD = 2
"""Parts that are decoded, or being decoded, before they are computed."""


@register_engine("gpu", devices=("cuda",))
def on_gpu(
    requests: Iterable[ImageRequest],
    compute: Compute,
    device: torch.device,
    batch_size: int,
    threads: int,
    renderings: int = 1,
) -> Iterator[ComputedBatch]:
    """The GPU decodes JPEG and renders, besides what it computes. See :class:`~stages.extraction.engine.Engine`."""
    streams = _Streams(device)
    launched: deque[Callable[[], ComputedBatch]] = deque()
    with (
        InterpreterProbe() as probe,
        single_thread_pool(threads, "decode") as cpu_decoders,
        ThreadPoolExecutor(_READERS, "read") as readers,
        single_thread_pool(1, "gpu-decode") as decoder,
    ):
        decode = _Decoder(device, streams)

        def read(numbered: tuple[int, list[ImageRequest]]) -> _Part:
            return _read(*numbered, cpu_decoders)

        with (
            closing(prefetch_map(read, _parts(requests, batch_size), pool=readers, ahead=_READ_AHEAD)) as encoded,
            closing(prefetch_map(decode, encoded, pool=decoder, ahead=_DECODED_AHEAD)) as decoded,
        ):
            for part in decoded:
                launched.append(_launch(part, compute, batch_size, streams, probe))
                del part
                if len(launched) > 1:
                    yield launched.popleft()()
            while launched:
                yield launched.popleft()()


def _parts(requests: Iterable[ImageRequest], batch_size: int) -> Iterator[tuple[int, list[ImageRequest]]]:
    """Yield the requests in parts of as many renderings as fit into a batch, each with the number of its first."""
    part: list[ImageRequest] = []
    first = rows = 0
    for request in requests:
        if part and rows + request.renderings > batch_size:
            yield first, part
            first, part, rows = first + len(part), [], 0
        part.append(request)
        rows += request.renderings
    if part:
        yield first, part


class _Streams:
    """What is done beside each other on the device; on one without streams, one after the other."""

    def __init__(self, device: torch.device) -> None:
        self.is_cuda = device.type == "cuda"
        self._device = device
        self._decoding = torch.cuda.Stream(device) if self.is_cuda else None  # type: ignore[no-untyped-call]

    def decoding(self) -> AbstractContextManager[Any]:
        """Return the context in which images are decoded."""
        return nullcontext() if self._decoding is None else torch.cuda.stream(self._decoding)

    def event(self) -> torch.cuda.Event | None:
        """Return an event that is recorded now, in the stream of this thread; it knows the time."""
        if not self.is_cuda:
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def take(self, images: Tensor, ready: torch.cuda.Event | None) -> None:
        """Let the stream of this thread wait for images of another one."""
        if ready is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(ready)
            images.record_stream(stream)


@dataclass
class _Part:
    """A part of the work whose files are in memory.

    Attributes
    ----------
    first : int
        Number of its first request.
    requests : list of ImageRequest
    places : list of int
        Places in the part of the images that a GPU decodes.
    encoded : list of uint8 Tensor [n]
        Their files.
    sizes : list of JpegSize
        Theirs.
    on_cpu : dict
        What becomes of the others, by their places in the part.
    cpu : callable
        Begins to do the same with one more.
    seconds : float
        How long reading took.
    """

    first: int
    requests: list[ImageRequest]
    places: list[int]
    encoded: list[Tensor]
    sizes: list[JpegSize]
    on_cpu: dict[int, Future[_Rendered]]
    cpu: Callable[[ImageRequest], Future[_Rendered]]
    seconds: float


@dataclass
class _Rendered:
    """What a CPU made of an image: its renderings, or why there are none, and what there is to say of it."""

    images: list[Tensor] | UnreadableImageError
    remarks: Counter[str]


@dataclass
class _Decoded:
    """A part of the work whose images are on the device.

    Attributes
    ----------
    indices : list of int
        Number of the request of each image.
    images : Tensor or None
        uint8 [n, 3, S, S].
    ready : event
        When they are there.
    busy : dict
        Seconds of each stage.
    """

    indices: list[int]
    images: Tensor | None
    ready: torch.cuda.Event | None
    failures: list[tuple[int, str]]
    finished: int
    busy: dict[str, float]
    remarks: Counter[str] = field(default_factory=Counter)


def _render_on_cpu(request: ImageRequest) -> _Rendered:
    remarks: Counter[str] = Counter()
    try:
        return _Rendered(render(request, remarks), remarks)
    except UnreadableImageError as error:
        return _Rendered(error, remarks)


def _read(first: int, requests: list[ImageRequest], cpu_decoders: ThreadPoolExecutor) -> _Part:
    """Read what a GPU may decode, and begin with what a CPU has to."""
    started = time.perf_counter()
    candidates = [
        place for place, request in enumerate(requests) if request.reading.nvjpeg and is_file(request.location)
    ]
    files = read_encoded([requests[place].location for place in candidates])
    data = torch.from_numpy(files.data)
    places, encoded, sizes = list[int](), list[Tensor](), list[JpegSize]()
    for place, span, size in zip(candidates, files.spans, files.jpegs, strict=True):
        if size is not None and size.height * size.width <= PIXEL_LIMIT:
            places.append(place)
            encoded.append(data[slice(*span)])
            sizes.append(size)

    def cpu(request: ImageRequest) -> Future[_Rendered]:
        return cpu_decoders.submit(_render_on_cpu, request)

    on_cpu = {place: cpu(requests[place]) for place in sorted(set(range(len(requests))).difference(places))}
    return _Part(first, requests, places, encoded, sizes, on_cpu, cpu, time.perf_counter() - started)


class _Decoder:
    """Decodes and renders parts on the device; what its decoder does not take, the CPU decodes."""

    def __init__(self, device: torch.device, streams: _Streams) -> None:
        self._device, self._streams = device, streams
        self._renderers: dict[Preprocessing, InHalves[Tensor]] = {}

    def __call__(self, part: _Part) -> _Decoded:
        """Return the images of a part.

        Raises
        ------
        CutonceError
            If the device has too little memory for them.
        """
        started = time.perf_counter()
        rows = _Rows(part)
        try:
            with self._streams.decoding(), torch.inference_mode():
                decoded = decode_jpegs(part.encoded, part.sizes, self._device)
                rows.render(zip(part.places, decoded, strict=True), self._views)
                rows.take_from_cpu(self._device)
                indices, images = rows.in_order()
                ready = self._streams.event()
        except torch.OutOfMemoryError as error:
            raise CutonceError(
                f"{self._device} has not enough memory to decode and render {len(part.requests)} images: free some of "
                "it, take a smaller `extract_batch_size`, or `decode_on` cpu"
            ) from error
        busy = {"read": part.seconds / _READERS, "decode": time.perf_counter() - started}
        finished = part.first + len(part.requests)
        return _Decoded(indices, images, ready, sorted(rows.failures), finished, busy, rows.remarks)

    def _views(self, images: Sequence[Tensor], preprocessing: Preprocessing) -> Tensor:
        """Return the evaluation views of images; of so few at once as find room."""
        if preprocessing not in self._renderers:
            render = partial(render_batch, preprocessing=preprocessing)
            self._renderers[preprocessing] = InHalves(render, self._device, "rendering")
        return self._renderers[preprocessing](images)


class _Rows:
    """The rendered images of a part, whoever decoded them.

    Attributes
    ----------
    failures : list of (number of the request, reason)
    remarks : Counter
    """

    def __init__(self, part: _Part) -> None:
        self.failures: list[tuple[int, str]] = []
        self.remarks: Counter[str] = Counter()
        self._part = part
        self._pieces: list[Tensor] = []
        self._places: list[int] = []

    def render(
        self,
        decoded: Iterable[tuple[int, Tensor | None]],
        views_of: Callable[[Sequence[Tensor], Preprocessing], Tensor],
    ) -> None:
        """Take images that the device decoded, or did not, with their places in the part.

        Parameters
        ----------
        views_of : callable
            Returns the evaluation views of many images.
        """
        at_once: dict[Preprocessing, list[tuple[int, Tensor, tuple[bool, ...]]]] = {}
        one_by_one: list[tuple[int, Tensor]] = []
        for place, image in decoded:
            request = self._part.requests[place]
            if image is None:
                self._part.on_cpu[place] = self._part.cpu(request)
                continue
            remark = request.remark(*image.shape[-2:]) if request.remark is not None else ""
            self.remarks.update([remark] if remark else [])
            views = request.evaluation
            try:
                if views is not None:
                    views.preprocessing.require_proportions(*image.shape[-2:])
                rest = request.render if views is None else views.rest
                rendered = None if rest is None else rest(image)
            except UnreadableImageError as error:
                self.failures.append((self._part.first + place, error.reason))
                continue
            if views is not None:
                at_once.setdefault(views.preprocessing, []).append((place, image, views.mirrored))
            if rendered is not None:
                one_by_one.append((place, rendered if rendered.ndim == 4 else rendered[None]))
        for preprocessing, images in at_once.items():
            rendered_at_once = views_of([image for _, image, _ in images], preprocessing)
            self._take_evaluation_views(rendered_at_once, [(place, wanted) for place, _, wanted in images])
        for place, rendered in one_by_one:
            self._take(rendered, [place] * len(rendered))

    def _take_evaluation_views(self, views: Tensor, images: Sequence[tuple[int, tuple[bool, ...]]]) -> None:
        """Take the evaluation views of images, by their places, as they are and as their mirror images."""
        for mirrored in (False, True):
            rows = [row for row, (_, wanted) in enumerate(images) if mirrored in wanted]
            if rows:
                chosen = views if len(rows) == len(images) else views[uploaded(torch.tensor(rows), views.device)]
                self._take(chosen.flip(-1) if mirrored else chosen, [images[row][0] for row in rows])

    def take_from_cpu(self, device: torch.device) -> None:
        """Wait for the images that the CPU decodes, and bring them to the device."""
        images: list[Tensor] = []
        places: list[int] = []
        for place, future in self._part.on_cpu.items():
            rendered = future.result()
            self.remarks.update(rendered.remarks)
            if isinstance(rendered.images, UnreadableImageError):
                self.failures.append((self._part.first + place, rendered.images.reason))
            else:
                images += rendered.images
                places += [place] * len(rendered.images)
        if images:
            self._take(uploaded(stack_pixels(images), device), places)

    def in_order(self) -> tuple[list[int], Tensor | None]:
        """Return the number of the request of each image, ascending, and the images, uint8 [n, 3, S, S]."""
        if not self._pieces:
            return [], None
        images = self._pieces[0] if len(self._pieces) == 1 else torch.cat(self._pieces)
        order = sorted(range(len(self._places)), key=self._places.__getitem__)
        if order != list(range(len(order))):
            images = images[uploaded(torch.tensor(order), images.device)]
        return [self._part.first + self._places[number] for number in order], images

    def _take(self, images: Tensor, places: Sequence[int]) -> None:
        self._pieces.append(images)
        self._places += places


def _launch(
    part: _Decoded, compute: Compute, batch_size: int, streams: _Streams, probe: InterpreterProbe
) -> Callable[[], ComputedBatch]:
    """Start computing a part; return what waits for its rows."""
    started = time.perf_counter()
    rows: list[list[Tensor]] = []
    before = computed = copied = None
    if part.images is not None:
        streams.take(part.images, part.ready)
        before = streams.event()
        rows = [compute(part.images[first : first + batch_size]) for first in range(0, len(part.images), batch_size)]
        computed = streams.event()
        # into pinned memory, which torch takes where it need not wait
        rows = [[row.to("cpu", non_blocking=streams.is_cuda) for row in tensors] for tensors in rows]
        copied = streams.event()
        part.images = None
    launch_seconds = time.perf_counter() - started

    def finish() -> ComputedBatch:
        busy = {**part.busy, "forward": launch_seconds, "interpreter": probe.seconds()}
        if before is not None and computed is not None and copied is not None:
            copied.synchronize()
            busy["forward"] = before.elapsed_time(computed) / 1e3
            busy["copy"] = computed.elapsed_time(copied) / 1e3
        arrays = [
            torch.cat(tensors).numpy() if len(tensors) > 1 else tensors[0].numpy()
            for tensors in zip(*rows, strict=True)
        ]
        return ComputedBatch(part.indices, arrays, part.failures, part.finished, busy, part.remarks)

    return finish
