"""What follows from a comparison, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.evaluation.choice import Choice
from pipeline.evaluation.guessing import guessing_words
from pipeline.evaluation.method_summary import MethodSummary, PairedTest
from pipeline.evaluation.rare_classes import rare_class_words
from pipeline.text import capitalized, format_difference, format_score, percent

Outcome = Literal["pays", "does not pay", "inconclusive", "ranking", "single", "new data"]


@dataclass(frozen=True)
class Verdict:
    """What follows from a comparison, in words."""

    outcome: Outcome
    headline: str
    details: tuple[str, ...]
    chosen: MethodSummary
    """The method to take."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What nobody may overlook, of the details."""
        return tuple(detail for detail in self.details if detail.startswith("Warning: "))

    @property
    def explanations(self) -> tuple[str, ...]:
        """The other details."""
        return tuple(detail for detail in self.details if not detail.startswith("Warning: "))


def give_verdict(choice: Choice, reference: MethodSummary, tests: Sequence[PairedTest]) -> Verdict:
    """Say what follows of the choice, which saw no test image, and of the tests.

    Parameters
    ----------
    choice : Choice
    reference : MethodSummary
    tests : sequence of PairedTest
        Of every other method against the reference, and of `further_pairs`.
    """
    ranked, chosen = choice.ranked, choice.chosen
    by_pair = {(test.method, test.against): test for test in tests}
    tests_by_label = {test.method: test for test in tests if test.against == reference.label}
    warnings = [*guessing_words(chosen), *rare_class_words(chosen)]
    if len(ranked) == 1:
        name, images = capitalized(method_phrase(reference)), describe_test_images(reference)
        headline = f"{name} reaches {_reached(reference)} on {images}."
        details = [*warnings, "It is the only method here: there is nothing to compare it with."]
        return Verdict("single", headline, tuple(details), reference)
    tuned = next((row for row in ranked if row.method == "finetune"), None)
    if tuned is None or not reference.cached:
        outcome, headline = _ranking(choice, tests_by_label, reference)
        details = []
    else:
        candidates = sum(row.method == "finetune" for row in ranked)
        outcome, headline = _outcome(tuned, reference, tests_by_label[tuned.label], candidates)
        details = [f"Take {method_phrase(chosen)}."]
    details = [*warnings, *details]
    if reference.cached:
        details += [
            f"Without the cache, every image through the frozen network in every epoch, {row.label} reaches "
            f"{_score(row)} ({_evidence(tests_by_label[row.label], reference)}), "
            f"{_time(tests_by_label[row.label].time_ratio)}."
            for row in ranked
            if row.method == "uncached"
        ]
    details += [
        _pretraining_gain(row, with_all_weights, by_pair[with_all_weights.label, row.label])
        for row in ranked
        if (with_all_weights := _with_all_weights(row, ranked)) is not None
    ]
    details += _gain_of_columns(ranked, by_pair)
    details += [_made_of(row) for row in ranked if row.of_others]
    details += choice.words
    return Verdict(outcome, headline, tuple(details), chosen)


def further_pairs(ranked: Sequence[MethodSummary]) -> list[tuple[MethodSummary, MethodSummary]]:
    """Return what a verdict compares beside every method with the reference."""
    pairs = [
        (with_all_weights, row) for row in ranked if (with_all_weights := _with_all_weights(row, ranked)) is not None
    ]
    images, columns, both = _with_columns(ranked)
    if images is not None and columns is not None and both is not None:
        pairs += [(both, images), (both, columns)]
    return pairs


def _outcome(tuned: MethodSummary, reference: MethodSummary, test: PairedTest, candidates: int) -> tuple[Outcome, str]:
    """Say whether fine-tuning pays against the best method on cached features."""
    tuned_note = f" ({tuned.label}, of {candidates} the best by validation)" if candidates > 1 else ""
    scores_text = f"{_score(tuned)} against {_score(reference)} for {method_phrase(reference)}"
    evidence = f"({_evidence(test, reference)}), {_time(test.time_ratio)}."
    if not test.significant:
        chance = f"is within what chance gives with {describe_test_images(reference)}"
        possible = capitalized(_still_possible(test, reference))
        headline = f"Fine-tuning{tuned_note} is not shown to pay here: {scores_text} {chance} {evidence} {possible}."
        return "inconclusive", headline
    if test.ahead:
        return "pays", f"Fine-tuning{tuned_note} pays: {scores_text} {evidence}"
    return "does not pay", f"Fine-tuning{tuned_note} does not pay here: {scores_text} {evidence}"


def _with_all_weights(row: MethodSummary, ranked: Sequence[MethodSummary]) -> MethodSummary | None:
    """Return what a method without some or all pretrained weights is held against: fine-tuning with all of them.

    Of several, the one that is tested on the same renderings and trains the same layers, as far as there is one, then
    the best by validation; the best head where nothing is fine-tuned. None for what has all its pretrained weights.
    """
    if row.method != "scratch" and not row.reinitialized:
        return None
    pretrained = sorted(
        (candidate for candidate in ranked if candidate.method == "finetune" and not candidate.reinitialized),
        key=lambda other: (other.test_time != row.test_time, other.unfrozen != row.unfrozen),
    )
    return next(iter([*pretrained, *(candidate for candidate in ranked if candidate.cached)]), None)


def _pretraining_gain(row: MethodSummary, pretrained: MethodSummary, test: PairedTest) -> str:
    """Say what the pretrained weights that `row` does without were worth."""
    layers_note = " of the re-initialised layers" if row.reinitialized else ""
    chance = "" if test.significant else f", within what chance gives: {_still_possible(test, row)}"
    subject = "trained from scratch, the network" if row.method == "scratch" else row.label
    return (
        f"What the pretrained weights{layers_note} were worth: {_evidence(test, row)}{chance}. "
        f"{capitalized(method_phrase(pretrained))} reaches {_score(pretrained)}; {subject} reaches "
        f"{_score(row)}."
    )


