"""What a head is fitted to: rows, task and options, in one object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.config.heads import FitRecipe, HeadConfig
from stages.fitting.feature_rows import AnyFeatureRows, Block, FeatureRows, StreamedFeatureRows, ViewBlock
from stages.fitting.folds import FOLDS_UP_TO, CVPlan, Selection, divisions, make_cv, repeats
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.map_layout import MapLayout
from stages.tasks.base import Task


@dataclass(frozen=True)
class CutContext:
    """The network, and the cut whose output the rows are."""

    graph: CutGraph
    cut: Cut


@dataclass(frozen=True)
class RowBlocks:
    """What the numbers of a row are of, from the first to the last.

    Attributes
    ----------
    images : int
        So many are the features of images; 0 where there are none.
    columns : tuple of (name, width)
        The parts of what stands beside them.
    """

    images: int
    columns: tuple[tuple[str, int], ...]

    @property
    def _widths(self) -> list[tuple[str, int]]:
        return [*([("images", self.images)] if self.images else []), *self.columns]

    @property
    def names(self) -> tuple[str, ...]:
        """What the parts are called."""
        return tuple(name for name, _ in self._widths)

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return sum(width for _, width in self._widths)

    def parts(self) -> Iterator[tuple[str, slice]]:
        """Yield the parts, each with where it stands in a row."""
        start = 0
        for name, width in self._widths:
            yield name, slice(start, start + width)
            start += width


class PixelTargets(Protocol):
    """The masks of samples, which are asked for by their places when they are needed, in bounded memory."""

    def full(self, places: NDArray[np.int64]) -> Sequence[NDArray[np.uint8]]:
        """Return masks as they are stored, each [H, W]."""
        ...

    def thinned(
        self, places: NDArray[np.int64], size: tuple[int, int], views: NDArray[np.int64] | None = None
    ) -> NDArray[np.uint8]:
        """Return masks as their images are seen in views, by default 0, brought to one size by nearest, [b, h, w]."""
        ...

    def seen(self, logits: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return the part of the logits of a view, [classes, h, w], that a mask of this shape lies over."""
        ...

    def shapes(self, places: NDArray[np.int64]) -> Sequence[tuple[int, int]]:
        """Return the height and width of masks as they are stored."""
        ...


class NamedBlock(Protocol):
    """A block of a row: what was taken at one place of a network."""

    @property
    def name(self) -> str:
        """What it is called; no other block of a row is called so."""

    @property
    def width(self) -> int:
        """How many numbers it has."""


class DepthLayout(Protocol):
    """The blocks that a row is made of, from several depths of a network."""

    @property
    def blocks(self) -> Sequence[NamedBlock]:
        """The blocks, in the order in which they stand in a row."""

    def depth_sets(self) -> Mapping[str, tuple[str, ...]]:
        """Return the sets of blocks that are worth a trial, by what they are called."""


