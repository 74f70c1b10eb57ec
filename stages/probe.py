"""Which layer to cut at: the outputs of a network's blocks, each judged by a ridge head on the validation split.

The test split is not read. Its images are cached with the others, so that what is trained later runs no backbone, but
neither their features nor their labels come in here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from torch import nn

from cache.errors import UsageError
from stages.data import Manifest
from stages.extractor import Extractor, Tap, read_features, readable_samples
from stages.head import Rows, train_head
from stages.network.cut import Cut, CutGraph
from stages.options import Head, Pooling
from stages.progress import progress

MOST_CUTS = 24
"""Cuts that are probed where the network has more blocks."""


@dataclass(frozen=True)
class Probed:
    """A cut, what it costs, and how good a ridge head on its features is.

    Attributes
    ----------
    cut : Cut
    name : str
        The shortest that ``--cut`` takes for it.
    depth : int
        Its number among all cuts of the network, from the image upwards, as ``layers`` lists them.
    width : int
        Numbers in a row.
    bytes_per_image : int
        What a row takes in the cache, uncompressed.
    images, correct : tuple of int
        For each seed, the images of the validation split, and how many of them the head gets right.
    """

    cut: Cut
    name: str
    depth: int
    width: int
    bytes_per_image: int
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
        return self.cut.multiply_adds_below

    @property
    def saved(self) -> float:
        """Share of the whole network's multiply-adds that lies above the cut and is not computed."""
        return self.cut.multiply_adds_above / max(self.cut.multiply_adds_below + self.cut.multiply_adds_above, 1)

    @property
    def cost(self) -> tuple[int, int]:
        """What cuts are ordered by, cheapest first: multiply-adds, and of equals the bytes."""
        return self.multiply_adds, self.bytes_per_image


@dataclass(frozen=True)
class Probe:
    """What was found: cuts from the image upwards, and which of them to take.

    Attributes
    ----------
    cuts : tuple of Probed
        At least one.
    seeds : tuple of int
    """

    cuts: tuple[Probed, ...]
    seeds: tuple[int, ...]

    @property
    def ranked(self) -> list[Probed]:
        """The cuts by validation accuracy, best first; of equals the cheapest first."""
        return sorted(self.cuts, key=lambda one: (-one.accuracy, one.cost))

    @property
    def best(self) -> Probed:
        """The cut with the highest validation accuracy."""
        return self.ranked[0]

    @property
    def floor(self) -> float:
        """The accuracy that is as good as the best: one standard error below it."""
        return self.best.accuracy - self.best.standard_error

    @property
    def recommended(self) -> Probed:
        """The cheapest cut whose accuracy is within one standard error of the best.

        The one-standard-error rule: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 7.10.
        """
        return min((one for one in self.cuts if one.accuracy >= self.floor), key=lambda one: one.cost)


def cuts_to_probe(graph: CutGraph, pool: Pooling, most: int = MOST_CUTS) -> list[Cut]:
    """Return the outputs of a network's blocks, and the input of its classifier, from the image upwards.

    A block that is a plain sequence counts as the blocks in it, so that a ResNet has its residual blocks and not its
    four stages alone. The output of a block is the last map or tokens (or else the last vector) before the next block
    begins, with normalisation and activation in between. A map that is only averaged to become the classifier's input
    is left out where ``--pool avg`` would do the same.

    Parameters
    ----------
    most : int
        Where there are more, as many as this, evenly spread, the first and the last among them.
    """
    automatic = graph.resolve("auto")
    below = graph.cuts[: graph.cuts.index(automatic) + 1]
    starts = [_first_inside(block, below) for block in _blocks(graph)]
    bounds = [*sorted({start for start in starts if start is not None}), len(below)]
    outputs = [_output(below[start:stop]) for start, stop in pairwise(bounds)]
    chosen = [cut for cut in outputs if not _becomes(cut, automatic, pool)] + [automatic]
    places = np.linspace(0, len(chosen) - 1, min(most, len(chosen))).round().astype(int)
    return [chosen[place] for place in places]


