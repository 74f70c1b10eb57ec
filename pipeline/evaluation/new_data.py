"""Methods of a run on data that had no part in it, beside what they reached on the run's own test split.

Nothing is chosen here: which method to take was settled without these samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cache.errors import listed
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.method_summary import MethodSummary
from pipeline.evaluation.verdict import Verdict, describe_test_images
from pipeline.text import capitalized, format_difference, format_range, format_score, table
from stages.tasks.base import Metric

SPLIT_WORDS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Interval:
    """A score, or a difference of two, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether there is an interval: of a single group there is none."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class AgainstOwnTest:
    """One method on new data, and on the test split of its run.

    Attributes
    ----------
    method : str
        Its label.
    folder : str
        What it is called in the run.
    here, own : Interval
    difference : Interval, optional
        The former minus the latter; None where the two share samples, and are not independent.
    """

    method: str
    folder: str
    here: Interval
    own: Interval
    difference: Interval | None


@dataclass(frozen=True)
class Evaluation:
    """What became of an evaluation on new data.

    Attributes
    ----------
    data : str
    comparison : Comparison
        The methods on these samples, with a verdict that chooses nothing.
    against_own : tuple of AgainstOwnTest
    seen : dict of str to int
        By splits of the run, how many of the samples are in them.
    unlike : int, optional
        So many samples are unlike those that trained the method to take; None where it cannot tell.
    """

    data: str
    comparison: Comparison
    against_own: tuple[AgainstOwnTest, ...]
    seen: dict[str, int]
    unlike: int | None = None

    @property
    def metric(self) -> Metric:
        """What the run ranks and tests by."""
        return self.comparison.metric

    def to_json(self) -> dict[str, Any]:
        """Return what `evaluation.json` holds."""
        return {
            "data": self.data,
            "metric": self.metric.name,
            "samples": len(self.comparison.rows[0].results[0].predictions),
            "seen": self.seen,
            "unlike": self.unlike,
            "against_own_test": [asdict(row) for row in self.against_own],
        }

    @property
    def table(self) -> str:
        """Both scores of each method as a table for the terminal."""
        as_percent = self.metric.as_percent
        header = ["method", f"{self.metric.label} here", "95 % interval", "on the run's test split", "difference"]
        rows = [
            [
                row.method,
                format_score(row.here.value, as_percent=as_percent),
                format_range((row.here.low, row.here.high), as_percent=as_percent),
                f"{format_score(row.own.value, as_percent=as_percent)} "
                f"({format_range((row.own.low, row.own.high), as_percent=as_percent)})",
                "-" if row.difference is None else _difference_words(row.difference, self.metric, unit=False),
            ]
            for row in self.against_own
        ]
        return table(header, rows)


def difference_of_independent(here: Interval, own: Interval) -> Interval:
    """Return the difference of two scores of independent samples, with an interval made of their two.

    The method of variance estimates recovery: each end of the difference is as far from it as the root of the sum of
    the squared distances of the two ends that make it (Zou and Donner 2008, "Construction of confidence limits about
    effect measures: a general approach", Statistics in Medicine 27, equation 3; of shares with Wilson's intervals
    Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10). It takes
    whatever interval the scores have, of groups too.
    """
    value = here.value - own.value
    return Interval(
        value,
        value - math.hypot(here.value - here.low, own.high - own.value),
        value + math.hypot(here.high - here.value, own.value - own.low),
    )


def against_own_test(
    rows: Sequence[MethodSummary], own_rows: Sequence[MethodSummary], *, independent: bool
) -> tuple[AgainstOwnTest, ...]:
    """Return each method on new data beside itself on the test split of its run.

    Parameters
    ----------
    rows, own_rows : sequence of MethodSummary
        The same methods in the same order, over the same seeds.
    independent : bool
        Whether no sample is in both.
    """
    compared = []
    for row, own_row in zip(rows, own_rows, strict=True):
        here, own = Interval(row.score, *row.ci95), Interval(own_row.score, *own_row.ci95)
        difference = difference_of_independent(here, own) if independent else None
        directory = row.results[0].directory
        assert directory is not None  # loaded results have one
        compared.append(AgainstOwnTest(row.label, directory.name, here, own, difference))
    return tuple(compared)


def verdict_on_new_data(
    comparison: Comparison,
    compared: Sequence[AgainstOwnTest],
    chosen: str,
    data: str,
    seen: dict[str, int],
    unlike: int | None = None,
) -> Verdict:
    """Say what the chosen method reaches on new data, and how far that is from its own test split.

    Parameters
    ----------
    comparison : Comparison
        Of the evaluated methods.
    compared : sequence of AgainstOwnTest
        In the order of its rows.
    chosen : str
        The folder of the method that the run says to take; the first row stands for one that was not evaluated.
    data : str
    seen : dict of str to int
    unlike : int, optional
        So many samples are unlike those that trained the method.
    """
    number = next((number for number, row in enumerate(compared) if row.folder == chosen), 0)
    metric, row = comparison.metric, compared[number]
    name = (
        f"{capitalized(row.method)}, which the run says to take," if row.folder == chosen else capitalized(row.method)
    )
    reached, own = (
        f"{format_score(score.value, as_percent=metric.as_percent)} (95 % interval "
        f"{format_range((score.low, score.high), as_percent=metric.as_percent)})"
        for score in (row.here, row.own)
    )
    samples = describe_test_images(comparison.rows[0]).replace("test images", "samples")
    headline = f"{name} reaches {metric.label} {reached} on {samples} of {data}, and {own} on the run's own test split"
    details = []
    if row.difference is None:
        headline += "."
        held = listed([f"{count:,} of them are {SPLIT_WORDS[split]} samples" for split, count in seen.items()])
        details.append(f"These are not independent of the run: {held} of it, so that the two are not compared.")
    else:
        headline += f": {_difference_words(row.difference, metric)}, {_meaning(row.difference, metric)}."
    others = [
        f"{other.method} {_difference_words(other.difference, metric)}"
        for other in compared
        if other is not row and other.difference is not None
    ]
    if unlike:
        count = len(comparison.rows[number].results[0].predictions)
        details.append(
            f"{unlike:,} of the {count:,} samples ({100 * unlike / count:.0f} %) are unlike those that trained the "
            f"method, by its features; about 2 % are where images are of the same kind."
        )
    if others:
        details.append(f"From their own test split to here, the other methods change by: {'; '.join(others)}.")
    details.append("Nothing is chosen by these samples: the run settled which method to take without them.")
    return Verdict("new data", headline, tuple(details), comparison.rows[number])


def _difference_words(difference: Interval, metric: Metric, *, unit: bool = True) -> str:
    value, low, high = (
        format_difference(end, as_percent=metric.as_percent)
        for end in (difference.value, difference.low, difference.high)
    )
    interval = f"{low} to {high}" if difference.is_known else "no interval"
    return f"{value}{' points' if unit and metric.as_percent else ''} ({interval})"


def _meaning(difference: Interval, metric: Metric) -> str:
    """Say whether the data are harder, as far as the interval says it."""
    if not difference.is_known:
        return "which one of these sets is too small to judge"
    worse, better = (difference.high < 0, difference.low > 0)
    if not metric.higher_is_better:
        worse, better = better, worse
    if worse:
        return "worse by more than two test sets of these sizes differ by chance"
    if better:
        return "better by more than two test sets of these sizes differ by chance"
    return "within what two test sets of these sizes differ by chance"
