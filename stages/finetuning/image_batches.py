"""Inputs of the upper part from images: read and augmented by other processes, then run through the frozen part."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cache.errors import DataError
from cache.prefetch import prefetch_map
from stages.data.augment.mixup import MixupCutmix
from stages.data.augment.policy import Augmentation
from stages.data.encoded_files import bytes_of_largest
from stages.data.image_stream import stream_images
from stages.data.images.preprocessing import Preprocessing
from stages.data.images.reading import PLAIN, Reading, reading_of
from stages.data.manifest import Manifest
from stages.data.sources.open_image import read_image
from stages.extraction.extractor import Extractor
from stages.finetuning.batch_sampler import EpochBatchSampler
from stages.finetuning.encoded_images import (
    DeviceRenderer,
    EncodedBatch,
    EncodedImages,
    EncodedSamples,
    Encoder,
    Wanted,
    as_it_is,
)
from stages.finetuning.masks import AugmentedMasks, classes_of, mask_views
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.sample_views import AugmentedSamples, CollateSamples, complete_samples, join_samples
from stages.finetuning.transfer_model import TransferModel
from stages.runtime.device import uploaded
from stages.runtime.memory import InHalves
from stages.runtime.progress import progress
from stages.runtime.seeding import seed_from
from stages.runtime.shared_memory import loaders_that_fit
from stages.runtime.threads import keep_what_is_inherited, single_thread_pool, usable_cores
from stages.training.sample_images import Inputs, SampleImages

_LOG = logging.getLogger("cutonce")

VALIDATION_BYTES = 1 << 30
"""Frozen outputs of the validation images are computed once and kept in memory up to this size."""


class ImageBatches:
    """Training images in new renderings in every epoch, validation images in the evaluation view.

    Parameters
    ----------
    problem : FinetuneProblem
    upper : TransferModel
    mixing : MixupCutmix, optional
        Mixes the images of a batch, before the frozen part.

    Attributes
    ----------
    batches : int
        Of an epoch.
    forwards : int
        Images that went through the frozen part so far, or, where there is none, through the whole network.
    """

    def __init__(self, problem: FinetuneProblem, upper: TransferModel, mixing: MixupCutmix | None = None) -> None:
        extractor, options = problem.extractor, problem.config
        self.forwards = 0
        self._upper, self._seed, self._mixing, self._task = upper, problem.seed, mixing, problem.task
        self._epochs = options.epochs
        order = EpochBatchSampler(len(problem.train), problem.samples_per_batch, problem.seed, problem.rank)
        self.batches = len(order)
        self._sampler = _EpochSampler(order)
        workers = options.num_workers
        if workers is None:
            workers = min(usable_cores() - 1, 8)
        self._at_a_time = max(options.finetune_batch_size // problem.rank.world_size, 1)
        self._renderer = None
        if extractor.reading.nvjpeg:
            self._renderer = DeviceRenderer(self._encoder(problem), extractor.device)
        workers = workers_with_room(
            workers, extractor.backbone.preprocessing, problem, encoded=self._renderer is not None
        )
        dataset, collate = self._dataset(problem)
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self._sampler,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=keep_what_is_inherited,
            pin_memory=extractor.device.type == "cuda" and self._renderer is None,
        )
        self._forks = workers > 0
        self._threads = extractor.threads
        self._frozen = InHalves(upper.frozen, extractor.device, "the frozen part")
        self._extractor, self._own_val = extractor, problem.own_val
        self._kept_val = KeptBatches()

    @staticmethod
    def _reading(extractor: Extractor) -> Reading:
        """Return how files are read: in full, since a crop of one may be enlarged."""
        return replace(reading_of(extractor.options), nvjpeg=extractor.reading.nvjpeg)

    def _encoder(self, problem: FinetuneProblem) -> Encoder:
        """Return what the device is given of the training images, where it decodes."""
        extractor = problem.extractor
        is_dense = problem.task.reads == "image"
        return Encoder(
            extractor.augmentation,
            self._reading(extractor),
            classes_of(problem.train) if is_dense else None,
            problem.label_size if is_dense else None,
        )

    def _dataset(self, problem: FinetuneProblem) -> tuple[Dataset[Any], Callable[[Any], Any] | None]:
        """Return the training samples, and what makes a batch of them where that is not torch's own."""
        extractor, train = problem.extractor, problem.train
        rendering = extractor.augmentation, problem.seed, self._reading(extractor)
        if self._renderer is not None and train.images:
            encoder = self._encoder(problem)
            return EncodedSamples(train, problem.sampler, problem.seed, self._at_a_time, encoder), as_it_is
        if self._renderer is not None:
            return EncodedImages(train, problem.seed, self._encoder(problem)), as_it_is
        if problem.task.reads == "image":
            return AugmentedMasks(train, problem.label_size, *rendering), None
        if not train.images:
            return AugmentedImages(train, *rendering), None
        return AugmentedSamples(train, problem.sampler, *rendering), CollateSamples(self._at_a_time)

    def train(self, epoch: int, first: int) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield (output of the boundary, targets) of an epoch, from batch number `first` on."""
        self._sampler.epoch, self._sampler.first = epoch, first
        if self._forks:
            gc.collect()  # see `keep_what_is_inherited`
            self._forks = False
        with (
            progress(label=f"epoch {epoch}/{self._epochs}", total=self.batches, unit="batches") as bar,
            single_thread_pool(self._threads, "frozen") as pool,
        ):
            bar.update(first)
            batches = iter(self._loader) if self._renderer is None else self._renderer.batches(self._loader)
            for step, (images, targets) in enumerate(batches, first):
                if isinstance(images, SampleImages):
                    self.forwards += len(images.images)
                    yield images.map(partial(self._in_turns, pool)), targets
                    bar.update()
                    continue
                inputs = self._upper.normalize(images)
                if self._mixing is not None:
                    shares = uploaded(self._task.soft_target(targets), inputs.device)
                    inputs, targets = self._mixing(inputs, shares, self._seed, epoch, step)
                self.forwards += len(images)
                yield self._through_frozen(inputs, pool), targets
                bar.update()

    def val(self) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield the same of the validation images, in the evaluation view."""
        make = self._sample_validation if self._own_val.images else self._validation
        return self._kept_val.served(partial(make, self._extractor, self._own_val), self._count_again)

    def _in_turns(self, pool: ThreadPoolExecutor, images: Tensor) -> Tensor:
        """Return the output of the boundary for the images of samples, never more at a time than a batch may have."""
        parts = torch.split(images, self._at_a_time)
        return torch.cat([self._through_frozen(self._upper.normalize(part), pool) for part in parts])

    def _through_frozen(self, inputs: Tensor, pool: ThreadPoolExecutor) -> Tensor:
        """Return the output of the boundary; on a CPU each core computes that of a part of the batch."""
        if inputs.device.type != "cpu" or self._upper.boundary is None:
            return self._frozen(inputs)
        return torch.cat(list(pool.map(self._upper.frozen, inputs.chunk(self._threads))))

    def _validation(self, extractor: Extractor, val: Manifest) -> Iterator[tuple[Inputs, Tensor]]:
        with progress(label="validate", total=len(val), unit="images") as bar:
            for indices, images in self._evaluation_views(extractor, val):
                targets = (
                    mask_views(val, indices, extractor.backbone.preprocessing)
                    if self._task.reads == "image"
                    else torch.from_numpy(val.targets[indices])
                )
                yield self._frozen(self._upper.normalize(images)), targets
                bar.update(len(indices))

    def _count_again(self, inputs: Inputs) -> None:
        """Count validation images that are read once more: what is kept of them is the output of the frozen part."""
        if self._upper.boundary is None:
            self.forwards += len(inputs.images if isinstance(inputs, SampleImages) else inputs)

    def _evaluation_views(self, extractor: Extractor, images: Manifest) -> Iterator[tuple[list[int], Tensor]]:
        """Yield images, by their numbers, in the evaluation view: uint8 [b, 3, S, S], as stage 1 decodes them."""
        if self._renderer is not None:
            rendered = self._evaluation_views_on_device(extractor, images)
        else:
            rendered = self._evaluation_views_of_threads(extractor, images)
        for indices, views in rendered:
            self.forwards += len(indices)
            yield indices, views

    @staticmethod
    def _evaluation_views_of_threads(extractor: Extractor, images: Manifest) -> Iterator[tuple[list[int], Tensor]]:
        requests = extractor.evaluation_requests(images.locations)
        for batch in stream_images(requests, extractor.batch_size, extractor.threads):
            require_readable(images, batch.failures)
            yield batch.indices, batch.images

    def _evaluation_views_on_device(self, extractor: Extractor, images: Manifest) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the same where the device decodes: its pixels are those of the features that the head was fitted on."""
        encoder = Encoder(Augmentation("none", extractor.backbone.preprocessing, ()), self._reading(extractor))
        size, no_targets = extractor.batch_size, torch.empty(0)
        parts = [range(len(images))[first : first + size] for first in range(0, len(images), size)]

        def read(part: range) -> EncodedBatch:
            return encoder.batch([Wanted(images.locations[index], 0) for index in part], no_targets)

        with (
            single_thread_pool(extractor.threads, "read") as pool,
            closing(prefetch_map(read, parts, pool=pool, ahead=extractor.threads)) as encoded,
        ):
            rendered = DeviceRenderer(encoder, extractor.device).batches(encoded)
            for part, (views, _) in zip(parts, rendered, strict=True):
                assert isinstance(views, Tensor)
                yield list(part), views

    def _sample_validation(self, extractor: Extractor, val: Manifest) -> Iterator[tuple[Inputs, Tensor]]:
        images = val.by_image()

        def outputs() -> Iterator[tuple[list[int], Tensor, list[tuple[int, str]]]]:
            for indices, views in self._evaluation_views(extractor, images):
                yield indices, self._frozen(self._upper.normalize(views)), []
                bar.update(len(indices))

        with progress(label="validate", total=len(images), unit="images") as bar:
            for samples in complete_samples(outputs(), val.images):
                targets = torch.from_numpy(val.targets[[sample.number for sample in samples]])
                yield join_samples(samples, self._at_a_time), targets


def workers_with_room(
    workers: int, preprocessing: Preprocessing, problem: FinetuneProblem, *, encoded: bool = False
) -> int:
    """Return as many loading processes as shared memory has room for; the batches are the same, however many.

    Where files come `encoded`, there has to be room for the largest of them, too.
    """
    ranks = problem.rank.world_size
    images = -(-problem.samples_per_batch // ranks) * max(map(problem.sampler.size, problem.train.images), default=1)
    batch_bytes = images * len(preprocessing.mean) * math.prod(preprocessing.shape)
    if encoded:
        batch_bytes += bytes_of_largest(problem.train.by_image().locations, images)
    fitting = loaders_that_fit(workers, batch_bytes, ranks)
    if fitting < workers and problem.rank.is_main:
        instead = f"{fitting} processes load images" if fitting else "this process loads the images itself"
        _LOG.info(
            f"note: shared memory (/dev/shm) has no room for the batches of {workers} loading processes, so {instead}, "
            "which is slower; containers are given more by --shm-size or a larger /dev/shm"
        )
    return fitting


class AugmentedImages(Dataset[tuple[Tensor, Tensor]]):
    """Training images by (epoch, place): the rendering depends on seed, epoch and key, on nothing else."""

    def __init__(self, manifest: Manifest, augment: Augmentation, seed: int, reading: Reading = PLAIN) -> None:
        self.locations, self.keys, self.targets = manifest.locations, manifest.keys, manifest.targets
        self.augment = augment
        self.seed = seed
        self.reading = reading

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = position
        seed = seed_from(self.seed, epoch, self.keys[index], bits=60)
        image = self.augment(read_image(self.locations[index], self.reading), seed)
        return image, torch.as_tensor(self.targets[index])


class _EpochSampler(Sampler[list[tuple[int, int]]]):
    """The batches of `epoch`, from `first` on, as lists of (epoch, place): what a loader's processes are told."""

    def __init__(self, order: EpochBatchSampler) -> None:
        self.epoch, self.first = 1, 0
        self._order = order

    def __len__(self) -> int:
        return len(self._order) - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch  # a loader asks ahead; an epoch stays itself
        return ([(epoch, index) for index in batch] for batch in self._order.batches(epoch, self.first))


