"""Training images for a GPU that decodes and augments them: files are read by other processes, the GPU does the rest.

The other processes find out which files are JPEGs that the GPU decodes, and plan what their renderings consist of: all
that is drawn for an image follows from seed, epoch and key, as it does without a GPU. What the GPU does not decode they
render themselves.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cache.prefetch import prefetch_map
from stages.data.augment.batched import render_planned
from stages.data.augment.plan import Plan
from stages.data.augment.policy import Augmentation
from stages.data.encoded_files import read_encoded
from stages.data.images.decode import PIXEL_LIMIT
from stages.data.images.gpu_jpeg import decode_jpegs
from stages.data.images.jpeg_structure import JpegSize
from stages.data.images.preprocessing import stack_pixels
from stages.data.images.reading import Reading
from stages.data.manifest import Manifest
from stages.data.sources.open_image import is_file, read_image
from stages.runtime.device import uploaded
from stages.runtime.memory import InHalves
from stages.runtime.seeding import seed_from

_AHEAD = 2
"""Batches that are rendered, or being rendered, while one is trained on."""

_EXIF = b"Exif\0\0"
_ORIENTATION = 274
_ON_THEIR_SIDES = (5, 6, 7, 8)


@dataclass(frozen=True)
class EncodedJpeg:
    """A file that the GPU decodes.

    Attributes
    ----------
    place : int
        In the batch.
    location : str
    start, stop : int
        Where it lies in the data of the batch.
    size : JpegSize
    seed : int
        Of its rendering.
    plan : Plan or None
        Of its rendering; None where that depends on its pixels.
    upright : (int, int)
        Height and width for which it was planned.
    """

    place: int
    location: str
    start: int
    stop: int
    size: JpegSize
    seed: int
    plan: Plan | None
    upright: tuple[int, int]


@dataclass(frozen=True)
class EncodedBatch:
    """A batch of training images, partly as they lie on the disk.

    Attributes
    ----------
    data : uint8 Tensor [n]
        The files, one after the other: one piece, which goes from process to process as a whole.
    jpegs : list of EncodedJpeg
    places : list of int
        Of the images that are rendered already.
    rendered : uint8 Tensor [k, 3, S, S]
        These.
    targets : Tensor [b, ...]
    """

    data: Tensor
    jpegs: list[EncodedJpeg]
    places: list[int]
    rendered: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.targets)


class EncodedImages(Dataset[Any]):
    """Training images by lists of (epoch, place), a batch for each list.

    Parameters
    ----------
    manifest, augment, seed, reading
        As of :class:`~stages.finetuning.image_batches.AugmentedImages`, whose renderings these are.
    """

    def __init__(self, manifest: Manifest, augment: Augmentation, seed: int, reading: Reading) -> None:
        self.locations, self.keys, self.targets = manifest.locations, manifest.keys, manifest.targets
        self.augment, self.seed, self.reading = augment, seed, reading

    def __len__(self) -> int:
        return len(self.keys)

    def __getitems__(self, positions: Sequence[tuple[int, int]]) -> EncodedBatch:
        """Return a batch."""
        indices = [index for _, index in positions]
        seeds = [seed_from(self.seed, epoch, self.keys[index], bits=60) for epoch, index in positions]
        files = [place for place, index in enumerate(indices) if is_file(self.locations[index])]
        encoded = read_encoded([self.locations[indices[place]] for place in files])
        jpegs = [
            self._planned(place, indices[place], seeds[place], encoded.data, span, size)
            for place, span, size in zip(files, encoded.spans, encoded.jpegs, strict=True)
            if size is not None and size.height * size.width <= PIXEL_LIMIT
        ]
        others = sorted(set(range(len(indices))).difference(jpeg.place for jpeg in jpegs))
        rendered = [
            self.augment(read_image(self.locations[indices[place]], self.reading), seeds[place]) for place in others
        ]
        return EncodedBatch(
            torch.from_numpy(encoded.data),
            jpegs,
            others,
            stack_pixels(rendered) if rendered else torch.empty(0, dtype=torch.uint8),
            torch.from_numpy(self.targets[indices]),
        )

    def _planned(
        self, place: int, index: int, seed: int, data: NDArray[np.uint8], span: tuple[int, int], size: JpegSize
    ) -> EncodedJpeg:
        upright = _upright(size, data[slice(*span)])
        plan = self.augment.plan_if_possible(*upright, seed)
        return EncodedJpeg(place, self.locations[index], *span, size, seed, plan, upright)


def as_it_is(batch: EncodedBatch) -> EncodedBatch:
    """Return a batch that is one already, as a loader's `collate_fn`."""
    return batch