def _with_columns(ranked: Sequence[MethodSummary]) -> list[MethodSummary | None]:
    """Return the best head on images alone, on columns alone, and on both, as far as there are any."""
    return [
        next((row for row in ranked if row.method in methods), None)
        for methods in (("linear", "head"), ("columns",), ("joined",))
    ]


def _gain_of_columns(ranked: Sequence[MethodSummary], by_pair: Mapping[tuple[str, str], PairedTest]) -> list[str]:
    """Say what images alone, columns alone and both reach, each by its best head; nothing where one is missing."""
    images, columns, both = _with_columns(ranked)
    if images is None or columns is None or both is None:
        return []
    gains = (
        f"the {added} add {_evidence(test, alone)}{'' if test.significant else ', within what chance gives'}"
        for added, alone in (("columns", images), ("images", columns))
        for test in [by_pair[both.label, alone.label]]
    )
    return [
        f"Images alone reach {_score(images)} ({images.label}), columns alone {_score(columns)} ({columns.label}), "
        f"both {_score(both)} ({both.label}): to the images {next(gains)}; to the columns {next(gains)}."
    ]


def _ranking(choice: Choice, tests_by_label: dict[str, PairedTest], reference: MethodSummary) -> tuple[Outcome, str]:
    """Say what the method to take reaches, and whether the test split tells it from the next."""
    chosen, ranked = choice.chosen, choice.ranked
    if chosen is reference:
        compared = next(row for row in ranked if row is not chosen)
        test = tests_by_label[compared.label]
    else:  # it is not a method on cached features, and the reference is the best of those
        compared, test = reference, tests_by_label[chosen.label]
    beside = f"{capitalized(method_phrase(compared))} reaches {_score(compared)}"
    relation, possible = "more than what chance gives", ""
    if not test.significant:
        relation, possible = "within what chance gives", f" {capitalized(_still_possible(test, reference))}."
    ranked_by = f"{'out-of-fold' if choice.cross_validated else 'validation'} {chosen.metric.label}"
    first = (
        f"{ranked_by} ranks {method_phrase(chosen)} first"
        if chosen is ranked[0]
        else f"take {method_phrase(chosen)}, which {ranked_by} does not tell from the best"
    )
    return "ranking", (
        f"Of {len(ranked)} methods, {first}. It reaches {_reached(chosen)} on {describe_test_images(chosen)}. "
        f"{beside}. The difference is {relation} ({_evidence(test, reference)}).{possible}"
    )


def _evidence(test: PairedTest, reference: MethodSummary) -> str:
    seeds, shares = len(reference.seeds), reference.metric.as_percent
    difference, low, high = (
        format_difference(value, as_percent=shares) for value in (test.difference, *test.difference_ci95)
    )
    ahead = f", ahead in {test.seeds_ahead} of {seeds} seeds" if seeds > 1 else ""
    groups = "" if test.groups is None else f" over {test.groups:,} groups"
    adjusted = f", of {test.comparisons} comparisons {_p_value(test.p_holm)} by Holm" if test.comparisons > 1 else ""
    interval = "no interval, as every resample scores the same" if low == high else f"95 % interval {low} to {high}"
    p_value = f"{test.test} {_p_value(test.p_value)}{groups}{adjusted}"
    return f"{difference}{' points' if shares else ''}, {interval}, {p_value}{ahead}"


def _p_value(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def _still_possible(test: PairedTest, reference: MethodSummary) -> str:
    """Say how large a difference that is not told from chance may be."""
    shares = reference.metric.as_percent
    most = max(abs(end) for end in test.difference_ci95)
    size = format_difference(most, as_percent=shares).lstrip("+")
    return f"up to {size}{' points' if shares else ''} either way remain possible"


def _score(row: MethodSummary) -> str:
    return format_score(row.score, as_percent=row.metric.as_percent)


def _reached(row: MethodSummary) -> str:
    low, high = (format_score(end, as_percent=row.metric.as_percent) for end in row.ci95)
    groups = "" if row.interval.groups is None else f", over {row.interval.groups:,} groups"
    return f"{_score(row)} (95 % interval {low} to {high}{groups})"


def describe_test_images(row: MethodSummary) -> str:
    """Return how many images, or samples of several, are tested, in words."""
    seeds = f" under {len(row.seeds)} seeds" if len(row.seeds) > 1 else ""
    return f"{len(np.unique(row.images)):,} test {row.unit}s{seeds}"


def _time(ratio: float) -> str:
    if ratio >= 1.2:
        return f"at {ratio:,.{0 if ratio >= 9.95 else 1}f} times the time"
    return "in about the same time" if ratio > 0.8 else f"in {percent(ratio, digits=0)} of the time"


def _made_of(row: MethodSummary) -> str:
    """Say which heads an ensemble is made of, and how much each counts, under every seed."""
    several = len(row.results) > 1
    members = "; ".join(
        f"{result.settings['members']}{f' (seed {result.seed})' if several else ''}" for result in row.results
    )
    settings = row.results[0].settings
    made = "is a linear model on what heads say" if "stacked by" in settings else "averages heads"
    if "networks" in settings:
        made = f"averages what is said on {settings['networks']}, by {settings['weights by']}"
    return f"{capitalized(method_phrase(row))} {made}: {members}."


def method_phrase(row: MethodSummary) -> str:
    """Return what a method is called within a sentence: ``the logistic head``."""
    if row.of_others:
        return f"the {row.label}"
    return f"the {row.label} head" if row.cached else row.label
