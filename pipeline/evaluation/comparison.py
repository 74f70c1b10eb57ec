"""What the results of one or several runs say against each other: rows, paired tests, and a verdict in words.

Nothing is trained or read but finished results. Which method to take is said by ``pipeline.evaluation.choice``, which
sees no test image; the test split only says what the methods reach and whether their difference is more than chance.
How it looks is ``pipeline.report``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cache.errors import DataError, listed
from pipeline.evaluation.break_even import BreakEven, break_even
from pipeline.evaluation.choice import Choice, choose
from pipeline.evaluation.choice_in_folds import ChoiceInFolds, choice_in_folds
from pipeline.evaluation.method_summary import TEST_TIME, MethodSummary, PairedTest, paired_tests
from pipeline.evaluation.method_table import as_frame, as_html, method_rows
from pipeline.evaluation.methods import get_method
from pipeline.evaluation.results import (
    Result,
    load_results,
    on_shared_images,
    require_same_task,
    require_same_test_images,
    run_of,
)
from pipeline.evaluation.verdict import Verdict, describe_test_images, further_pairs, give_verdict
from pipeline.text import capitalized
from stages.tasks.base import Metric, Task, find_metric


class FoldScores(NamedTuple):
    """What the methods, in the order of the rows, score in an outer fold, as means over the seeds; nan: not defined."""

    name: str
    samples: int
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """Methods side by side on the same test images.

    Attributes
    ----------
    rows : tuple of MethodSummary
        In the order of method and name.
    reference : MethodSummary
        What the others are tested against: the head on cached features to take, or the method to take where there is
        none.
    tests : tuple of PairedTest
        Every other row against the reference, in the order of the rows; adjusted for these and what else the verdict
        compares.
    choice : Choice
        The method to take, and how all are ranked.
    verdict : Verdict
        What follows.
    results : tuple of Result
        All results that were read, those of seeds that not every method has included.
    notes : tuple of str
        What was left out, and why.
    choice_in_folds : ChoiceInFolds, optional
        What choosing comes to where methods were tested in outer folds.
    break_even : BreakEven, optional
        What the cache took and saved.
    """

    rows: tuple[MethodSummary, ...]
    reference: MethodSummary
    tests: tuple[PairedTest, ...]
    choice: Choice
    verdict: Verdict
    results: tuple[Result, ...]
    notes: tuple[str, ...]
    choice_in_folds: ChoiceInFolds | None = None
    break_even: BreakEven | None = None

    @property
    def verdict_text(self) -> str:
        """What follows, in one paragraph."""
        return " ".join([self.verdict.headline, *self.verdict.details])

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.results[0].task

    @property
    def metric(self) -> Metric:
        """What methods are ranked and tested by."""
        return self.results[0].metric

    @property
    def shown_metrics(self) -> list[Metric]:
        """The metrics that a table shows beside it: those that are defined for a method."""
        candidates = [self.task.metrics[name] for name in self.task.shown]
        return [
            metric for metric in candidates if any(not math.isnan(row.mean_score(metric.name)) for row in self.rows)
        ]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers; none where the task has no classes."""
        return self.results[0].class_names

    @property
    def groups(self) -> int | None:
        """How many groups the tests are of; None where images are independent of each other."""
        groups = self.rows[0].groups
        return None if groups is None else len(np.unique(groups))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every method has."""
        return self.rows[0].seeds

    @property
    def runs(self) -> list[Path]:
        """The compared runs."""
        return list(dict.fromkeys(row.run for row in self.rows))

    @property
    def ranked(self) -> list[MethodSummary]:
        """The rows from the best by what methods are ranked by down; of equals the quicker one first."""
        return list(self.choice.ranked)

    @property
    def tested(self) -> str:
        """By what each sample was tested, in words; '' where there is a test split."""
        return str(self.rows[0].results[0].test.get("tested", ""))

    @property
    def folds(self) -> list[FoldScores]:
        """The scores by outer fold; none where there is a test split, or methods had others."""
        of_results = [[result.test.get("folds", {}) for result in row.results] for row in self.rows]
        first = of_results[0][0]
        if any(folds.keys() != first.keys() for of_row in of_results for folds in of_row):
            return []
        return [
            FoldScores(name, first[name]["samples"], tuple(_mean_score(row, name, self.metric) for row in of_results))
            for name in first
        ]

    @property
    def test_images(self) -> str:
        """How many images are tested, in words."""
        return describe_test_images(self.rows[0])

    @property
    def majority_class(self) -> tuple[int, float] | None:
        """Number of the most frequent class of the test images, and its share: what always saying it is right in."""
        confusion = self.rows[0].confusion
        if confusion is None:
            return None
        true_counts = confusion.sum(axis=1)
        return int(true_counts.argmax()), float(true_counts.max() / true_counts.sum())

    def to_frame(self) -> Any:
        """Return the methods as a ``pandas.DataFrame``, the best by what ranks them first.

        Raises
        ------
        UsageError
            If pandas is not installed.
        """
        return as_frame(method_rows(self))

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the verdict in one line over the methods."""
        from pipeline.evaluation.one_line import one_line  # which imports this module

        return as_html(method_rows(self), self.metric, one_line(self))

    def test_of(self, row: MethodSummary) -> PairedTest | None:
        """Return the test of `row` against the reference; None for the reference itself."""
        return next((test for test in self.tests if test.method == row.label), None)

    @property
    def comparisons(self) -> list[dict[str, Any]]:
        """The paired tests as ``results.json`` holds them."""
        return [asdict(test) for test in self.tests]


