"""Images through a network on a GPU that decodes JPEG itself: files are read by threads, and the GPU does the rest.

The interpreter's lock is what is scarce here: at ten thousand images a second it has a tenth of a millisecond for
each. So nothing is done for an image in Python but to open, read and close its file, to look through its segments and
to note what it is for; all else is done for some hundreds of images at once, in three places that work side by side:

1. threads read parts of the work, and find out which files are JPEGs that the GPU decodes; what is not, threads beside
   them decode and render as everywhere else;
2. one thread decodes and renders on streams of its own, and puts the images of a part together in their order;
3. the thread that asked launches the network on them, on another stream, and copies the rows into pinned memory; what
   has become of the part before is waited for only then.

Who decodes an image depends on its bytes alone, and no image's pixels on those of others: so rows are the same in any
order and however the work is divided.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from cache.errors import CutonceError
from cache.prefetch import prefetch_map
from stages.data.augment.batched import render_planned
from stages.data.augment.plan import Plan
from stages.data.augment.policy import Augmentation
from stages.data.encoded_files import read_encoded
from stages.data.image_stream import ImageRequest, render
from stages.data.images.batched_render import render_batch
from stages.data.images.decode import PIXEL_LIMIT
from stages.data.images.gpu_jpeg import decode_jpegs, parts_with_room
from stages.data.images.jpeg_structure import JpegSize
from stages.data.images.preprocessing import Preprocessing, stack_pixels
from stages.data.images.rendered_alone import rendered_alone
from stages.data.images.rgb import UnreadableImageError
from stages.data.sources.open_image import is_file
from stages.extraction.engine import Compute, ComputedBatch, register_engine
from stages.runtime.device import uploaded
from stages.runtime.interpreter import InterpreterProbe, short_turns
from stages.runtime.memory import InHalves
from stages.runtime.own_streams import own_stream
from stages.runtime.threads import single_thread_pool

_READERS = 4
"""Threads that read; more bring nothing."""

_READ_AHEAD = 6
"""Parts of the work that are read, or being read, before they are decoded."""

_READ_BYTES = 2 << 30
"""Of files that are read and not decoded, of all parts but the next: photographs of a camera take megabytes each."""

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
        short_turns(),
        InterpreterProbe() as probe,
        single_thread_pool(threads, "decode") as cpu_decoders,
        ThreadPoolExecutor(_READERS, "read") as readers,
        single_thread_pool(1, "gpu-decode") as decoder,
    ):
        room = _Room(_READ_BYTES)
        decode = _Decoder(device, streams, room)

        def read(numbered: tuple[int, list[ImageRequest]]) -> _Part:
            return _read(*numbered, cpu_decoders, room)

        with (
            closing(prefetch_map(read, _parts(requests, batch_size), pool=readers, ahead=_READ_AHEAD)) as encoded,
            closing(prefetch_map(decode, encoded, pool=decoder, ahead=_DECODED_AHEAD)) as decoded,
        ):
            try:
                for part in decoded:
                    with streams.computing():
                        launched.append(_launch(part, compute, batch_size, streams, probe))
                    del part
                    if len(launched) > 1:
                        yield launched.popleft()()
                while launched:
                    yield launched.popleft()()
            finally:
                room.open()
                streams.join()


class _Room:
    """How many bytes of files may be in memory: those of the next part, however many, and of later ones while they fit.

    Parts come in order, so whoever waits does so for parts before his own, which do not wait for him.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[int, int] = {}
        self._next = 0
        self._is_open = False
        self._changed = threading.Condition()

    def take(self, first: int, count: int) -> None:
        """Wait until there is room for the files of the part whose first request has this number."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_open or first == self._next or sum(self._taken.values()) + count <= self._most
            )
            self._taken[first] = count

    def give_back(self, first: int, following: int) -> None:
        """Give back the room of a part that is decoded; `following` is the first request of the next one."""
        with self._changed:
            del self._taken[first]
            self._next = following
            self._changed.notify_all()

    def open(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()


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
    """What is done beside each other on the device; on one without streams, one after the other.

    The network is not computed on CUDA's default stream, which waits for every stream that a library made as usual, and
    they for it. Parts are decoded on two streams in turn: each call of the decoder waits for its stream, and so not for
    the part before, which is still being rendered.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_cuda = device.type == "cuda"
        self._device = device
        self._computing, *decoding = [own_stream(device) if self.is_cuda else None for _ in range(3)]
        self._decoding = cycle(decoding)
        if self._computing is not None:
            self._computing.wait_stream(torch.cuda.current_stream(device))

    def decoding(self) -> AbstractContextManager[Any]:
        """Return the context in which the next part is decoded."""
        stream = next(self._decoding)
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    def computing(self) -> AbstractContextManager[Any]:
        """Return the context in which the network is launched."""
        return nullcontext() if self._computing is None else torch.cuda.stream(self._computing)

    def join(self) -> None:
        """Let the stream of this thread wait for what was launched: its memory may be that of weights next."""
        if self._computing is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._computing)

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


