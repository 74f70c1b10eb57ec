"""What a comparison comes to in one line: what to take, what it reaches, and how many others are as good."""

from __future__ import annotations

from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.method_summary import MethodSummary
from pipeline.evaluation.verdict import method_phrase
from pipeline.text import capitalized, format_score

_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def chosen_method(comparison: Comparison) -> MethodSummary:
    """Return the method that the page says to take; it was chosen without a look at a test image."""
    return comparison.choice.chosen


def one_line(comparison: Comparison) -> str:
    """Return the verdict in one line.

    The method was chosen without the test images; these say what it reaches, and which others they do not tell from it.
    """
    chosen = chosen_method(comparison)
    score = format_score(chosen.score, as_percent=chosen.metric.as_percent)
    named = "" if chosen.metric.as_percent and chosen.metric.name == "accuracy" else f"{chosen.metric.label} "
    if comparison.verdict.outcome == "new data":  # by which nothing is chosen
        return f"{capitalized(method_phrase(chosen))} reaches {named}{score} on the new data"
    if len(comparison.rows) == 1:
        return f"{capitalized(method_phrase(chosen))} reaches {named}{score}; it is the only method"
    return f"Take {method_phrase(chosen)}: {named}{score}; {_beside(comparison, chosen)}"


def _beside(comparison: Comparison, chosen: MethodSummary) -> str:
    """Say how the others stand beside the chosen method on the test images."""
    reference = comparison.reference
    if chosen is not reference:  # what trains on images was chosen: it alone is tested against the best head
        test = comparison.test_of(chosen)
        assert test is not None
        if not test.significant:
            return f"{method_phrase(reference)} is not told apart from it"
        return f"it is {'ahead of' if test.ahead else 'behind'} {method_phrase(reference)} on the test {chosen.unit}s"
    alike = sum(not test.significant for test in comparison.tests)
    better = [test.method for test in comparison.tests if test.significant and test.ahead]
    words = [f"{_count(alike, len(comparison.tests))} not told apart from it"] if alike else []
    words += [f"{' and '.join(better)} scored more on the test {chosen.unit}s"] if better else []
    return ", ".join(words) or f"{'the other is' if len(comparison.tests) == 1 else 'all others are'} behind it"


def _count(alike: int, others: int) -> str:
    if alike == others:
        return {1: "the other is", 2: "both others are"}.get(others, f"all {_number(others)} others are")
    return f"{_number(alike)} other is" if alike == 1 else f"{_number(alike)} others are"


def _number(count: int) -> str:
    return _WORDS[count] if count < len(_WORDS) else f"{count:,}"
