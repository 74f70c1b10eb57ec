"""Training images for a GPU that decodes and augments them: files are read by other processes, the GPU does the rest.

The other processes find out which files are JPEGs that the GPU decodes, and plan what their renderings consist of: all
that is drawn for an image follows from seed, epoch and key, as it does without a GPU. What the GPU does not decode they
render themselves. So they do masks, which are no JPEGs and have to be where their images will be: while an image is
planned, its mask goes through the same transforms.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cache.prefetch import prefetch_map
from stages.data.augment.batched import render_planned
from stages.data.augment.plan import NotPlannableError, Plan
from stages.data.augment.policy import Augmentation
from stages.data.encoded_files import read_encoded
from stages.data.images.decode import PIXEL_LIMIT
from stages.data.images.gpu_jpeg import decode_jpegs, parts_with_room
from stages.data.images.jpeg_structure import JpegSize
from stages.data.images.preprocessing import stack_pixels
from stages.data.images.reading import Reading
from stages.data.images.rendered_alone import rendered_alone
from stages.data.images.rgb import EXIF
from stages.data.manifest import Manifest
from stages.data.masks.mask_classes import MaskClasses, read_mask, resize_mask
from stages.data.sources.open_image import is_file, read_image
from stages.finetuning.sample_views import ViewSampler
from stages.runtime.device import uploaded
from stages.runtime.memory import InHalves
from stages.runtime.own_streams import own_stream
from stages.runtime.seeding import seed_from
from stages.training.sample_images import Inputs, SampleImages

_AHEAD = 2
"""Batches that are rendered, or being rendered, while one is trained on."""

_ORIENTATION = 274
_ON_THEIR_SIDES = (5, 6, 7, 8)


class Wanted(NamedTuple):
    """An image that is to be rendered.

    Attributes
    ----------
    location : str
    seed : int
        Of its rendering.
    mask : str
        What tells its mask, where it has one that is the target.
    """

    location: str
    seed: int
    mask: str = ""


@dataclass(frozen=True)
class EncodedJpeg:
    """A file that the GPU decodes.

    Attributes
    ----------
    place : int
        In the batch.
    wanted : Wanted
    start, stop : int
        Where it lies in the data of the batch.
    size : JpegSize
    plan : Plan or None
        Of its rendering; None where that depends on its pixels.
    upright : (int, int)
        Height and width for which it was planned.
    """

    place: int
    wanted: Wanted
    start: int
    stop: int
    size: JpegSize
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
    samples : SampleImages, optional
        Which images are of which sample, and no image as yet, where samples have several.
    """

    data: Tensor
    jpegs: list[EncodedJpeg]
    places: list[int]
    rendered: Tensor
    targets: Tensor
    samples: SampleImages | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.targets)


@dataclass(frozen=True)
class Encoder:
    """Makes of images that are wanted what the GPU has to be given of them.

    Attributes
    ----------
    augment : Augmentation
    reading : Reading
        How the CPU reads what the GPU does not decode.
    classes : MaskClasses, optional
        What stands in masks, where these are the targets.
    label_size : (int, int), optional
        Height and width in which masks are given then: by nearest, of what is rendered. By default as rendered.
    """

    augment: Augmentation
    reading: Reading
    classes: MaskClasses | None = None
    label_size: tuple[int, int] | None = None

    def batch(
        self, wanted: Sequence[Wanted], targets: Tensor | None, samples: SampleImages | None = None
    ) -> EncodedBatch:
        """Return a batch; `targets` are None where they are the masks, which are rendered here."""
        files = [place for place, image in enumerate(wanted) if is_file(image.location)]
        encoded = read_encoded([wanted[place].location for place in files])
        labels: dict[int, Tensor] = {}
        jpegs: list[EncodedJpeg] = []
        for place, span, size in zip(files, encoded.spans, encoded.jpegs, strict=True):
            if size is None or size.height * size.width > PIXEL_LIMIT:
                continue
            upright = _upright(size, encoded.data[slice(*span)])
            plan, label = self._planned(wanted[place], upright)
            if targets is None and label is None:
                continue  # image and mask are rendered together, by whoever has the pixels of both
            if label is not None:
                labels[place] = label
            jpegs.append(EncodedJpeg(place, wanted[place], *span, size, plan, upright))
        others = sorted(set(range(len(wanted))).difference(jpeg.place for jpeg in jpegs))
        views = []
        for place in others:
            view, label = self.rendered(wanted[place])
            views.append(view)
            if label is not None:
                labels[place] = label
        return EncodedBatch(
            torch.from_numpy(encoded.data),
            jpegs,
            others,
            stack_pixels(views) if views else torch.empty(0, dtype=torch.uint8),
            torch.stack([labels[place] for place in range(len(wanted))]) if targets is None else targets,
            samples,
        )

    def rendered(self, wanted: Wanted) -> tuple[Tensor, Tensor | None]:
        """Return what the CPU makes of an image, uint8 [3, S, S], and of its mask, where that is the target.

        Raises
        ------
        UnreadableImageError
            If one of them cannot be read, which could before.
        """
        image = read_image(wanted.location, self.reading)
        if self.classes is None:
            return self.augment(image, wanted.seed), None
        view, mask = self.augment.with_mask(image, self._mask(wanted, image.shape[-2:]), wanted.seed)
        return view, self._label(mask)

    def _planned(self, wanted: Wanted, upright: tuple[int, int]) -> tuple[Plan | None, Tensor | None]:
        """Return the plan of a rendering and the label; neither of an image with a mask that cannot be planned."""
        if self.classes is None:
            return self.augment.plan_if_possible(*upright, wanted.seed), None
        try:
            plan, mask = self.augment.plan_with_mask(*upright, self._mask(wanted, upright), wanted.seed)
        except NotPlannableError:
            return None, None
        return plan, self._label(mask)

    def _mask(self, wanted: Wanted, shape: Sequence[int]) -> Tensor:
        assert self.classes is not None
        return torch.from_numpy(resize_mask(read_mask(wanted.mask, self.classes), (shape[0], shape[1])))

    def _label(self, mask: Tensor) -> Tensor:
        return mask if self.label_size is None else torch.from_numpy(resize_mask(mask.numpy(), self.label_size))


