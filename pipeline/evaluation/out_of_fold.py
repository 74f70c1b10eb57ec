"""What a method predicts for its own training and validation samples, by models that were not fitted to them.

That is what heads are ranked by: no sample has a say in the model, nor in the settings of the model, that it is
predicted by, and all heads are asked about the same samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import DataError
from pipeline.evaluation.predictions import DAMAGED_ARCHIVE, arrays_of_statistics, read_arrays, statistics_of_arrays
from stages.tasks.base import Metric, Statistics, Task
from stages.tasks.standard_error import standard_error


@dataclass(frozen=True)
class OutOfFoldPredictions:
    """Predictions for train and validation, as many times over as the samples were folded.

    Attributes
    ----------
    task : Task
        Whose statistics these are.
    keys : ndarray of S32 [m]
        Keys of the images.
    fold : ndarray of int64 [m]
        The part of the samples that it was left out with.
    repeat : ndarray of int64 [m]
        Which of the divisions into folds this is.
    statistics : array [m, ...]
        What the task keeps of each sample.
    groups : ndarray of str [m], optional
        What samples that are not independent of each other belong to.
    """

    task: Task
    keys: NDArray[np.bytes_]
    fold: NDArray[np.int64]
    repeat: NDArray[np.int64]
    statistics: Statistics
    groups: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Rows in the order of division, key and label: the same samples stand at the same place for every method."""
        return np.lexsort((self.task.labels(self.statistics), self.keys, self.repeat))

    @property
    def units(self) -> NDArray[Any]:
        """What is independent of each other, [m]: groups, or samples, whose predictions of all divisions are one."""
        return self.keys if self.groups is None else self.groups

    @property
    def folds(self) -> int:
        """How many parts there are."""
        return len(np.unique(self.fold))

    @property
    def repeats(self) -> int:
        """How many times the samples were divided."""
        return len(np.unique(self.repeat))

    def summary(self, metric: Metric) -> dict[str, Any]:
        """Return the ``cv`` object of ``result.json``.

        The predictions of all folds are scored together, so that a fold without a positive has no score of its own
        (Forman and Scholz 2010, "Apples-to-apples in cross-validation studies", section 2).
        """
        return {
            "metric": metric.name,
            "mean": metric.score(self.statistics),
            "standard_error": standard_error(metric, self.statistics, self.units),
            "folds": self.folds,
            "repeats": self.repeats,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what ``out-of-fold.npz`` holds."""
        groups = {} if self.groups is None else {"groups": self.groups}
        own = {"keys": self.keys, "fold": self.fold, "repeat": self.repeat, **groups}
        return {**own, **arrays_of_statistics(self.statistics)}

    @classmethod
    def load(cls, path: Path, task: Task) -> OutOfFoldPredictions:
        """Read an ``out-of-fold.npz``.

        Raises
        ------
        DataError
            If the file is damaged, or holds something else.
        """
        try:
            arrays = read_arrays(path)
            own = [arrays.pop(name) for name in ("keys", "fold", "repeat")]
            groups = arrays.pop("groups", None)
            statistics = statistics_of_arrays(arrays)
            if {len(array) for array in own} != {len(statistics)}:
                raise ValueError("keys, folds and statistics are not about the same samples")
            return cls(task, own[0], own[1], own[2], statistics, groups)
        except DAMAGED_ARCHIVE as error:
            raise DataError(f"{path} is damaged ({error}); delete its folder and train this method again") from error
