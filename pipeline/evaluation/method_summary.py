"""One method over its seeds, and its paired test against another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.methods import get_method
from pipeline.evaluation.results import Result
from pipeline.run_layout import SAMPLE_IMAGES, seed_dir
from stages.tasks.base import Metric, Statistics, Task
from stages.tasks.intervals import Interval, interval
from stages.tasks.paired import compare, holm
from stages.tasks.seeds import widening
from stages.tasks.standard_error import standard_error

SIGNIFICANT = 0.05
"""The p-value below which a difference is called more than chance."""


STAGES = ("extract", "train", "evaluate")


TEST_TIME = {
    "flip": ("flip", "the evaluation view and its mirror image"),
    "crops": ("crops", "the evaluation view and the four corners of an image, and their mirror images"),
}
"""Renderings that probabilities are averaged over: how a label names them, and what they are."""


class Scored(NamedTuple):
    """Samples that a method was asked about, under all seeds; for each method at the same places.

    Attributes
    ----------
    statistics : array [m, ...]
        What the task keeps of each.
    units : ndarray [m]
        What is independent of each other: samples, of which there may be several predictions, or their groups.
    samples : ndarray of S32 [m]
        Their keys.
    """

    statistics: Statistics
    units: NDArray[Any]
    samples: NDArray[np.bytes_]

    def is_about(self, other: Scored) -> bool:
        """Return whether both are about the same samples at the same places."""
        return np.array_equal(self.samples, other.samples)


class CrossValidated(NamedTuple):
    """What a method scores on samples that it was not fitted to."""

    mean: float
    standard_error: float
    folds: int
    repeats: int


@dataclass(frozen=True)
class MethodSummary:
    """One method of one run: its results over the seeds that every compared method has.

    Seconds, and scores of all metrics but the primary one, are means over the seeds. The primary one is that of all
    tests together, which weighs each seed by its test images. Peak memory is the largest, the confusion matrix the sum.
    """

    label: str
    run: Path
    results: tuple[Result, ...]
    images: NDArray[np.int64] = field(compare=False)
    """The number of the image that each test is about, int64 [tests]; the same for every row."""

    @property
    def method(self) -> str:
        """The method of transfer, as ``pipeline.evaluation.methods`` knows it: ``finetune``."""
        return self.results[0].method

    @property
    def name(self) -> str:
        """The name of the head, or of what is fine-tuned."""
        return self.results[0].name

    @property
    def unit(self) -> str:
        """What is predicted of, in one word: an image, or a sample that may have several."""
        return "sample" if (seed_dir(self.run, self.seeds[0]) / SAMPLE_IMAGES).exists() else "image"

    @property
    def cached(self) -> bool:
        """Whether it trains on cached features."""
        return get_method(self.method).cached

    @property
    def of_others(self) -> bool:
        """Whether it is made of methods of the run."""
        return get_method(self.method).of_others

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

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.results[0].task

    @property
    def metric(self) -> Metric:
        """What methods are ranked and tested by."""
        return self.results[0].metric

    @property
    def statistics(self) -> Statistics:
        """What is kept of each test, [tests, ...]: seed after seed, images of a seed in the order of their keys.

        Made anew each time: kept for every method, they would be a second copy of all predictions.
        """
        predictions_by_seed = (result.predictions for result in self.results)
        return np.concatenate([predictions.statistics[predictions.key_order] for predictions in predictions_by_seed])

    @cached_property
    def correct(self) -> NDArray[np.bool_] | None:
        """Whether each test went right, bool [tests], as in `statistics`; None where right and wrong is not all."""
        correct_by_seed = [
            None if predictions.correct is None else predictions.correct[predictions.key_order]
            for predictions in (result.predictions for result in self.results)
        ]
        known = [correct for correct in correct_by_seed if correct is not None]
        return np.concatenate(known) if len(known) == len(correct_by_seed) else None

    @cached_property
    def score(self) -> float:
        """The primary metric of all tests together."""
        return self.metric.score(self.statistics)

    @property
    def score_range(self) -> tuple[float, float]:
        """The lowest and the highest score of a seed."""
        scores = [result.score(self.metric.name) for result in self.results]
        return min(scores), max(scores)

    @cached_property
    def interval(self) -> Interval:
        """The interval of the result itself for one seed; for several that of all tests together."""
        if len(self.results) == 1:
            return self.results[0].interval
        units = self.images if self.groups is None else self.groups
        found = interval(
            self.metric,
            self.statistics,
            units,
            units="images" if self.groups is None else "groups",
            widened=self.widening(units),
        )
        return found if self.groups is not None else found._replace(groups=None)

    @property
    def ci95(self) -> tuple[float, float]:
        """The ends of the interval."""
        return self.interval.low, self.interval.high

    @cached_property
    def groups(self) -> NDArray[np.str_] | None:
        """What is independent of each other among the tests, [tests]; None where samples have no groups."""
        groups = [
            None if predictions.units is None else predictions.units[predictions.key_order]
            for predictions in (result.predictions for result in self.results)
        ]
        known = [units for units in groups if units is not None]
        return np.concatenate(known) if len(known) == len(groups) else None

    @property
    def units(self) -> NDArray[Any] | None:
        """What is independent among the tests: groups, or images under several seeds; None where each test is one."""
        return self.groups if self.groups is not None else self.images if len(self.results) > 1 else None

    def widening(self, units: NDArray[Any], against: MethodSummary | None = None) -> float:
        """Return by what several seeds that share images make the standard error, or that of a difference, larger."""
        if len(self.results) == 1:
            return 1.0
        keys = [set(result.predictions.keys.tolist()) for result in self.results]
        samples = self.results[0].samples
        trained_on = samples["train"] + samples["val"]
        return widening(
            self.metric,
            self.statistics,
            units,
            np.repeat(np.arange(len(self.results)), [len(result.predictions) for result in self.results]),
            resplit=None if all(of_seed == keys[0] for of_seed in keys) else samples["test"] / max(trained_on, 1),
            against=None if against is None else against.statistics,
        )

    @property
    def is_head(self) -> bool:
        """Whether it is a head, on features or on columns, and so could be cross-validated."""
        return self.cached or self.method == "columns"

    @property
    def val_score(self) -> float:
        """Mean of the metric on the validation split, by what was fitted to train alone."""
        return self._mean(lambda result: result.val[self.metric.name])

    @cached_property
    def out_of_fold(self) -> Scored | None:
        """What it predicts for train and validation, never fitted to the sample; None where nothing was folded."""
        parts = [result.out_of_fold for result in self.results]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        orders = [part.order for part in known]
        return Scored(
            np.concatenate([part.statistics[order] for part, order in zip(known, orders, strict=True)]),
            np.concatenate([part.units[order] for part, order in zip(known, orders, strict=True)]),
            np.concatenate([part.keys[order] for part, order in zip(known, orders, strict=True)]),
        )

    @cached_property
    def cv(self) -> CrossValidated | None:
        """What it scores out of folds, that of all seeds together: what heads are ranked by."""
        first, scored = self.results[0].out_of_fold, self.out_of_fold
        if first is None or scored is None:
            return None
        error = standard_error(self.metric, scored.statistics, scored.units)
        return CrossValidated(self.metric.score(scored.statistics), error, first.folds, first.repeats)

    @cached_property
    def validation(self) -> Scored | None:
        """What it predicts for the validation split, fitted to train alone; None of a version that did not keep it."""
        parts = [result.validation_predictions for result in self.results]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        statistics = np.concatenate([part.statistics[part.key_order] for part in known])
        keys = np.concatenate([part.keys[part.key_order] for part in known])
        units = [part.keys if part.units is None else part.units for part in known]
        in_order = [of_part[part.key_order] for of_part, part in zip(units, known, strict=True)]
        return Scored(statistics, np.concatenate(in_order), keys)

    @property
    def prediction_seconds(self) -> float:
        """Mean seconds that an image takes from its bytes to its prediction."""
        return self._mean(_prediction_seconds)

    def mean_score(self, name: str) -> float:
        """Return the mean of a metric over the seeds; nan where it is not defined for one of them."""
        return self._mean(lambda result: result.score(name))

    @cached_property
    def confusion(self) -> NDArray[np.int64] | None:
        """Confusion matrix summed over the seeds, int64 [true, predicted]; None where the task has no classes."""
        confusions = [result.test["confusion"] for result in self.results if "confusion" in result.test]
        return np.sum(np.array(confusions, dtype=np.int64), axis=0) if len(confusions) == len(self.results) else None

    @property
    def seconds(self) -> float:
        """Mean seconds from images to predictions, as if nothing had been cached."""
        return self._mean(lambda result: result.seconds)

    @property
    def marginal_seconds(self) -> float:
        """Mean seconds of training and evaluation, when the features are there."""
        return self._mean(lambda result: result.marginal_seconds)

    @property
    def model_bytes(self) -> int | None:
        """The largest model of a seed on disk, the network's own weights aside; None where there is none."""
        sizes = [result.model_bytes for result in self.results if result.model_bytes is not None]
        return max(sizes, default=None)

    @property
    def seconds_by_stage(self) -> dict[str, float]:
        """Mean seconds of each stage."""
        seconds_by_result = [result.seconds_by_stage for result in self.results]
        return {stage: float(np.mean([seconds.get(stage, 0.0) for seconds in seconds_by_result])) for stage in STAGES}

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