def _read(first: int, requests: list[ImageRequest], cpu_decoders: ThreadPoolExecutor, room: _Room) -> _Part:
    """Read what a GPU may decode, and begin with what a CPU has to."""
    started = time.perf_counter()
    candidates = [
        place for place, request in enumerate(requests) if request.reading.nvjpeg and is_file(request.location)
    ]
    waited = 0.0

    def take_room(count: int) -> None:
        nonlocal waited
        asked = time.perf_counter()
        room.take(first, count)
        waited = time.perf_counter() - asked

    files = read_encoded([requests[place].location for place in candidates], take_room)
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
    seconds = time.perf_counter() - started - waited
    return _Part(first, requests, places, encoded, sizes, on_cpu, cpu, seconds)


class _Decoder:
    """Decodes and renders parts on the device; what its decoder does not take, the CPU decodes."""

    def __init__(self, device: torch.device, streams: _Streams, room: _Room) -> None:
        self._device, self._streams, self._room = device, streams, room
        self._renderers: dict[Preprocessing | Augmentation, InHalves[Tensor]] = {}

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
                for some in parts_with_room(part.sizes):  # photographs are large as long as they are whole
                    of_some = slice(some.start, some.stop)
                    decoded = decode_jpegs(part.encoded[of_some], part.sizes[of_some], self._device)
                    rows.render(zip(part.places[of_some], decoded, strict=True), self._at_once)
                    del decoded
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
        part.encoded.clear()
        self._room.give_back(part.first, finished)
        return _Decoded(indices, images, ready, sorted(rows.failures), finished, busy, rows.remarks)

    def _at_once(self, how: Preprocessing | Augmentation, images: Sequence[Any]) -> Tensor:
        """Return the evaluation views of images, or renderings of images with their plans; of so many as find room."""
        if how not in self._renderers:
            render = partial(render_batch, preprocessing=how) if isinstance(how, Preprocessing) else _renderings_of(how)
            self._renderers[how] = InHalves(render, self._device, "rendering")
        return self._renderers[how](images)


def _renderings_of(augment: Augmentation) -> Callable[[Sequence[tuple[Tensor, Plan]]], Tensor]:
    """Return what makes of images and plans of an augmentation their renderings, uint8 [b, 3, S, S]."""

    def render(planned: Sequence[tuple[Tensor, Plan]]) -> Tensor:
        images, plans = zip(*planned, strict=True)
        return render_planned(images, plans, augment.preprocessing)

    return render


AtOnce = Callable[[Preprocessing | Augmentation, Sequence[Any]], Tensor]
"""Whose evaluation views, and of which images; or of which augmentation, and of which images with their plans."""

