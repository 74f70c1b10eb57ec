"""How many samples the classes have in each split, and what that means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.errors import listed
from stages.config.data import SPLITS

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
    """

    class_names: tuple[str, ...]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, labels: NDArray[np.int64], splits: Sequence[str], class_names: tuple[str, ...]) -> Balance:
        """Count samples."""
        split_of_sample = np.array(splits)
        counts = [np.bincount(labels[split_of_sample == split], minlength=len(class_names)) for split in SPLITS]
        return cls(class_names, np.stack(counts).astype(np.int64))

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
            lines = [f"Every class has {train[largest]:,} training images."]
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
            lines.append(f"Classes with fewer than {FEW} training images: {rare_text}.")
        for split, row in zip(SPLITS[1:], self.counts[1:], strict=True):
            missing = [names[label] for label in np.flatnonzero(row == 0)]
            if missing:
                lines.append(f"Classes without an image in {split}: {listed(missing, _NAMED)}.")
        return lines