@dataclass(frozen=True)
class FitProblem:
    """What a head is fitted to, and how its settings are chosen. The test split is no part of it.

    Attributes
    ----------
    train, val : FeatureRows or StreamedFeatureRows
        Both of one kind.
    task : Task
    config : HeadConfig
    seed : int
    device : torch.device
        Where torch heads train.
    cut : CutContext, optional
        What the head ``top`` is made of.
    bags : bool
        Whether each row is all images of a sample, [F, d + 1], whose last number is 1 where there is an image.
    blocks : RowBlocks, optional
        The parts of a row, where it has columns of a table in it.
    compared : bool
        Whether outputs out of folds will be asked for: then there are `divisions`.
    maps : MapLayout, optional
        The maps in a row, for heads that answer for each place.
    targets : PixelTargets, optional
        The masks, where `labels` of the rows are places in them.
    defaults : FitRecipe
        How the torch head that is fitted trains where the options leave it open.
    taps : DepthLayout, optional
        The blocks of a row, where it has features of several depths.
    deferred : bool
        Whether the heads may wait until it is known that they are wanted, see `HeadFit.finish`: where a search goes
        over several problems, those of all but the best are not.
    shared : dict
        What heads on the same rows need not work out again; a problem of other rows has one of its own.
    """

    train: AnyFeatureRows
    val: AnyFeatureRows
    task: Task
    config: HeadConfig
    seed: int
    device: torch.device
    cut: CutContext | None = None
    bags: bool = False
    blocks: RowBlocks | None = None
    compared: bool = False
    maps: MapLayout | None = None
    targets: PixelTargets | None = None
    defaults: FitRecipe = field(default_factory=FitRecipe)
    taps: DepthLayout | None = None
    deferred: bool = False
    shared: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def recipe(self) -> FitRecipe:
        """How a torch head trains."""
        return self.config.recipe(self.defaults)

    @property
    def balanced(self) -> bool:
        """Whether rare classes count as much as frequent ones."""
        return self.config.class_weights == "balanced"

    @property
    def labels(self) -> NDArray[Any]:
        """Targets of train, followed by those of validation."""
        return np.concatenate([self.train.labels, self.val.labels])

    @cached_property
    def cv(self) -> CVPlan:
        """How settings are scored; streamed rows are not cross-validated.

        Made when it is asked for: a head that does not cross-validate needs no samples for folds.

        Raises
        ------
        UsageError
            If more folds are asked for than there can be.
        """
        labels = self.labels
        strata, are_classes = self.task.strata(labels), self.task.outputs == "logits"
        if isinstance(self.train, StreamedFeatureRows) or isinstance(self.val, StreamedFeatureRows):
            without_folds = replace(self.config, cv=0)
            return make_cv(without_folds, len(self.train), len(labels), strata, self.seed, are_classes=are_classes)
        size, groups = len(labels), self._groups
        return make_cv(self.config, len(self.train), size, strata, self.seed, groups, are_classes=are_classes)

    @cached_property
    def divisions(self) -> tuple[CVPlan, ...]:
        """Train and validation divided into folds, out of which all heads are compared.

        Several times of few rows, and not at all of streamed ones, of maps, whose heads take minutes each, or of so
        many that settings are not cross-validated either. They hang on targets, groups and seed alone, never on the
        head. The first is `cv`, where that has as many folds.
        """
        labels, config = self.labels, self.config
        wanted = config.cv if config.cv is not None else (5 if len(labels) <= FOLDS_UP_TO else 0)
        if (
            not self.compared
            or self.maps is not None
            or wanted < 2
            or isinstance(self.train, StreamedFeatureRows)
            or isinstance(self.val, StreamedFeatureRows)
        ):
            return ()
        size, strata, are_classes = len(labels), self.task.strata(labels), self.task.outputs == "logits"
        plans = divisions(wanted, repeats(size), size, strata, self.seed, self._groups, are_classes=are_classes)
        if plans and not self.cv.is_holdout and len(self.cv.splits) == len(plans[0].splits):
            return (self.cv, *plans[1:])
        return plans

    def part(self, fitted: Selection, scored: Selection) -> FitProblem:
        """Return a problem whose train and validation are some of the rows of both."""
        rows, places = self.all_rows, np.arange(len(self.all_rows))
        return replace(self, train=rows.at(places[fitted]), val=rows.at(places[scored]), compared=False, shared={})

    @cached_property
    def all_rows(self) -> FeatureRows:
        """The rows of train, followed by those of validation."""
        train, val = self.in_memory
        return train + val

    @property
    def _groups(self) -> NDArray[np.int64] | None:
        if isinstance(self.train, StreamedFeatureRows) or isinstance(self.val, StreamedFeatureRows):
            return None
        if self.train.groups is None or self.val.groups is None:
            return None
        return np.concatenate([self.train.groups, self.val.groups])

    @property
    def in_memory(self) -> tuple[FeatureRows, FeatureRows]:
        """The rows of both splits, for a head that does not stream; `train_head` has refused it streamed ones."""
        assert isinstance(self.train, FeatureRows)
        assert isinstance(self.val, FeatureRows)
        return self.train, self.val


def full_batches(rows: AnyFeatureRows, problem: FitProblem, seed: int) -> Iterator[Block]:
    """Yield full batches of an epoch; the rest of fewer rows sits it out, or is all there is."""
    return ((indices, block) for indices, _, block in full_batches_of_views(rows, problem, seed))


def full_batches_of_views(rows: AnyFeatureRows, problem: FitProblem, seed: int) -> Iterator[ViewBlock]:
    """Yield what `full_batches` does, and which view of its sample each row is of; what is streamed is of view 0."""
    size = min(problem.recipe.batch_size, len(rows))
    batches: Iterator[ViewBlock]
    if isinstance(rows, FeatureRows):
        batches = rows.shuffled_views(size, seed, balanced=problem.config.sampling == "balanced")
    else:
        batches = ((indices, np.zeros_like(indices), block) for indices, block in rows.shuffled(size, seed))
    return (batch for batch in batches if len(batch[0]) == size)