def _upright(size: JpegSize, data: NDArray[np.uint8]) -> tuple[int, int]:
    """Return height and width of an image once it is turned as its EXIF says."""
    if _EXIF in data[: 1 << 16].tobytes():
        with Image.open(io.BytesIO(data.tobytes()), formats=("JPEG", "MPO")) as image:
            if image.getexif().get(_ORIENTATION) in _ON_THEIR_SIDES:
                return size.width, size.height
    return size.height, size.width


class RenderedBatch(NamedTuple):
    """Images on the device, uint8 [b, 3, S, S], their targets, and the event after which they are there."""

    images: Tensor
    targets: Tensor
    ready: torch.cuda.Event | None


class DeviceRenderer:
    """Makes renderings of encoded images on a device, on a stream of its own, beside the training.

    Parameters
    ----------
    augment : Augmentation
    reading : Reading
        How the CPU reads what the device does not decode.
    device : torch.device
    """

    def __init__(self, augment: Augmentation, reading: Reading, device: torch.device) -> None:
        self._augment, self._reading, self._device = augment, reading, device
        is_cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]
        self._in_halves = InHalves(self._decoded_and_rendered, device, "decoding and augmenting")

    def batches(self, batches: Iterable[EncodedBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images on the device, uint8 [b, 3, S, S], and targets, the next ones being rendered meanwhile."""
        with (
            ThreadPoolExecutor(1, "render") as pool,
            closing(prefetch_map(self.render, batches, pool=pool, ahead=_AHEAD)) as rendered,
        ):
            for batch in rendered:
                if batch.ready is not None:
                    stream = torch.cuda.current_stream(self._device)
                    stream.wait_event(batch.ready)
                    batch.images.record_stream(stream)
                yield batch.images, batch.targets

    def render(self, batch: EncodedBatch) -> RenderedBatch:
        """Return a batch as the network is shown it.

        Raises
        ------
        UnreadableImageError
            If an image cannot be read, which it could before.
        """
        with self._beside():
            places, pieces = list(batch.places), []
            if batch.places:
                pieces.append(uploaded(batch.rendered, self._device))
            if batch.jpegs:
                pieces.append(self._in_halves([(batch.data, jpeg) for jpeg in batch.jpegs]))
                places += [jpeg.place for jpeg in batch.jpegs]
            images = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
            if places != sorted(places):
                images = images.index_select(0, uploaded(torch.tensor(places).argsort(), self._device))
            images = images.contiguous(memory_format=torch.channels_last)
            ready = None
            if self._stream is not None:
                ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
                ready.record(self._stream)
        return RenderedBatch(images, batch.targets, ready)

    def _beside(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _decoded_and_rendered(self, files: Sequence[tuple[Tensor, EncodedJpeg]]) -> Tensor:
        """Return the renderings of JPEGs, [b, 3, S, S]; what the device does not decode after all, the CPU renders."""
        encoded = [data[jpeg.start : jpeg.stop] for data, jpeg in files]
        jpegs = [jpeg for _, jpeg in files]
        decoded = decode_jpegs(encoded, [jpeg.size for jpeg in jpegs], self._device)
        views: list[Tensor | None] = [None] * len(jpegs)
        together: list[tuple[int, Tensor, Plan]] = []
        for number, (jpeg, image) in enumerate(zip(jpegs, decoded, strict=True)):
            if image is None:
                view = self._augment(read_image(jpeg.location, self._reading), jpeg.seed)
                views[number] = uploaded(view, self._device)
                continue
            size = (image.shape[-2], image.shape[-1])
            plan = jpeg.plan if size == jpeg.upright else self._augment.plan_if_possible(*size, jpeg.seed)
            if plan is None:
                views[number] = self._augment(image, jpeg.seed)
            else:
                together.append((number, image, plan))
        if together:
            numbers, images, plans = zip(*together, strict=True)
            rendered = render_planned(images, plans, self._augment.preprocessing)
            if len(numbers) == len(jpegs):
                return rendered
            for number, view in zip(numbers, rendered, strict=True):
                views[number] = view
        return torch.stack([view for view in views if view is not None])