_Row = tuple[int, int]
"""The place of an image in its part, and which of its renderings."""


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
        self._rows: list[_Row] = []

    def render(self, decoded: Iterable[tuple[int, Tensor | None]], at_once: AtOnce) -> None:
        """Take images that the device decoded, or did not, with their places in the part."""
        images: list[tuple[int, Tensor]] = []
        for place, image in decoded:
            request = self._part.requests[place]
            if image is None:
                self._part.on_cpu[place] = self._part.cpu(request)
                continue
            remark = request.remark(*image.shape[-2:]) if request.remark is not None else ""
            self.remarks.update([remark] if remark else [])
            images.append((place, image))
        self._render_evaluation_views(images, at_once)
        self._render_augmented_views(images, at_once)
        for place, image in images:
            request = self._part.requests[place]
            if request.views is None:
                self._try(place, partial(rendered_alone, request.render, image))

    def _render_evaluation_views(self, images: Sequence[tuple[int, Tensor]], at_once: AtOnce) -> None:
        """Take the evaluation views of images that ask for them, as they are and as their mirror images."""
        of_kind: dict[Preprocessing, list[tuple[int, Tensor, tuple[bool, ...]]]] = {}
        for place, image in images:
            views = self._part.requests[place].views
            if views is None or not views.mirrored:
                continue
            try:
                views.preprocessing.require_proportions(*image.shape[-2:])
            except UnreadableImageError as error:
                self._fail(place, error)
                continue
            of_kind.setdefault(views.preprocessing, []).append((place, image, views.mirrored))
        for preprocessing, together in of_kind.items():
            rendered = at_once(preprocessing, [image for _, image, _ in together])
            for mirrored in (False, True):
                rows = [row for row, (_, _, wanted) in enumerate(together) if mirrored in wanted]
                if rows:
                    every = len(rows) == len(together)
                    chosen = rendered if every else rendered[uploaded(torch.tensor(rows), rendered.device)]
                    numbered = [(together[row][0], together[row][2].index(mirrored)) for row in rows]
                    self._take(chosen.flip(-1) if mirrored else chosen, numbered)

    def _render_augmented_views(self, images: Sequence[tuple[int, Tensor]], at_once: AtOnce) -> None:
        """Take the augmented views of images; those that cannot be planned are rendered one by one."""
        planned: dict[Augmentation, list[tuple[_Row, Tensor, Plan]]] = {}
        for place, image in images:
            views = self._part.requests[place].views
            if views is None or views.augment is None:
                continue
            for number, seed in enumerate(views.seeds, len(views.mirrored)):
                plan = views.augment.plan_if_possible(image.shape[-2], image.shape[-1], seed)
                if plan is None:
                    self._try(place, partial(rendered_alone, partial(views.augment, seed=seed), image), number)
                else:
                    planned.setdefault(views.augment, []).append(((place, number), image, plan))
        for augment, together in planned.items():
            rows, *planned_images = zip(*together, strict=True)
            of_plans = list(zip(*planned_images, strict=True))
            try:
                self._take(at_once(augment, of_plans), rows)
            except UnreadableImageError:  # of one of them, which is found one by one; the pixels of the others stay
                for (place, number), of_plan in zip(rows, of_plans, strict=True):
                    self._try(place, partial(at_once, augment, [of_plan]), number)

    def take_from_cpu(self, device: torch.device) -> None:
        """Wait for the images that the CPU decodes, and bring them to the device."""
        images: list[Tensor] = []
        rows: list[_Row] = []
        for place, future in self._part.on_cpu.items():
            rendered = future.result()
            self.remarks.update(rendered.remarks)
            if isinstance(rendered.images, UnreadableImageError):
                self._fail(place, rendered.images)
            else:
                images += rendered.images
                rows += [(place, number) for number in range(len(rendered.images))]
        if images:
            self._take(uploaded(stack_pixels(images), device), rows)

    def in_order(self) -> tuple[list[int], Tensor | None]:
        """Return the number of the request of each image, ascending, and the images, uint8 [n, 3, S, S]."""
        failed = {number - self._part.first for number, _ in self.failures}
        order = [row for row in range(len(self._rows)) if self._rows[row][0] not in failed]
        if not order:
            return [], None
        order.sort(key=self._rows.__getitem__)
        images = self._pieces[0] if len(self._pieces) == 1 else torch.cat(self._pieces)
        if order != list(range(len(self._rows))):
            images = images[uploaded(torch.tensor(order), images.device)]
        return [self._part.first + self._rows[row][0] for row in order], images

    def _try(self, place: int, render: Callable[[], Tensor], number: int = 0) -> None:
        """Take renderings of an image, [3, S, S] or [v, 3, S, S], the first of which has this number."""
        try:
            rendered = render()
        except UnreadableImageError as error:
            self._fail(place, error)
            return
        several = rendered if rendered.ndim == 4 else rendered[None]
        self._take(several, [(place, number + view) for view in range(len(several))])

    def _fail(self, place: int, error: UnreadableImageError) -> None:
        """Note why there is nothing of an image; once, however many of its renderings fail."""
        number = self._part.first + place
        if all(number != failed for failed, _ in self.failures):
            self.failures.append((number, error.reason))

    def _take(self, images: Tensor, rows: Sequence[_Row]) -> None:
        self._pieces.append(images)
        self._rows += rows


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