def compare_runs(run_dirs: Sequence[Path], metric: str | None = None) -> Comparison:
    """Compare the finished results of one or several runs on the same data.

    Parameters
    ----------
    run_dirs : sequence of Path
    metric : str, optional
        What they are ranked and tested by (default: what the first result is).

    Raises
    ------
    UsageError
        If there is no such metric.
    DataError
        If results are missing or damaged, were not tested on the same images, or have no seed in common.
    """
    return compare_results(load_results(list({path.resolve(): path for path in run_dirs}.values())), metric)


def compare_results(results: Sequence[Result], metric: str | None = None) -> Comparison:
    """Compare finished results that were loaded, by one metric: `metric`, or that of the first.

    Raises
    ------
    UsageError
        If there is no such metric.
    DataError
        If they share no test images, have no seed in common, or do not say how they validate by it.
    """
    require_same_task(results)
    results, by_another = _by_one_metric(results, metric)
    results, unlike_images = on_shared_images(results)
    require_same_test_images(results)
    rows, notes = summarize(results)
    notes = [*unlike_images, *_tested_in_folds(rows), *by_another, *notes]
    choice = choose(rows)
    saved = break_even(rows)
    candidates = [choice.chosen, *([] if choice.head is None else [choice.head]), *choice.ranked]
    reference = next((row for row in candidates if row.cached), choice.chosen)
    tests, family = _tests_against(reference, rows, choice)
    verdict = give_verdict(choice, reference, family)
    return Comparison(
        rows=tuple(rows),
        reference=reference,
        tests=tests,
        choice=choice,
        verdict=verdict if saved is None else replace(verdict, details=(*verdict.details, saved.words)),
        results=tuple(results),
        notes=tuple(notes),
        choice_in_folds=choice_in_folds(rows),
        break_even=saved,
    )


def with_chosen(comparison: Comparison, chosen: MethodSummary) -> Comparison:
    """Return a comparison whose method to take was settled elsewhere: the others are tested against that one."""
    reference = chosen if chosen.cached else comparison.reference
    tests, _ = _tests_against(reference, comparison.rows, comparison.choice)
    return replace(comparison, reference=reference, tests=tests, choice=replace(comparison.choice, chosen=chosen))


def _tests_against(
    reference: MethodSummary, rows: Sequence[MethodSummary], choice: Choice
) -> tuple[tuple[PairedTest, ...], list[PairedTest]]:
    """Return the tests of the others against one method, and the family of all that are made."""
    against_reference = [(row, reference) for row in rows if row is not reference]
    family = paired_tests([*against_reference, *further_pairs(choice.ranked)])
    return tuple(family[: len(against_reference)]), family


def choose_result(results: Sequence[Result]) -> Choice:
    """Return the method to take of the results of one seed, by the metric of the first."""
    results, _ = _by_one_metric(results, None)
    labels = _labels(results)
    return choose(
        [
            MethodSummary(label, run_of(result), (result,), np.arange(len(result.predictions)))
            for label, result in zip(labels, results, strict=True)
        ]
    )


def interval_words(comparison: Comparison) -> str:
    """Say what the intervals are made from."""
    methods = listed(list(dict.fromkeys(row.interval.method for row in comparison.rows)), separator="; ")
    if len(comparison.seeds) == 1:
        return f"Intervals, of the test {comparison.rows[0].unit}s of the one seed: {methods}."
    seeds = f"{len(comparison.seeds)} seeds"
    estimate = "that of all tests" if comparison.metric.per_sample is None else "the mean"
    return (
        f"{capitalized(comparison.metric.label)} is {estimate} over {seeds}; intervals, the tests of all {seeds} "
        f"pooled and corrected for the {comparison.rows[0].unit}s that they share, and wider where the seeds differ by "
        f"more than that: {methods}."
    )


def renderings_words(comparison: Comparison) -> list[str]:
    """Say what the methods that are tested on several renderings of an image are tested on."""
    kinds_used = {row.test_time for row in comparison.rows}
    explanations = [
        f"“+ {name}”: over {explanation}" for kind, (name, explanation) in TEST_TIME.items() if kind in kinds_used
    ]
    if not explanations:
        return []
    return [
        f"Probabilities averaged over renderings: {'; '.join(explanations)}. The others see the evaluation view alone."
    ]


