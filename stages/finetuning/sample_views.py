"""Samples of several images: which of them are read for a batch, and how what is computed of each comes together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stages.data.augment.policy import Augmentation
from stages.data.images.reading import PLAIN, Reading
from stages.data.manifest import Manifest
from stages.data.sample import ImageRef
from stages.data.sources.open_image import read_image
from stages.network.heads.aggregated import AggregatedHead
from stages.network.heads.base import Head
from stages.runtime.seeding import seed_from
from stages.training.sample_images import SampleImages

Views = tuple[ImageRef | None, ...]
"""The images of a sample by their places; None where one is missing."""

PlacedImage = tuple[int, ImageRef]
"""An image behind its place in its sample."""

Item = TypeVar("Item")


def present(views: Sequence[Item | None]) -> list[tuple[int, Item]]:
    """Return the images that a sample has, each behind its place."""
    return [(place, image) for place, image in enumerate(views) if image is not None]


def image_count(manifest: Manifest) -> int:
    """Return how many images the samples have together."""
    return sum(len(present(views)) for views in manifest.images) if manifest.images else len(manifest)


@dataclass(frozen=True)
class ViewSampler:
    """Which images of a sample train in an epoch.

    All of them; of a sample that has more than a batch may have, as many as that, in their order, drawn anew for each
    epoch. Where each place has weights of its own (``concat``) all of them in any case.

    Attributes
    ----------
    most : int or None
        None for no limit.
    seed : int
    """

    most: int | None
    seed: int

    @classmethod
    def of(cls, head: Head, batch_size: int, seed: int) -> ViewSampler:
        """Return what is right for a head, which says whether it can do with some of the images."""
        needs_all = isinstance(head, AggregatedHead) and head.aggregate.kind == "concat"
        return cls(None if needs_all else max(batch_size, 1), seed)

    def __call__(self, views: Views, key: str, epoch: int) -> list[PlacedImage]:
        """Return the images of the sample with this key in an epoch, by their places."""
        images = present(views)
        if self.most is None or len(images) <= self.most:
            return images
        drawn = np.random.default_rng(seed_from("views", self.seed, epoch, key, bits=60))
        return [images[index] for index in sorted(drawn.choice(len(images), self.most, replace=False))]

    def size(self, views: Views) -> int:
        """Return how many images of a sample train in an epoch."""
        count = len(present(views))
        return count if self.most is None else min(count, self.most)


class AugmentedSamples(Dataset[tuple[Tensor, list[int], Tensor]]):
    """Training samples by (epoch, place): all images of one, each in a rendering of its own, their places, the target.

    The rendering depends on seed, epoch and key of the image, on nothing else.
    """

    def __init__(
        self, manifest: Manifest, sampler: ViewSampler, augment: Augmentation, seed: int, reading: Reading = PLAIN
    ) -> None:
        self.images, self.keys, self.targets = manifest.images, manifest.keys, manifest.targets
        self.sampler, self.augment, self.seed, self.reading = sampler, augment, seed, reading

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: tuple[int, int]) -> tuple[Tensor, list[int], Tensor]:
        epoch, index = position
        drawn = self.sampler(self.images[index], self.keys[index], epoch)
        renderings = [
            self.augment(read_image(image.location, self.reading), seed_from(self.seed, epoch, image.key, bits=60))
            for _, image in drawn
        ]
        return torch.stack(renderings), [place for place, _ in drawn], torch.as_tensor(self.targets[index])


@dataclass(frozen=True)
class CollateSamples:
    """Makes a batch of what `AugmentedSamples` gives; of a class, since other processes are given it."""

    at_a_time: int

    def __call__(self, samples: Sequence[tuple[Tensor, list[int], Tensor]]) -> tuple[SampleImages, Tensor]:
        """Return the images of all samples, and their targets."""
        images, places, targets = zip(*samples, strict=True)
        return (
            SampleImages(
                torch.cat(images),
                tuple(map(len, places)),
                tuple(place for places_of_sample in places for place in places_of_sample),
                self.at_a_time,
            ),
            torch.stack(targets),
        )


class ComputedSample(NamedTuple):
    """What was made of the images of a sample.

    Attributes
    ----------
    number : int
        Which of the samples.
    rows : list of (place, list of Tensor)
        By the places of its images: the rows of each of which something could be made.
    failures : list of (int, reason)
        The others, by their numbers among the images of all samples.
    """

    number: int
    rows: list[tuple[int, list[Tensor]]]
    failures: list[tuple[int, str]]


def complete_samples(
    batches: Iterable[tuple[Sequence[int], Iterable[Tensor], Sequence[tuple[int, str]]]],
    samples: Sequence[Sequence[object | None]],
    each: int = 1,
) -> Iterator[list[ComputedSample]]:
    """Yield samples as soon as all of their images are done with, those together that are so at once.

    Parameters
    ----------
    batches : iterable of (indices, rows, failures)
        What was made of the images, counted through all samples in order: the image of each row, the rows, and the
        images of which nothing could be made, with the reason.
    samples : sequence
        The images of each sample, whatever says which they are; None for one that is missing.
    each : int
        Rows of each image.
    """
    images = [present(views) for views in samples]
    ends = np.cumsum([len(of_sample) for of_sample in images], dtype=np.int64)
    rows_of: dict[int, list[Tensor]] = {}
    reasons: dict[int, str] = {}
    sample = done = 0
    for indices, rows, failures in batches:
        for index, row in zip(indices, rows, strict=True):
            rows_of.setdefault(index, []).append(row)
        reasons.update(failures)
        while done in reasons or len(rows_of.get(done, ())) == each:
            done += 1
        complete = []
        while sample < len(images) and ends[sample] <= done:
            first = int(ends[sample]) - len(images[sample])
            numbered = list(enumerate(images[sample], first))
            computed = [(place, rows_of.pop(index)) for index, (place, _) in numbered if index not in reasons]
            failed = [(index, reasons[index]) for index, _ in numbered if index in reasons]
            complete.append(ComputedSample(sample, computed, failed))
            sample += 1
        if complete:
            yield complete


def join_samples(samples: Sequence[ComputedSample], at_a_time: int, rendering: int = 0) -> SampleImages:
    """Return the rows of samples together, of each image that of one of its renderings."""
    placed = [placed for sample in samples for placed in sample.rows]
    return SampleImages(
        torch.stack([rows[rendering] for _, rows in placed]),
        tuple(len(sample.rows) for sample in samples),
        tuple(place for place, _ in placed),
        at_a_time,
    )
