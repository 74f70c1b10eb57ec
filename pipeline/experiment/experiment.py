"""What all methods of a run have in common: the images, their features, the seed, and where results go."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from cache import key_of_bytes
from cache.errors import DataError
from pipeline.evaluation.predictions import Predictions
from stages.config.data import DataConfig
from stages.config.version_1 import as_version_1
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor
from stages.extraction.read_features import drop_unreadable
from stages.runtime.cost import Cost
from stages.runtime.distributed import SINGLE_PROCESS, Rank
from stages.tasks.base import Statistics, Task


class OuterTest(NamedTuple):
    """What outer folds say of a method together.

    Attributes
    ----------
    predictions : Predictions
        For every sample, by what never saw it.
    training, testing : Cost
        Of all folds.
    protocol : str
        In words, what was tested by what.
    """

    predictions: Predictions
    training: Cost
    testing: Cost
    protocol: str


@dataclass(frozen=True)
class Experiment:
    """One seed of a run: what every method is given.

    Attributes
    ----------
    extractor : Extractor
    manifest : Manifest
        Samples with their splits under the seed.
    seed : int
    directory : Path
        Where all that belongs to the seed is left: ``RUN/seed-0``.
    rank : Rank
        Which of several processes that train together this is; the first alone tests and writes.
    data : DataConfig, optional
        What the manifest was made from, to be told with the results.
    overwrite : bool
        Whether a method that the run has, trained with other options, may be replaced.
    fold : str
        Which outer fold this is, where it is one.
    opens_images : bool
        Whether the command has its images open anyway, and not their cached features alone.
    outer : callable, optional
        Where there is no test split: from the name of a method's folder to what the outer folds say of it.
    """

    extractor: Extractor
    manifest: Manifest
    seed: int
    directory: Path
    rank: Rank = SINGLE_PROCESS
    data: DataConfig | None = None
    overwrite: bool = False
    fold: str = ""
    opens_images: bool = False
    outer: Callable[[str], OuterTest] | None = None

    @property
    def label(self) -> str:
        """Which part of a run this is, in words."""
        return f"seed {self.seed}, fold {self.fold}" if self.fold else f"seed {self.seed}"

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.manifest.task

    def split(self, name: str) -> Manifest:
        """Return the samples of one split: ``train``, ``val`` or ``test``."""
        return self.manifest.select(self.manifest.indices(name))

    def readable(self) -> Experiment:
        """Return the experiment without the images that extraction could not read."""
        return replace(self, manifest=drop_unreadable(self.extractor, self.manifest))

    def require_defined_scores(self) -> None:
        """Refuse splits of which the task's metric says nothing, before anything is trained.

        Raises
        ------
        DataError
            If validation or test has no sample with a label, or the same number in all.
        """
        if self.task.reads == "image":  # masks are read when they are needed
            return
        metric = self.task.metrics[self.task.primary]
        if metric.per_sample is not None:  # a mean over samples is defined for any
            return
        for split in ("val", "test"):
            targets = self.split(split).targets
            if len(targets) and math.isnan(metric.score(self._answered_right(targets))):
                raise DataError(
                    f"{metric.label} is not defined for the {len(targets)} {split} samples: what is true of them does "
                    "not vary. Give more samples, or larger splits (`test_size`, `val_size`)"
                )

    def _answered_right(self, targets: NDArray[Any]) -> Statistics:
        """Return the statistics of right answers: of these, too, a metric is not defined where nothing varies.

        An answer that is the same for all would not do, of which no rank correlation is defined.
        """
        shares = self.task.soft_target(torch.from_numpy(targets)).nan_to_num()
        outputs = shares if self.task.outputs == "values" else 2 * shares - 1
        return self.task.statistic(self.task.activate(outputs), torch.from_numpy(targets))

    def fingerprint(self, settings: Mapping[str, Any], features: str | None = None) -> str:
        """Return the digest of all that shapes a method trained with these settings.

        The features are called by their own fingerprint, or by `features`.

        Over the names of version 1, and of one class a sample over the names of classes alone, as when there was no
        other task, so that what was trained then is found.
        """
        if self.outer is not None and self.data is not None:
            settings = {**settings, "tested by": self.data.test}
        manifest = self.manifest
        targets = manifest.target_keys or map(str, manifest.targets.tolist())
        samples = "".join(manifest.keys) + " ".join(manifest.splits) + " ".join(targets)
        task = self.task.to_json()
        known_by = task["class_names"] if task.keys() == {"name", "class_names"} else task
        parts = [features or self.extractor.fingerprint, samples, known_by, self.seed, as_version_1(settings)]
        return key_of_bytes(json.dumps(parts, sort_keys=True, default=str).encode())
