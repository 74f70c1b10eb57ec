"""All that is looked for in a data set, one after the other, from its features alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import DataError, UsageError
from stages.inspection.label_errors import Doubts, doubt_classes, doubt_labels, doubt_numbers
from stages.inspection.mask_errors import MaskErrors
from stages.inspection.near_duplicates import REFERENCE_NEIGHBOR, THRESHOLD, NearDuplicate, find_duplicates
from stages.inspection.nearest_neighbors import UnitFeatures, equal_pairs, find_neighbors, merge_groups
from stages.inspection.out_of_fold import out_of_fold_outputs, out_of_fold_probabilities
from stages.inspection.outliers import Outliers, distances_to_neighbor, find_outliers
from stages.tasks.base import Task, find_metric
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import SEPARATOR, Regression
from stages.tasks.single_label import SingleLabel

LARGEST_GROUP = 0.1
"""Share of all samples that a group of near-duplicates may have before it is taken for a sign of poor features."""


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes
    ----------
    label_errors : Doubts or None
        Classes, labels or numbers that are likely wrong; None where there are too few samples to tell.
    copies : list of NearDuplicate
        Leakage first.
    outliers : Outliers
    score : float
        Of the model that label errors were found with, on samples it was not fitted on: accuracy of classes, else the
        task's primary metric; nan where there is none.
    notes : list of str
        What to know before any of it is believed.
    mask_errors : MaskErrors or None
        Where each pixel has a class: masks that disagree with a model.
    """

    label_errors: Doubts | None
    copies: list[NearDuplicate]
    outliers: Outliers
    score: float
    notes: list[str]
    mask_errors: MaskErrors | None = None

    @property
    def leakage(self) -> list[NearDuplicate]:
        """Near-duplicates across splits."""
        return [copy for copy in self.copies if copy.leakage]

    @property
    def duplicates(self) -> list[NearDuplicate]:
        """Near-duplicates within a split."""
        return [copy for copy in self.copies if not copy.leakage]


def needs_cleanlab(task: Task) -> bool:
    """Return whether targets of the task are doubted by confident learning: classes and labels, but not numbers."""
    return isinstance(task, SingleLabel | MultiLabel)


def require_threshold(threshold: float) -> None:
    """Refuse what is no cosine two images can be near-duplicates at.

    Raises
    ------
    UsageError
    """
    if not 0.5 <= threshold <= 1:
        raise UsageError(f"`threshold` {threshold} must lie between 0.5 and 1: it is a cosine, and 1 is the same image")


@dataclass(frozen=True)
class FeatureTable:
    """Features, and what is known of the samples that they are of.

    Attributes
    ----------
    features : ndarray [n, d]
        Float16 or float32.
    targets : ndarray [n, ...]
    splits, keys : list of str
    task : Task
    groups : sequence of str
        What each sample is of, '' where it is on its own; empty where nothing is known.
    """

    features: NDArray[Any]
    targets: NDArray[Any]
    splits: list[str]
    keys: list[str]
    task: Task
    groups: Sequence[str] = ()


def inspect_features(
    table: FeatureTable, seed: int, *, threshold: float = THRESHOLD, device: torch.device
) -> Inspection:
    """Look for label errors, near-duplicates and outliers.

    Where a sample is not of one class, all samples are of one kind that outliers differ from.

    Parameters
    ----------
    table : FeatureTable
        Beyond it, memory for about a gigabyte is needed.
    seed : int
        Draws the folds that label errors are looked for in.
    threshold : float
        Cosine from which on two images are near-duplicates.
    device : torch.device
        Where neighbors are looked for.

    Raises
    ------
    UsageError
        If the features are not vectors, the threshold is not a cosine, or cleanlab is not installed.
    DataError
        If there are fewer than two samples, or a single class.
    """
    features, targets = table.features, table.targets
    if features.ndim != 2:
        raise UsageError(
            f"images are compared by vectors, but the cached features have the shape {features.shape[1:]}; "
            "use `pool` avg (or max, avgmax, cls)"
        )
    require_threshold(threshold)
    if len(features) < 2:
        raise DataError(f"images are compared with each other, and there are {len(features)} that could be read")
    directions = UnitFeatures(features, device, centered=True)
    neighbors = find_neighbors(directions, REFERENCE_NEIGHBOR, threshold)
    copies = find_duplicates(directions, neighbors, threshold, table.keys, table.splits)
    groups_kept_together = merge_groups(
        np.arange(len(targets)), np.concatenate([equal_pairs(table.keys), equal_pairs(table.groups)])
    )
    notes = []
    duplicate_pairs = np.array([(copy.index, copy.other_index) for copy in copies], dtype=np.int64).reshape(-1, 2)
    shown_twice = merge_groups(np.arange(len(targets)), duplicate_pairs)
    largest = int(np.bincount(shown_twice).max())
    if largest > max(LARGEST_GROUP * len(targets), REFERENCE_NEIGHBOR):
        notes.append(
            f"{largest:,} of {len(targets):,} images are one group of near-duplicates: either they are frames of one "
            "scene, or these features hardly tell the images apart; try a higher `threshold`, or another `backbone`"
        )
    else:  # a wrong label would be confirmed by a copy with the same wrong label among the rows that are fitted
        groups_kept_together = merge_groups(groups_kept_together, duplicate_pairs)
    distances = distances_to_neighbor(UnitFeatures(features, device, centered=False), seed)
    doubts, score = _doubt(table, seed, groups_kept_together)
    if doubts is None and table.task.reads == "text":  # of masks maps are needed, see `find_mask_errors`
        few = isinstance(table.task, MultiLabel | Regression)
        reason = "there are too few images, or groups of them" if few else f"the task is {table.task.name}"
        notes.append(f"wrong targets are not looked for: {reason}")
    kinds = targets if isinstance(table.task, SingleLabel) else np.zeros(len(targets), dtype=np.int64)
    return Inspection(doubts, copies, find_outliers(distances, kinds), score, notes)


def _doubt(table: FeatureTable, seed: int, groups: NDArray[np.int64]) -> tuple[Doubts | None, float]:
    """Return which targets are doubted, and how good what doubts them is."""
    features, targets, task = table.features, table.targets, table.task
    if isinstance(task, SingleLabel):
        activated = out_of_fold_probabilities(features, targets, task, seed, groups)
        doubts = doubt_classes(targets, activated, task.class_names)
    elif isinstance(task, MultiLabel | Regression):
        outputs = out_of_fold_outputs(features, targets, task, seed, groups)
        if outputs is None:
            return None, float("nan")
        activated = np.asarray(task.activate(torch.from_numpy(outputs)))
        if isinstance(task, MultiLabel):
            doubts = doubt_labels(targets, activated, task.class_names)
        else:
            doubts = doubt_numbers(targets, activated, partial(_predicted_number, task, torch.from_numpy(activated)))
    else:
        return None, float("nan")
    statistics = task.statistic(torch.from_numpy(activated), torch.from_numpy(targets))
    of_classes = isinstance(task, SingleLabel)  # that it is right, whatever methods are ranked by
    return doubts, find_metric(task, "accuracy" if of_classes else None).score(statistics)


def _predicted_number(task: Regression, predicted: torch.Tensor, place: int, number: int) -> str:
    """Return one of the numbers predicted of a sample, with its name where there are several."""
    word = task.decode(predicted[place]).split(SEPARATOR)[number]
    if task.levels:
        return word
    return f"{f'{task.names[number]} ' if len(task.names) > 1 else ''}{float(word):,.6g}"
