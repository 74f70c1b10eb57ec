"""What a model is given of a batch: a row for each sample, or, of samples of several images, the images of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class SampleImages:
    """The images of samples of several, or what was made of them, those of one sample after those of another.

    Attributes
    ----------
    images : Tensor [m, ...]
    sizes : tuple of int
        How many are of each sample.
    places : tuple of int
        The place of each image in its sample, [m].
    at_a_time : int
        How many images a model is to be given at once, at most; a sample that has more of them is given whole.
    """

    images: Tensor
    sizes: tuple[int, ...]
    places: tuple[int, ...]
    at_a_time: int

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.sizes)

    @property
    def nbytes(self) -> int:
        """Bytes that the images take."""
        return self.images.nbytes

    def map(self, function: Callable[[Tensor], Tensor]) -> SampleImages:
        """Return what a function makes of the images, whatever sample they are of."""
        return replace(self, images=function(self.images))

    def to(self, device: torch.device, *, non_blocking: bool = False) -> SampleImages:
        """Return the images on a device."""
        return self.map(lambda images: images.to(device, non_blocking=non_blocking))

    def samples(self, first: int, last: int) -> SampleImages:
        """Return the samples from `first` up to, not including, `last`."""
        start, end = (sum(self.sizes[:number]) for number in (first, last))
        return replace(self, images=self.images[start:end], sizes=self.sizes[first:last], places=self.places[start:end])


Inputs = Tensor | SampleImages
"""What a model takes: float [b, ...], or b samples of several images each."""


def parts_of(inputs: Inputs, targets: Tensor, count: int) -> Iterator[tuple[Inputs, Tensor]]:
    """Yield a batch in so many parts of about as many samples.

    Of samples of several images in as many more as it takes for no part to have more than may be computed at a time.
    """
    if isinstance(inputs, Tensor):
        yield from zip(inputs.tensor_split(count), targets.tensor_split(count), strict=True)
        return
    for part in torch.arange(len(inputs)).tensor_split(count):
        first = int(part[0])
        for run in bounded_runs(inputs.sizes[first : first + len(part)], inputs.at_a_time):
            start, end = first + run.start, first + run.stop
            yield inputs.samples(start, end), targets[start:end]


def bounded_runs(sizes: Sequence[int], at_a_time: int) -> list[range]:
    """Return samples of so many images each, by their numbers, in runs of no more images than `at_a_time`.

    A sample that has more is on its own.
    """
    runs: list[range] = []
    images = 0
    for number, size in enumerate(sizes):
        if runs and images + size <= at_a_time:
            runs[-1] = range(runs[-1].start, number + 1)
        else:
            runs.append(range(number, number + 1))
            images = 0
        images += size
    return runs