class EncodedImages(Dataset[Any]):
    """Training images by lists of (epoch, place), a batch for each list; with their masks, where these are the targets.

    Parameters
    ----------
    manifest, seed
        As of :class:`~stages.finetuning.image_batches.AugmentedImages`, whose renderings these are, or, with masks, of
        :class:`~stages.finetuning.masks.AugmentedMasks`.
    encoder : Encoder
    """

    def __init__(self, manifest: Manifest, seed: int, encoder: Encoder) -> None:
        self.locations, self.keys = manifest.locations, manifest.keys
        self.masks = None if encoder.classes is None else manifest.target_texts
        self.targets = manifest.targets
        self.seed, self.encoder = seed, encoder

    def __len__(self) -> int:
        return len(self.keys)

    def __getitems__(self, positions: Sequence[tuple[int, int]]) -> EncodedBatch:
        """Return a batch."""
        wanted = [
            Wanted(
                self.locations[index],
                seed_from(self.seed, epoch, self.keys[index], bits=60),
                "" if self.masks is None else self.masks[index],
            )
            for epoch, index in positions
        ]
        indices = [index for _, index in positions]
        return self.encoder.batch(wanted, torch.from_numpy(self.targets[indices]) if self.masks is None else None)


class EncodedSamples(Dataset[Any]):
    """Training samples of several images by lists of (epoch, place), a batch for each list.

    Parameters
    ----------
    manifest, sampler, seed
        As of :class:`~stages.finetuning.sample_views.AugmentedSamples`, whose renderings these are.
    at_a_time : int
        As of :class:`~stages.training.sample_images.SampleImages`.
    encoder : Encoder
    """

    def __init__(self, manifest: Manifest, sampler: ViewSampler, seed: int, at_a_time: int, encoder: Encoder) -> None:
        self.images, self.keys, self.targets = manifest.images, manifest.keys, manifest.targets
        self.sampler, self.seed, self.at_a_time, self.encoder = sampler, seed, at_a_time, encoder

    def __len__(self) -> int:
        return len(self.keys)

    def __getitems__(self, positions: Sequence[tuple[int, int]]) -> EncodedBatch:
        """Return a batch."""
        drawn = [self.sampler(self.images[index], self.keys[index], epoch) for epoch, index in positions]
        wanted = [
            Wanted(image.location, seed_from(self.seed, epoch, image.key, bits=60))
            for (epoch, _), of_sample in zip(positions, drawn, strict=True)
            for _, image in of_sample
        ]
        samples = SampleImages(
            torch.empty(0),
            tuple(map(len, drawn)),
            tuple(place for of_sample in drawn for place, _ in of_sample),
            self.at_a_time,
        )
        return self.encoder.batch(wanted, torch.from_numpy(self.targets[[index for _, index in positions]]), samples)


def as_it_is(batch: EncodedBatch) -> EncodedBatch:
    """Return a batch that is one already, as a loader's `collate_fn`."""
    return batch


