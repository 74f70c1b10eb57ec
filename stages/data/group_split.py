"""Which images are put aside for a split: of each class a share, copies and groups kept whole.

A class is a stratum of the task, by its name; where the task has none, all images are of one class, and where an image
has several labels, it is of several. The choice depends on the images' keys, their classes, which of them belong
together, and the seed. It does not depend on the order of the samples, nor on what groups are called.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stages.runtime.connected_groups import connected_groups
from stages.tasks.strata import interleave

_WORTH_A_MOVE = 0.02
"""Least gain of a move of groups, in shares of a class. Finer shares would cost seeds that differ."""

_EXCHANGED_UP_TO = 1_000
"""Units up to which one is also exchanged for another; among more of them single ones fill every gap."""


Label: TypeAlias = str | tuple[str, ...]
"""The class of an image; in one data set either each image has one, or each a tuple of those that it has."""


class Image(NamedTuple):
    """A distinct image: what all samples with its key have in common."""

    key: str
    label: Label
    stratum: str


class SplitUnit(NamedTuple):
    """Images that go the same way: one, or all of a group.

    Attributes
    ----------
    images : tuple of Image
    hash_order : bytes
        Where it stands in the order of its class: a digest of the seed and its first key by alphabet.
    """

    images: tuple[Image, ...]
    hash_order: bytes

    @property
    def kind(self) -> tuple[Label, str]:
        """Label and stratum of most of its images; of several as frequent ones the first by alphabet."""
        if len(self.images) == 1:
            return self.images[0][1:]
        counts = Counter((image.label, image.stratum) for image in self.images)
        return min(counts, key=lambda kind: (-counts[kind], kind))

    @property
    def classes(self) -> Mapping[str, int]:
        """How many of its images each class has."""
        if len(self.images) == 1:
            return _one_of(self.images[0].label)
        return Counter(label for image in self.images for label in _one_of(image.label))

    def only(self, keys: set[str]) -> SplitUnit | None:
        """Return what of it is among `keys`, in the same place; None if nothing is."""
        kept = tuple([image for image in self.images if image.key in keys])
        if len(kept) == len(self.images):
            return self
        return SplitUnit(kept, self.hash_order) if kept else None


@cache
def _one_of(label: Label) -> Mapping[str, int]:
    """Return the counts of one image; one object for all of a class, where there may be a million.

    Those without any label are a class of their own, of which a share is put aside, too.
    """
    return {label: 1} if isinstance(label, str) else dict.fromkeys(label or ("",), 1)


def labels_of_strata(strata: NDArray[Any] | None, count: int) -> list[Label]:
    """Return the classes of samples by the numbers of the strata that a task puts them in.

    Parameters
    ----------
    strata : int64 [n], bool [n, strata] or None
        As `Task.strata` returns them; None puts all `count` samples into one class.
    """
    if strata is None:
        return [""] * count
    return [tuple(map(str, np.flatnonzero(row))) if strata.ndim > 1 else str(row) for row in strata]


def split_units(
    keys: Sequence[str], labels: Sequence[Label], strata: Sequence[str], groups: Sequence[str], seed: int
) -> list[SplitUnit]:
    """Return the distinct images in units. Where samples of an image differ, it counts for the first by alphabet.

    Parameters
    ----------
    keys, strata : sequence of str
        Key and the source's stratum of each sample.
    labels : sequence of Label
        Its class, or its classes.
    groups : sequence of str
        The group of each sample, '' for one of no group; empty where there are no groups. Two groups that have an
        image in common are one.
    """
    images: dict[str, Image] = {}
    for image in map(Image, keys, labels, strata):
        images[image.key] = min(images.get(image.key, image), image)
    return [
        SplitUnit(
            tuple([images[key] for key in members]),
            hashlib.sha256(f"{seed} {members[0]}".encode()).digest(),
        )
        for members in _connected_groups(keys, groups)
    ]


def _connected_groups(keys: Sequence[str], groups: Sequence[str]) -> list[list[str]]:
    """Return the distinct keys in lists of those that belong together, each list by alphabet."""
    key_nodes = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    group_nodes = {group: len(key_nodes) + index for index, group in enumerate(dict.fromkeys(filter(None, groups)))}
    if not group_nodes:
        return [[key] for key in key_nodes]
    edges = [(key_nodes[key], group_nodes[group]) for key, group in zip(keys, groups, strict=True) if group]
    component = connected_groups(edges, len(key_nodes) + len(group_nodes))
    members: dict[int, list[str]] = defaultdict(list)
    for key, index in key_nodes.items():
        members[int(component[index])].append(key)
    return [sorted(keys_of_group) for keys_of_group in members.values()]


def stratified_group_split(units: Iterable[SplitUnit], share: float, min_kept: int) -> set[str]:
    """Return the keys of the images that are put aside: of each class a share, and of each of its strata about as much.

    Of each class at least one image is put aside, and at least `min_kept` units are not, as far as there are enough.

    In the order of their digests, units are taken that fill no class beyond its share; where each unit is one image of
    one class, that is all. Groups, and images of several classes, leave gaps: then units are added, given back and
    exchanged as long as that brings the classes nearer to their shares, each class counted by the share of its images
    that it is off. Where images are of several classes, those of the rarest come first, as in Sechidis et al. 2011, "On
    the stratification of multi-label data": a class of many images is filled up by whatever is left.
    """
    ordered = _spread_over_strata(units)
    images: dict[str, int] = defaultdict(int)
    owners: dict[str, int] = defaultdict(int)
    for unit in ordered:
        for label, count in unit.classes.items():
            images[label] += count
            owners[label] += 1
    has_several = any(not isinstance(image.label, str) for unit in ordered for image in unit.images)
    if has_several:
        ordered.sort(key=lambda unit: min(images[label] for label in unit.classes))
    classes_of = [unit.classes for unit in ordered]
    wanted = {label: max(round(share * count), 1) for label, count in images.items()}
    max_taken = {label: count - min(min_kept, max(count - 1, 1)) for label, count in owners.items()}
    put_aside = np.zeros(len(ordered), dtype=bool)
    missing, remaining = dict(wanted), dict(max_taken)
    for index, classes in enumerate(classes_of):
        if all(missing[label] >= count and remaining[label] for label, count in classes.items()):
            put_aside[index] = True
            for label, count in classes.items():
                missing[label] -= count
                remaining[label] -= 1
    if has_several or any(len(unit.images) > 1 for unit in ordered):
        _local_search(_ShareErrors.of(classes_of, images, wanted, max_taken), put_aside)
    return {image.key for index in np.flatnonzero(put_aside) for image in ordered[index].images}


def _spread_over_strata(units: Iterable[SplitUnit]) -> list[SplitUnit]:
    """Order units so that every beginning of the list has its share of each stratum of each class.

    Those of a stratum stand in the order of their digests.
    """
    ordered = sorted(units, key=lambda unit: unit.hash_order)
    numbers: dict[tuple[Label, str], int] = {}
    strata = [numbers.setdefault(unit.kind, len(numbers)) for unit in ordered]
    return [ordered[index] for index in interleave(strata)]


@dataclass(frozen=True)
class _ShareErrors:
    """Units and classes as numbers: unit ``unit[i]`` has ``images[i]`` images of class ``label[i]``.

    `all`, `wanted` and `room` are, for each class, its images, those to be put aside, and the most units put aside.
    """

    unit: NDArray[np.int64]
    label: NDArray[np.int64]
    images: NDArray[np.int64]
    all: NDArray[np.int64]
    wanted: NDArray[np.int64]
    room: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        classes_of: Sequence[Mapping[str, int]],
        images: dict[str, int],
        wanted: dict[str, int],
        room: dict[str, int],
    ) -> _ShareErrors:
        labels = sorted(images)
        number = {label: index for index, label in enumerate(labels)}
        entries = [
            (index, number[label], count)
            for index, classes in enumerate(classes_of)
            for label, count in sorted(classes.items())
        ]
        columns = (np.array(column, dtype=np.int64) for column in zip(*entries, strict=True))
        return cls(*columns, *(np.array([counts[label] for label in labels]) for counts in (images, wanted, room)))

    def cost_of_move(self, put_aside: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return for each unit by how much the classes are further off if it changes sides; inf if it must not.

        A class of which nothing is put aside is off by as much again as all of its images.
        """
        is_put_aside = put_aside[self.unit]
        held = np.bincount(self.label, self.images * is_put_aside, len(self.all)).astype(np.float64)
        full = np.bincount(self.label, is_put_aside, len(self.all)) >= self.room
        after = held[self.label] + np.where(is_put_aside, -1, 1) * self.images
        increase = self._off(after) - self._off(held[self.label])
        increase[~is_put_aside & full[self.label]] = np.inf
        return np.bincount(self.unit, increase, len(put_aside)).astype(np.float64)

    def _off(self, held_counts: NDArray[np.float64]) -> NDArray[np.float64]:
        deviation: NDArray[np.float64] = np.abs(held_counts - self.wanted[self.label]) / self.all[self.label] + (
            held_counts == 0
        )
        return deviation


def _local_search(gaps: _ShareErrors, put_aside: NDArray[np.bool_]) -> None:
    """Add, give back or exchange the unit that brings the classes nearest to their shares, while that is worth it."""
    while True:
        costs = gaps.cost_of_move(put_aside)
        gain, units = -costs.min(), [int(costs.argmin())]
        if len(put_aside) <= _EXCHANGED_UP_TO:
            for removed in np.flatnonzero(put_aside):
                put_aside[removed] = False
                swap_costs = np.where(put_aside, np.inf, gaps.cost_of_move(put_aside))
                put_aside[removed] = True
                swap_costs[removed] = np.inf
                if -(costs[removed] + swap_costs.min()) > gain + 1e-9:
                    gain, units = -(costs[removed] + swap_costs.min()), [int(removed), int(swap_costs.argmin())]
        if gain < _WORTH_A_MOVE:
            return
        put_aside[units] ^= True