def _prediction_seconds(result: Result) -> float:
    """Return the time of an image through the network and the head; of a result that did not keep it, of its stages."""
    if result.prediction_seconds_per_image is not None:
        return result.prediction_seconds_per_image
    stages = result.seconds_by_stage
    extracted = max(result.extraction_forwards, 1)
    return stages.get("extract", 0.0) / extracted + stages.get("evaluate", 0.0) / max(result.samples["test"], 1)


@dataclass(frozen=True)
class PairedTest:
    """One method against another on the same tests."""

    method: str
    against: str
    metric: str
    """The name of what is compared."""
    higher_is_better: bool
    difference: float
    """The metric of `method` minus that of `against`."""
    difference_ci95: tuple[float, float]
    """Holds 0 where `p_value` is 0.05 or more: of this difference alone."""
    p_value: float
    p_holm: float
    """The p-value adjusted for all comparisons, of which there are `comparisons`: it alone decides."""
    comparisons: int
    test: str
    """How interval and p-value were made, as ``stages.tasks.paired.compare`` says."""
    groups: int | None
    """How many groups the tests are of; None where images are independent of each other."""
    time_ratio: float
    """Seconds of `method` over seconds of `against`."""
    seeds_ahead: int
    """In how many seeds `method` is the better one."""

    @property
    def significant(self) -> bool:
        """Whether the difference is more than chance, all comparisons taken together."""
        return self.p_holm < SIGNIFICANT

    @property
    def ahead(self) -> bool:
        """Whether `method` is the better one."""
        return self.difference > 0 if self.higher_is_better else self.difference < 0