def _by_one_metric(results: Sequence[Result], metric: str | None) -> tuple[list[Result], list[str]]:
    """Return the results by one metric, and in words which were trained by another.

    Those chose their settings by that one. One that does not say how it validates by the metric is left out, unless
    none would be left.
    """
    name = find_metric(results[0].task, metric).name
    by_one: list[Result] = []
    chosen_by: dict[str, list[str]] = {}
    left_out: list[DataError] = []
    for result in results:
        try:
            by_one.append(result.by_metric(name))
        except DataError as error:
            left_out.append(error)
            continue
        if result.metric.name != name:
            chosen_by.setdefault(result.metric.name, []).append(f"{result.method} {result.name}")
    if not by_one:
        raise left_out[0]
    notes = [
        f"Compared by {name}: {listed(list(dict.fromkeys(methods)))} chose settings by {other}."
        for other, methods in chosen_by.items()
    ]
    return by_one, [*notes, *(f"Left out: {error}." for error in left_out)]


def _tested_in_folds(rows: Sequence[MethodSummary]) -> list[str]:
    protocols = dict.fromkeys(str(row.results[0].test.get("tested", "")) for row in rows)
    return [
        f"Each sample was tested once, by heads that never saw it: {protocol}. What is kept is trained on all samples, "
        "and its score is that of the folds."
        for protocol in protocols
        if protocol
    ]


def _mean_score(folds_of_seeds: Sequence[Mapping[str, Any]], name: str, metric: Metric) -> float:
    scores = [folds[name].get(metric.name) for folds in folds_of_seeds]
    return math.nan if None in scores else float(np.mean(scores))


def summarize(results: Sequence[Result]) -> tuple[list[MethodSummary], list[str]]:
    """Return a row for each method and run over the seeds that all have, and what had to be left out.

    What is made of other methods is left out where a seed lacks it that those have: there no mean is better than one.
    """
    results_by_method: dict[tuple[Path, str, str], list[Result]] = {}
    for result in results:
        results_by_method.setdefault((run_of(result), result.method, result.name), []).append(result)
    groups = sorted(results_by_method.items(), key=lambda item: (get_method(item[0][1]).order, item[0][2]))
    labels = _labels([group[0] for _, group in groups])
    seeds_of = [{result.seed for result in group} for _, group in groups]
    of_others = [get_method(method).of_others for (_, method, _), _ in groups]
    trained = [seeds for seeds, made in zip(seeds_of, of_others, strict=True) if not made]
    shared = set.intersection(*(trained or seeds_of))
    missing = [sorted(shared - seeds) for seeds in seeds_of]
    notes = [
        f"{label} is left out: there is none for seed {listed(list(map(str, seeds)))}."
        for label, seeds in zip(labels, missing, strict=True)
        if seeds
    ]
    complete = [not seeds for seeds in missing]
    groups, labels = list(compress(groups, complete)), list(compress(labels, complete))
    if not shared:
        seeds = "; ".join(
            f"{label}: {listed([str(result.seed) for result in group])}"
            for label, (_, group) in zip(labels, groups, strict=True)
        )
        raise DataError(
            f"no seed is common to all methods ({seeds}), so nothing was tested on the same images: train what "
            "lacks one with the `seeds` of the others"
        )
    kept_groups = [tuple(result for result in group if result.seed in shared) for _, group in groups]
    keys = np.concatenate([result.predictions.keys[result.predictions.key_order] for result in kept_groups[0]])
    images = np.unique(keys, return_inverse=True)[1]
    rows = [
        MethodSummary(label, key[0], results_of_row, images)
        for label, (key, _), results_of_row in zip(labels, groups, kept_groups, strict=True)
    ]
    notes += [
        f"{label}: seed {listed(left_out)} is left out, because not every method has it."
        for label, (_, group) in zip(labels, groups, strict=True)
        if (left_out := [str(result.seed) for result in group if result.seed not in shared])
    ]
    return rows, notes


def _labels(results: Sequence[Result]) -> list[str]:
    """Return what the methods of these results are called; the run is part of it where there are several."""
    runs = {run_of(result) for result in results}
    names = {run: run.name if len({run.name for run in runs}) == len(runs) else str(run) for run in runs}
    return [method_words(result) + (f" ({names[run_of(result)]})" if len(runs) > 1 else "") for result in results]


def method_words(result: Result) -> str:
    """Return what the method of a result is called in tables and sentences: ``RBF SVM``."""
    label = get_method(result.method).label(result.name)
    if result.settings.get("reinitialised"):
        label += ", re-initialised"
    if (kind := result.settings.get("test-time augmentation")) in TEST_TIME:
        label += f" + {TEST_TIME[kind][0]}"
    return label