def require_readable(manifest: Manifest, failures: list[tuple[int, str]]) -> None:
    """Refuse to go on without an image that stage 1 could read.

    Raises
    ------
    DataError
        With the image and the reason.
    """
    for index, reason in failures:
        raise DataError(f"{manifest.locations[index]} could be read before and cannot be read now: {reason}")


class KeptBatches:
    """Batches that are computed once and then served from memory, if they fit `VALIDATION_BYTES`.

    The frozen outputs of the validation images are the same in every epoch. What makes them is given at each call: kept
    here, it would hold who has these, in a circle, and with it the processes that load images, until garbage is
    collected.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[Inputs, Tensor]] = []
        self._are_complete = False

    def served(
        self, make: Callable[[], Iterator[tuple[Inputs, Tensor]]], on_again: Callable[[Inputs], None] = lambda _: None
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield the batches of `make`; `on_again` is told the inputs of each that is served from memory."""
        if self._are_complete:
            for batch in self._batches:
                on_again(batch[0])
                yield batch
            return
        self._batches.clear()
        size, fits_in_memory = 0, True
        for batch in make():
            size += sum(part.nbytes for part in batch)
            fits_in_memory = fits_in_memory and size <= VALIDATION_BYTES
            if fits_in_memory:
                self._batches.append(batch)
            else:
                self._batches.clear()
            yield batch
        self._are_complete = fits_in_memory
