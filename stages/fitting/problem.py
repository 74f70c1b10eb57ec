"""What a head is fitted to: rows, task and options, in one object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import AnyFeatureRows, FeatureRows, StreamedFeatureRows
from stages.fitting.folds import CVPlan, make_cv
from stages.network.graph.cuts import Cut, CutGraph
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
        groups = None
        if self.train.groups is not None and self.val.groups is not None:
            groups = np.concatenate([self.train.groups, self.val.groups])
        return make_cv(self.config, len(self.train), len(labels), strata, self.seed, groups, are_classes=are_classes)

    @property
    def in_memory(self) -> tuple[FeatureRows, FeatureRows]:
        """The rows of both splits, for a head that does not stream; `train_head` has refused it streamed ones."""
        assert isinstance(self.train, FeatureRows)
        assert isinstance(self.val, FeatureRows)
        return self.train, self.val