def paired_test(row: MethodSummary, reference: MethodSummary) -> PairedTest:
    """Return the test of one method against another on the same images, as if it were the only one."""
    metric = row.metric
    groups = row.groups if row.groups is not None else reference.groups
    units = groups if groups is not None else row.units
    compared = compare(
        metric,
        row.statistics,
        reference.statistics,
        units,
        widened=1.0 if units is None else row.widening(units, reference),
    )
    gains = (
        result.score(metric.name) - reference_result.score(metric.name)
        for result, reference_result in zip(row.results, reference.results, strict=True)
    )
    return PairedTest(
        method=row.label,
        against=reference.label,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        difference=compared.difference.value,
        difference_ci95=(compared.difference.low, compared.difference.high),
        p_value=compared.p_value,
        p_holm=compared.p_value,
        comparisons=1,
        test=compared.method,
        groups=None if groups is None else len(np.unique(groups)),
        time_ratio=row.seconds / max(reference.seconds, 1e-9),
        seeds_ahead=sum(gain > 0 if metric.higher_is_better else gain < 0 for gain in gains),
    )


def paired_tests(pairs: Sequence[tuple[MethodSummary, MethodSummary]]) -> list[PairedTest]:
    """Return the tests of pairs of methods, each pair once, with p-values that are adjusted for all of them."""
    tests = [paired_test(row, against) for row, against in {(a.label, b.label): (a, b) for a, b in pairs}.values()]
    adjusted = holm([test.p_value for test in tests])
    return [
        replace(test, p_holm=p_value, comparisons=len(tests)) for test, p_value in zip(tests, adjusted, strict=True)
    ]