def _upright(size: JpegSize, data: NDArray[np.uint8]) -> tuple[int, int]:
    """Return height and width of an image once it is turned as its EXIF says."""
    if EXIF in data[: 1 << 16].tobytes():
        with Image.open(io.BytesIO(data.tobytes()), formats=("JPEG", "MPO")) as image:
            if image.getexif().get(_ORIENTATION) in _ON_THEIR_SIDES:
                return size.width, size.height
    return size.height, size.width


class RenderedBatch(NamedTuple):
    """Images on the device, uint8 [m, 3, S, S], the batch they are of, and the event after which they are there."""

    images: Tensor
    batch: EncodedBatch
    ready: torch.cuda.Event | None


class DeviceRenderer:
    """Makes renderings of encoded images on a device, on streams of its own, beside the training.

    On two in turn: each call of the decoder waits for its stream, and so not for the batch before, which is still being
    rendered.

    Parameters
    ----------
    encoder : Encoder
        Whose batches these are.
    device : torch.device
    """

    def __init__(self, encoder: Encoder, device: torch.device) -> None:
        self._encoder, self._augment, self._device = encoder, encoder.augment, device
        self._is_cuda = device.type == "cuda"
        streams = [own_stream(device) if self._is_cuda else None for _ in range(2)]
        self._streams = cycle(streams)
        self._in_halves = InHalves(self._decoded_and_rendered, device, "decoding and augmenting")

    def batches(self, batches: Iterable[EncodedBatch]) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield images on the device, uint8 [b, 3, S, S] or of b samples, and targets, the next ones being rendered."""
        with (
            ThreadPoolExecutor(1, "render") as pool,
            closing(prefetch_map(self.render, batches, pool=pool, ahead=_AHEAD)) as rendered,
        ):
            for images, batch, ready in rendered:
                if ready is not None:
                    stream = torch.cuda.current_stream(self._device)
                    stream.wait_event(ready)
                    images.record_stream(stream)
                yield images if batch.samples is None else replace(batch.samples, images=images), batch.targets

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
                for some in self._parts(batch):
                    pieces.append(self._in_halves([(batch, jpeg) for jpeg in some]))
                places += [jpeg.place for jpeg in batch.jpegs]
            images = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
            if places != sorted(places):
                images = images.index_select(0, uploaded(torch.tensor(places).argsort(), self._device))
            images = images.contiguous(memory_format=torch.channels_last)
            ready = None
            if self._is_cuda:
                ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
                ready.record()  # in the stream of this batch
        return RenderedBatch(images, batch, ready)

    @staticmethod
    def _parts(batch: EncodedBatch) -> Iterator[list[EncodedJpeg]]:
        """Yield the JPEGs of a batch, as many at a time as are decoded and rendered at once.

        Of samples of several images there may be many, and photographs are large as long as they are whole.
        """
        most = len(batch.jpegs) if batch.samples is None else batch.samples.at_a_time
        for first in range(0, len(batch.jpegs), most):
            jpegs = batch.jpegs[first : first + most]
            for part in parts_with_room([jpeg.size for jpeg in jpegs]):
                yield jpegs[part.start : part.stop]

    def _beside(self) -> AbstractContextManager[Any]:
        stream = next(self._streams)
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    def _decoded_and_rendered(self, files: Sequence[tuple[EncodedBatch, EncodedJpeg]]) -> Tensor:
        """Return the renderings of JPEGs, [b, 3, S, S]; what the device does not decode after all, the CPU renders."""
        encoded = [batch.data[jpeg.start : jpeg.stop] for batch, jpeg in files]
        decoded = decode_jpegs(encoded, [jpeg.size for _, jpeg in files], self._device)
        views: list[Tensor | None] = [None] * len(files)
        together: list[tuple[int, Tensor, Plan]] = []
        for number, ((batch, jpeg), image) in enumerate(zip(files, decoded, strict=True)):
            # of another size than it was planned for, an image takes its mask with it to other places
            if image is None or (jpeg.wanted.mask and image.shape[-2:] != jpeg.upright):
                view, label = self._encoder.rendered(jpeg.wanted)
                views[number] = uploaded(view, self._device)
                if label is not None:
                    batch.targets[jpeg.place] = label
                continue
            size, seed = (image.shape[-2], image.shape[-1]), jpeg.wanted.seed
            plan = jpeg.plan if size == jpeg.upright else self._augment.plan_if_possible(*size, seed)
            if plan is None:
                views[number] = rendered_alone(partial(self._augment, seed=seed), image)
            else:
                together.append((number, image, plan))
        if together:
            numbers, images, plans = zip(*together, strict=True)
            rendered = render_planned(images, plans, self._augment.preprocessing)
            if len(numbers) == len(files):
                return rendered
            for number, view in zip(numbers, rendered, strict=True):
                views[number] = view
        return torch.stack([view for view in views if view is not None])
