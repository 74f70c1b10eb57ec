"""What choosing a method comes to, where each sample is tested in an outer fold: chosen anew within each of them.

The method that is kept is chosen by all samples, the tested ones among them, so its own score is a little too good as
that of a choice. Within a fold the choice sees none of the samples that it is tested on (Cawley and Talbot 2010, "On
over-fitting in model selection and subsequent selection bias in performance evaluation", section 5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.choice import choose
from pipeline.evaluation.method_summary import MethodSummary
from pipeline.evaluation.results import Result
from pipeline.run_layout import fold_dirs
from pipeline.text import format_range, format_score
from stages.tasks.base import Metric
from stages.tasks.intervals import interval


@dataclass(frozen=True)
class ChoiceInFolds:
    """What the methods that are chosen fold by fold score together.

    Attributes
    ----------
    metric : Metric
    score : float
    ci95 : tuple of float
    taken : dict of str to int
        How many folds took a method, the one that most took first.
    """

    metric: Metric
    score: float
    ci95: tuple[float, float]
    taken: dict[str, int]

    @property
    def words(self) -> str:
        """It in a sentence."""
        score = format_score(self.score, as_percent=self.metric.as_percent)
        ends = format_range(self.ci95, as_percent=self.metric.as_percent)
        taken = ", ".join(
            f"{label} {count} times" if count > 1 else f"{label} once" for label, count in self.taken.items()
        )
        return (
            f"Chosen anew within each fold, without the samples that are tested there ({taken}), the method to take "
            f"reaches {score} (95 % interval {ends}): that is what the choice is worth."
        )


def choice_in_folds(rows: Sequence[MethodSummary]) -> ChoiceInFolds | None:
    """Return what choosing among methods comes to; None where there is nothing to choose, or folds were not kept.

    Parameters
    ----------
    rows : sequence of MethodSummary
        Methods that were tested in the same outer folds.
    """
    if len(rows) < 2 or any(not row.results[0].test.get("tested") for row in rows):
        return None
    metric = rows[0].metric
    taken: Counter[str] = Counter()
    tested: list[Result] = []
    for seed in range(len(rows[0].seeds)):
        for of_fold in zip(*(_folds(row.results[seed], metric) for row in rows), strict=False):
            chosen = choose(
                [
                    MethodSummary(row.label, row.run, (result,), np.arange(len(result.predictions)))
                    for row, result in zip(rows, of_fold, strict=True)
                ]
            ).chosen
            taken[chosen.label] += 1
            tested += chosen.results
    if not tested:
        return None
    statistics = np.concatenate([result.predictions.statistics for result in tested])
    units = np.concatenate([_units(result) for result in tested])
    low, high = interval(metric, statistics, units)[:2]
    return ChoiceInFolds(metric, metric.score(statistics), (low, high), dict(taken.most_common()))


def _units(result: Result) -> NDArray[np.str_]:
    """Return what is independent of each other among the tests of a fold: groups, or images."""
    predictions = result.predictions
    return np.char.decode(predictions.keys, "ascii") if predictions.units is None else predictions.units


def _folds(result: Result, metric: Metric) -> list[Result]:
    """Return what a method left in each fold, by the metric that it is compared by."""
    assert result.directory is not None, "loaded results have one"
    directories = (fold / result.directory.name for fold in fold_dirs(result.directory.parent))
    return [Result.load(directory).by_metric(metric.name) for directory in directories]
