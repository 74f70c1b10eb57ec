"""What a head is fitted to: rows, task and options, in one object."""

from __future__ import annotations

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
    """

    train: AnyFeatureRows
    val: AnyFeatureRows
    task: Task
    config: HeadConfig
    seed: int
    device: torch.device
    cut: CutContext | None = None
    bags: bool = False

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