def probe_cuts(extractor: Extractor, manifests: Sequence[tuple[int, Manifest]]) -> Probe:
    """Train a ridge head on the cached train split of each cut and count what it gets right in the validation split.

    Parameters
    ----------
    extractor : Extractor
        Its taps are the cuts to probe.
    manifests : sequence of (seed, Manifest)
        The same images under each seed's splits.

    Raises
    ------
    UsageError
        If features are not vectors.
    CacheError
        If an image of one of the two splits is not in the cache.
    DataError
        If a split is empty.
    """
    require_vectors(extractor)
    seen = [(seed, readable_samples(extractor, manifest)) for seed, manifest in manifests]
    order = {cut.name: number for number, cut in enumerate(extractor.graph.cuts, 1)}
    taps = sorted(extractor.taps, key=lambda tap: order[tap.cut.name])
    automatic = extractor.graph.resolve("auto")
    found = []
    for tap in progress(taps, label="probe", unit="cuts"):
        counts = [_validated(extractor, tap, manifest, seed) for seed, manifest in seen]
        images, correct = zip(*counts, strict=True)
        found.append(
            Probed(
                cut=tap.cut,
                name="auto" if tap.cut == automatic else tap.cut.alias or tap.cut.name,
                depth=order[tap.cut.name],
                width=tap.shape[0],
                bytes_per_image=tap.shape[0] * np.dtype(extractor.options.dtype).itemsize,
                images=images,
                correct=correct,
            )
        )
    return Probe(tuple(found), tuple(seed for seed, _ in manifests))


def require_vectors(extractor: Extractor) -> None:
    """Raise UsageError unless the row of every cut is a vector."""
    for tap in extractor.taps:
        if len(tap.shape) > 1:
            raise UsageError(
                f"a probe is trained on vectors, and the row of {tap.cut.name} is {list(tap.shape)}; choose a --pool: "
                "avg, max or avgmax"
            )


def _validated(extractor: Extractor, tap: Tap, manifest: Manifest, seed: int) -> tuple[int, int]:
    """Return the number of validation images, and how many of them a ridge head on one cut gets right."""
    of_tap = replace(extractor, taps=(tap,))
    train, val = (
        Rows(read_features(of_tap, part), part.labels, groups=part.group_numbers)
        for part in (manifest.select(manifest.indices(split)) for split in ("train", "val"))
    )
    head = train_head("ridge", Head(), train, val, len(manifest.class_names), seed, extractor.device)
    return len(val), round(head.val_accuracy * len(val))


def _blocks(graph: CutGraph) -> list[str]:
    """Return the names of the network's blocks, those in plain sequences one by one."""

    def parts(name: str) -> list[str]:
        module = graph.module.get_submodule(name)
        inside = [f"{name}.{child}" for child, part in module.named_children() if _has_weights(part)]
        if not isinstance(module, nn.Sequential) or len(inside) < 2:
            return [name]
        return [part for child in inside for part in parts(child)]

    return [part for block in graph.blocks for part in parts(block)]


def _has_weights(module: nn.Module) -> bool:
    """Say whether a module holds the weights of a convolution or a linear layer."""
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _first_inside(block: str, cuts: Sequence[Cut]) -> int | None:
    """Return the place of the first cut inside a block, None if there is none."""
    names = (cut.name for cut in cuts)
    return next((place for place, name in enumerate(names) if f"{name}.".startswith(f"{block}.")), None)


def _output(cuts: Sequence[Cut]) -> Cut:
    """Return the last of the cuts that still has places in the image, or else the last."""
    return next((cut for cut in reversed(cuts) if cut.layout != "vector"), cuts[-1])


def _becomes(cut: Cut, automatic: Cut, pool: Pooling) -> bool:
    """Say whether the pooled output of a cut is the classifier's input, or as good as that."""
    averaged = pool == "avg" and automatic.layout == "vector" and cut.layout in ("nchw", "nhwc")
    channels = cut.shape[0] if cut.layout == "nchw" else cut.shape[-1]
    same = averaged and channels == automatic.shape[0] and cut.parameters_below == automatic.parameters_below
    return cut == automatic or same
