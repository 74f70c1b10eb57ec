"""One method over its seeds, and its paired test against another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.results import CACHED, Result
from stages.tasks.evaluate import accuracy_interval, mcnemar, paired_difference

SIGNIFICANT = 0.05
"""The p-value below which a difference is called more than chance."""


STAGES = ("extract", "train", "evaluate")


TEST_TIME = {
    "flip": ("flip", "the evaluation view and its mirror image"),
    "crops": ("crops", "the centre and the four corners of an image, and their mirror images"),
}
"""Renderings that probabilities are averaged over: how a label names them, and what they are."""


@dataclass(frozen=True)
class MethodSummary:
    """One method of one run: its results over the seeds that every compared method has.

    Scores and seconds are means over the seeds (accuracy is the share of all tests that are right, which weighs each
    seed by its test images), peak memory is the largest, the confusion matrix the sum.
    """

    label: str
    run: Path
    results: tuple[Result, ...]
    images: NDArray[np.int64]
    """The number of the image that each test is about, int64 [tests]; the same for every row."""

    @property
    def method(self) -> str:
        """``linear``, ``head``, ``finetune``, ``uncached`` or ``scratch``."""
        return self.results[0].method

    @property
    def name(self) -> str:
        """The name of the head, or of what is fine-tuned."""
        return self.results[0].name

    @property
    def cached(self) -> bool:
        """Whether it trains on cached features."""
        return self.method in CACHED

    @property
    def unfrozen(self) -> Any:
        """What trains, as ``--unfreeze`` says it; None for a method that has no such option."""
        return self.results[0].settings.get("unfreeze")

    @property
    def reinitialized(self) -> bool:
        """Whether some layers were drawn anew, so that their pretrained weights played no part."""
        return bool(self.results[0].settings.get("reinitialised"))

    @property
    def test_time(self) -> str | None:
        """The renderings it is tested on, ``flip`` or ``crops``; None for the evaluation view alone."""
        kind = self.results[0].settings.get("test-time augmentation")
        return kind if kind in TEST_TIME else None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds it is averaged over."""
        return tuple(result.seed for result in self.results)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each test went right, bool [tests]: seed after seed, images of a seed in the order of their keys."""
        return np.concatenate([one.predictions.correct[one.predictions.key_order] for one in self.results])

    @cached_property
    def accuracy(self) -> float:
        """Share of all tests that are right."""
        return float(self.correct.mean())

    @property
    def accuracy_range(self) -> tuple[float, float]:
        """The lowest and the highest accuracy of a seed."""
        accuracies = [result.test["accuracy"] for result in self.results]
        return min(accuracies), max(accuracies)

    @cached_property
    def accuracy_ci95(self) -> tuple[float, float]:
        """The interval of the result itself for one seed; over all tests, images resampled, for several."""
        if len(self.results) == 1:
            low, high = self.results[0].test["accuracy_ci95"]
            return low, high
        return accuracy_interval(self.correct, self.images)

    @property
    def val_accuracy(self) -> float:
        """Mean validation accuracy: what methods are ranked by."""
        return self._mean(lambda result: result.val["accuracy"])

    @property
    def macro_f1(self) -> float:
        """Mean F1 averaged over classes."""
        return self._mean(lambda result: result.test["macro_f1"])

    @property
    def auc(self) -> float | None:
        """Mean area under the ROC curve; None where a result has none."""
        areas = [result.test["auc"] for result in self.results]
        known = [area for area in areas if area is not None]
        return float(np.mean(known)) if len(known) == len(areas) else None

    @property
    def log_loss(self) -> float:
        """Mean log loss."""
        return self._mean(lambda result: result.test["log_loss"])

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Confusion matrix summed over the seeds, int64 [true, predicted]."""
        summed: NDArray[np.int64] = np.sum([one.test["confusion"] for one in self.results], axis=0, dtype=np.int64)
        return summed

    @property
    def seconds(self) -> float:
        """Mean seconds from images to predictions, as if nothing had been cached."""
        return self._mean(lambda result: result.seconds)

    @property
    def seconds_by_stage(self) -> dict[str, float]:
        """Mean seconds of each stage."""
        of_results = [one.seconds_by_stage for one in self.results]
        return {stage: float(np.mean([each.get(stage, 0.0) for each in of_results])) for stage in STAGES}

    @property
    def cpu_seconds(self) -> float:
        """Mean processor seconds."""
        return self._mean(lambda result: result.cpu_seconds)

    @property
    def peak_memory_bytes(self) -> int:
        """The largest memory any seed held."""
        return max(result.peak_memory_bytes for result in self.results)

    @property
    def trainable_parameters(self) -> int:
        """Parameters that are trained."""
        return max(result.trainable_parameters for result in self.results)

    @property
    def backbone_forwards(self) -> float:
        """Mean number of images through the backbone in this method's own work."""
        return self._mean(lambda result: result.backbone_forwards)

    @property
    def extraction_forwards(self) -> float:
        """Mean number of images through the backbone to fill the cache it trains from."""
        return self._mean(lambda result: result.extraction_forwards)

    def _mean(self, of: Callable[[Result], float]) -> float:
        return float(np.mean([of(result) for result in self.results]))


@dataclass(frozen=True)
class PairedTest:
    """One method against another on the same tests."""

    method: str
    against: str
    difference: float
    """Accuracy of `method` minus accuracy of `against`."""
    difference_ci95: tuple[float, float]
    p_value: float
    """McNemar's exact test; with several seeds the sign test over images, see ``stages.tasks.evaluate.mcnemar``."""
    time_ratio: float
    """Seconds of `method` over seconds of `against`."""
    seeds_ahead: int
    """In how many seeds `method` is the more accurate."""

    @property
    def significant(self) -> bool:
        """Whether the difference is more than chance."""
        return self.p_value < SIGNIFICANT


def paired_test(row: MethodSummary, reference: MethodSummary) -> PairedTest:
    """Return the test of one method against another on the same images."""
    difference = paired_difference(row.correct, reference.correct, row.images)
    ahead = (
        ours.test["accuracy"] > theirs.test["accuracy"]
        for ours, theirs in zip(row.results, reference.results, strict=True)
    )
    return PairedTest(
        method=row.label,
        against=reference.label,
        difference=difference.value,
        difference_ci95=(difference.low, difference.high),
        p_value=mcnemar(row.correct, reference.correct, row.images),
        time_ratio=row.seconds / max(reference.seconds, 1e-9),
        seeds_ahead=sum(ahead),
    )
