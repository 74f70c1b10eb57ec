"""How many samples the classes have in each split, and what that means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import listed
from stages.config.data import SPLITS
from stages.tasks.base import Task
from stages.tasks.multi_label import MultiLabel
from stages.tasks.single_label import SingleLabel

UNEVEN = 3.0
"""Ratio of the largest to the smallest class from which on the smaller ones are worth a thought."""

FEW = 10
"""Training samples below which little can be learned of a class, or said of it."""

_NAMED = 5


@dataclass(frozen=True)
class Balance:
    """Samples by split and class.

    Attributes
    ----------
    class_names : tuple of str
    counts : ndarray of int64 [3, classes]
        Of train, val and test.
    unlabeled : ndarray of int64 [3], optional
        Samples without any label, where a sample may have any number of them.
    """

    class_names: tuple[str, ...]
    counts: NDArray[np.int64]
    unlabeled: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, labels: NDArray[np.int64], splits: Sequence[str], class_names: tuple[str, ...]) -> Balance:
        """Count samples."""
        split_of_sample = np.array(splits)
        counts = [np.bincount(labels[split_of_sample == split], minlength=len(class_names)) for split in SPLITS]
        return cls(class_names, np.stack(counts).astype(np.int64))

    @classmethod
    def of_labels(cls, targets: NDArray[np.floating], splits: Sequence[str], class_names: tuple[str, ...]) -> Balance:
        """Count the samples that have each label, of targets [n, labels] of 1, 0, or nan where it is not known."""
        split_of_sample, has_label = np.array(splits), targets == 1
        counts = [has_label[split_of_sample == split].sum(axis=0) for split in SPLITS]
        without = [int((~has_label[split_of_sample == split].any(axis=1)).sum()) for split in SPLITS]
        return cls(class_names, np.stack(counts).astype(np.int64), np.array(without, dtype=np.int64))

    @classmethod
    def of_task(cls, task: Task, targets: NDArray[Any], splits: Sequence[str]) -> Balance | None:
        """Count classes or labels; None where a sample has neither."""
        if isinstance(task, SingleLabel):
            return cls.of(targets, splits, task.class_names)
        return cls.of_labels(targets, splits, task.class_names) if isinstance(task, MultiLabel) else None

    @property
    def kind(self) -> str:
        """What is counted, in one word."""
        return "class" if self.unlabeled is None else "label"

    @property
    def ratio(self) -> float:
        """The largest class of the training split over the smallest; infinite where one has no sample."""
        train = self.counts[0]
        return float(train.max() / train.min()) if train.min() else float("inf")

    @property
    def words(self) -> list[str]:
        """What the numbers mean, in sentences."""
        train = self.counts[0]
        largest, smallest = int(train.argmax()), int(train.argmin())
        names = self.class_names
        ratio_text = (
            f"{names[largest]} has {train[largest]:,} training images and {names[smallest]} {train[smallest]:,}: "
            f"{self.ratio:.3g} to 1"
        )
        if train[largest] == train[smallest]:
            lines = [f"Every {self.kind} has {train[largest]:,} training images."]
        elif self.unlabeled is not None:
            lines = [
                f"{ratio_text}. The average precision of a guess is the share of images that have the label, so "
                "compare each label with its own."
            ]
        elif self.ratio < UNEVEN:
            lines = [f"{ratio_text}. That is balanced enough for accuracy to mean the same for every class."]
        else:
            share = train[largest] / train.sum()
            lines = [
                f"{ratio_text}. Always answering {names[largest]} would be right for {share:.0%} of the training "
                "images, so "
                "read macro-F1 beside accuracy, and try `class_weights` balanced."
            ]
        rare = [int(label) for label in np.flatnonzero(train < FEW)]
        if rare:
            rare_text = listed([f"{names[label]} ({train[label]})" for label in rare], _NAMED)
            lines.append(f"{self._plural} with fewer than {FEW} training images: {rare_text}.")
        for split, row in zip(SPLITS[1:], self.counts[1:], strict=True):
            missing = [names[label] for label in np.flatnonzero(row == 0)]
            if missing:
                lines.append(f"{self._plural} without an image in {split}: {listed(missing, _NAMED)}.")
        if self.unlabeled is not None and self.unlabeled.any():
            numbers = ", ".join(f"{number:,} in {split}" for split, number in zip(SPLITS, self.unlabeled, strict=True))
            lines.append(f"Images without any label: {numbers}.")
        return lines

    @property
    def _plural(self) -> str:
        return "Classes" if self.unlabeled is None else "Labels"
