"""Inputs of the upper part from the cache: maps of several views of each image, which the frozen part made once.

No image is read here, and the frozen part is not run. For a GPU all rows are brought to it, or beside it, once. A view
is rendered before the frozen part: a ViT's map of a flipped image is not its map flipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cache.errors import UsageError
from cache.prefetch import prefetch_map
from stages.data.augment.mixup import MixupCutmix
from stages.data.manifest import Manifest
from stages.extraction.extract import Extraction, extract
from stages.extraction.extractor import Extractor, with_cut
from stages.finetuning.batch_sampler import EpochBatchSampler
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.resident_rows import ResidentRows, find_place, note_place, row_bytes
from stages.finetuning.sample_views import PlacedImage, present
from stages.finetuning.transfer_model import TransferModel
from stages.runtime.device import uploaded
from stages.runtime.distributed import SINGLE_PROCESS, Rank
from stages.runtime.progress import progress
from stages.runtime.seeding import seed_from
from stages.training.sample_images import Inputs, SampleImages, bounded_runs

_AHEAD = 2
"""Batches that are read while one is trained on."""


def boundary_extractor(extractor: Extractor, upper: TransferModel) -> Extractor:
    """Return what fills the cache at the boundary, with the views that stage 1 was asked for.

    Raises
    ------
    UsageError
        If nothing is frozen.
    """
    if upper.boundary is None:
        raise UsageError(
            "`from_cache` trains what lies above a frozen part from what that computes, and here training begins at "
            "the image; unfreeze less, or train from images"
        )
    return with_cut(extractor, upper.boundary, "none")


def extract_views(maps: Extractor, train: Manifest, val: Manifest, rank: Rank = SINGLE_PROCESS) -> list[Extraction]:
    """Bring the cache at the boundary up to date: all views of the training images, one of the validation images."""
    val_maps = replace(maps, options=replace(maps.options, views=1))
    return [extract(maps, train, rank), extract(val_maps, val, rank)]


class CachedBatches:
    """Training images in one of their cached views in every epoch, validation images in the evaluation view.

    Parameters
    ----------
    problem : FinetuneProblem
    maps : Extractor
        Of :func:`boundary_extractor`; its caches are complete.
    mixing : MixupCutmix, optional
        Mixes the maps of a batch.

    Attributes
    ----------
    batches : int
        Of an epoch.
    forwards : int
        Images that went through the frozen part: none.
    """

    forwards = 0

    def __init__(self, problem: FinetuneProblem, maps: Extractor, mixing: MixupCutmix | None = None) -> None:
        options, train = problem.config, problem.train
        self._tap, self._views, self._device = maps.taps[0], maps.options.views, maps.device
        self._train, self._val = train, problem.own_val
        self._seed, self._mixing, self._epochs = problem.seed, mixing, options.epochs
        self._task = problem.task
        self._batch_size, self._sampler = options.finetune_batch_size, problem.sampler
        self._at_a_time = max(options.finetune_batch_size // problem.rank.world_size, 1)
        self._order = EpochBatchSampler(len(train), problem.samples_per_batch, problem.seed, problem.rank)
        self.batches = len(self._order)
        self._tells, self._ranks = problem.rank.is_main, problem.rank.world_size
        self._resident = self._at_hand(train, self._views), self._at_hand(self._val, 1)

    def train(self, epoch: int, first: int) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield (output of the boundary, targets) of an epoch, from batch number `first` on."""
        with progress(label=f"epoch {epoch}/{self._epochs}", total=self.batches, unit="batches") as bar:
            bar.update(first)
            batches = self._ahead(self._order.batches(epoch, first), lambda indices: self._read(indices, epoch))
            for step, (indices, rows) in enumerate(batches, first):
                inputs, targets = self._inputs(rows), torch.from_numpy(self._train.targets[indices])
                if self._mixing is not None and isinstance(inputs, Tensor):
                    shares = uploaded(self._task.soft_target(targets), inputs.device)
                    inputs, targets = self._mixing(inputs, shares, self._seed, epoch, step)
                yield inputs, targets
                bar.update()

    def val(self) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield (output of the boundary, targets) of the validation images."""
        keys, images = self._val.keys, self._val.images

        def read(indices: list[int]) -> Inputs:
            if not images:
                return self._first_views([keys[index] for index in indices])
            return self._samples([present(images[index]) for index in indices], self._first_views)

        sizes = [len(present(views)) for views in images] if images else [1] * len(keys)
        for indices, inputs in self._ahead(map(list, bounded_runs(sizes, self._batch_size)), read):
            yield self._inputs(inputs), torch.from_numpy(self._val.targets[indices])

    def _at_hand(self, manifest: Manifest, views: int) -> ResidentRows | None:
        """Return the rows of all images where they are kept for a GPU; None where batches are read from files."""
        keys = manifest.distinct_images.keys
        nbytes = row_bytes(self._tap) * views * len(keys)
        place = find_place(nbytes, self._device, self._ranks)
        if self._tells:
            note_place(nbytes, place, self._device)
        return None if place == "files" else ResidentRows(self._tap, keys, views, self._device, place)

    def _ahead(
        self, batches: Iterable[list[int]], read: Callable[[list[int]], Inputs]
    ) -> Iterator[tuple[list[int], Inputs]]:
        """Yield each batch with what was read of it; of rows at hand nothing has to be read ahead."""
        if None in self._resident:
            yield from _read_ahead(batches, read)
        else:
            yield from ((indices, read(indices)) for indices in batches)

    def _read(self, indices: list[int], epoch: int) -> Inputs:
        """Return the rows of some training samples, each image in the view that is its turn: of all as likely."""
        train = self._train
        if not train.images:
            return self._read_views([train.keys[index] for index in indices], epoch)
        drawn = [self._sampler(train.images[index], train.keys[index], epoch) for index in indices]
        return self._samples(drawn, lambda keys: self._read_views(keys, epoch))

    def _samples(self, samples: list[list[PlacedImage]], read: Callable[[list[str]], Tensor]) -> SampleImages:
        images = [placed for sample in samples for placed in sample]
        rows = read([image.key for _, image in images])
        return SampleImages(rows, tuple(map(len, samples)), tuple(place for place, _ in images), self._at_a_time)

    def _first_views(self, keys: list[str]) -> Tensor:
        """Return the rows of validation images."""
        resident = self._resident[1]
        return (
            torch.from_numpy(self._tap.cache.read(keys)) if resident is None else resident.rows(keys, [0] * len(keys))
        )

    def _read_views(self, keys: list[str], epoch: int) -> Tensor:
        views = np.array([seed_from(self._seed, epoch, key, bits=60) for key in keys])
        views %= self._views
        resident = self._resident[0]
        if resident is not None:
            return resident.rows(keys, views.tolist())
        rows = np.empty((len(keys), *self._tap.shape), dtype=self._tap.cache.dtype)
        for view in np.unique(views):
            indices_of_view = np.flatnonzero(views == view)
            rows[indices_of_view] = self._tap.cache_of_view(int(view)).read(
                [keys[index] for index in indices_of_view], int(view)
            )
        return torch.from_numpy(rows)

    def _inputs(self, rows: Inputs) -> Inputs:
        return self._on_device(rows) if isinstance(rows, Tensor) else rows.map(self._on_device)

    def _on_device(self, rows: Tensor) -> Tensor:
        inputs = uploaded(rows, self._device).float()
        return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs


def _read_ahead(
    batches: Iterable[list[int]], read: Callable[[list[int]], Inputs]
) -> Iterator[tuple[list[int], Inputs]]:
    """Yield each batch with what was read of it, the next ones being read by a thread meanwhile."""
    with (
        ThreadPoolExecutor(1, "read") as reader,
        closing(
            prefetch_map(lambda indices: (indices, read(indices)), batches, pool=reader, ahead=1 + _AHEAD)
        ) as batches_read,
    ):
        yield from batches_read
