"""Accuracy and cost of each cut, and which to take."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CutScore:
    """A cut, what it costs, and how good a ridge head on its features is.

    Attributes
    ----------
    name : str
        The shortest that ``--cut`` takes for it.
    operation : str
        Its full name.
    depth : int
        Its number among all cuts of the network, from the image upwards, as ``list-cuts`` lists them.
    width : int
        Numbers in a row.
    bytes_per_image : int
        What a row takes in the cache, uncompressed.
    multiply_adds_below, multiply_adds_above : int
        Of the network up to the cut and beyond it, for one image.
    images, correct : tuple of int
        For each seed, the images of the validation split, and how many of them the head gets right.
    """

    name: str
    operation: str
    depth: int
    width: int
    bytes_per_image: int
    multiply_adds_below: int
    multiply_adds_above: int
    images: tuple[int, ...]
    correct: tuple[int, ...]

    @property
    def accuracy(self) -> float:
        """Validation accuracy over all seeds, each image counted as often as it was validated on."""
        return sum(self.correct) / sum(self.images)

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Validation accuracy of each seed."""
        return tuple(right / images for right, images in zip(self.correct, self.images, strict=True))

    @property
    def standard_error(self) -> float:
        """Binomial standard error of the accuracy, sqrt(p (1 - p) / n)."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / sum(self.images))

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the trunk, for one image."""
        return self.multiply_adds_below

    @property
    def saved(self) -> float:
        """Share of the whole network's multiply-adds that lies above the cut and is not computed."""
        return self.multiply_adds_above / max(self.multiply_adds_below + self.multiply_adds_above, 1)

    @property
    def cost(self) -> tuple[int, int]:
        """What cuts are ordered by, cheapest first: multiply-adds, and of equals the bytes."""
        return self.multiply_adds, self.bytes_per_image


@dataclass(frozen=True)
class LayerProbe:
    """What was found: cuts from the image upwards, and which of them to take.

    Attributes
    ----------
    cuts : tuple of CutScore
        At least one.
    seeds : tuple of int
    """

    cuts: tuple[CutScore, ...]
    seeds: tuple[int, ...]

    @property
    def ranked(self) -> list[CutScore]:
        """The cuts by validation accuracy, best first; of equals the cheapest first."""
        return sorted(self.cuts, key=lambda one: (-one.accuracy, one.cost))

    @property
    def best(self) -> CutScore:
        """The cut with the highest validation accuracy."""
        return self.ranked[0]

    @property
    def one_se_threshold(self) -> float:
        """The accuracy that is as good as the best: one standard error below it."""
        return self.best.accuracy - self.best.standard_error

    @property
    def recommended(self) -> CutScore:
        """The cheapest cut whose accuracy is within one standard error of the best.

        The one-standard-error rule: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 7.10.
        """
        return min((one for one in self.cuts if one.accuracy >= self.one_se_threshold), key=lambda one: one.cost)
