"""Whether a method beats the best answer that is the same for every image."""

from __future__ import annotations

import math

import numpy as np

from pipeline.evaluation.method_summary import SIGNIFICANT, MethodSummary
from pipeline.evaluation.results import Result
from pipeline.text import format_difference, format_score
from stages.tasks.base import Statistics
from stages.tasks.paired import Compared, compare

RESAMPLES = 2_000


def guessing_words(row: MethodSummary) -> list[str]:
    """Warn where a method is not shown to be better than guessing; nothing where it is, or guessing has no score."""
    guess = _best_guess(row)
    if guess is None:
        return []
    metric, units = row.metric, row.units
    compared = compare(
        metric,
        row.statistics,
        guess,
        units,
        resamples=RESAMPLES,
        widened=1.0 if units is None else row.widening(units),
    )
    if _is_better(row, compared):
        return []
    score = format_score(metric.score(guess), as_percent=metric.as_percent)
    value, low, high = (format_difference(end, as_percent=metric.as_percent) for end in compared.difference)
    return [
        f"Warning: {row.label} is not shown to beat guessing. The best answer that is the same for every {row.unit} "
        f"reaches {score} {metric.label}: {row.label} is {value}{' points' if metric.as_percent else ''} from that "
        f"(95 % interval {low} to {high})."
    ]


def _is_better(row: MethodSummary, compared: Compared) -> bool:
    value = compared.difference.value
    ahead = value > 0 if row.metric.higher_is_better else value < 0
    return ahead and compared.p_value < SIGNIFICANT


def _best_guess(row: MethodSummary) -> Statistics | None:
    """Return the statistics of the best answer, in the order of the row's; None where none has a score."""
    of_seeds = [
        row.task.guesses(_known(result), result.predictions.statistics[result.predictions.key_order])
        for result in row.results
    ]
    guesses = [np.concatenate(parts) for parts in zip(*of_seeds, strict=True)]
    sign = 1 if row.metric.higher_is_better else -1
    scored = [(sign * row.metric.score(guess), guess) for guess in guesses]
    defined = [(score, guess) for score, guess in scored if not math.isnan(score)]
    return max(defined, key=lambda pair: pair[0])[1] if defined else None


def _known(result: Result) -> Statistics:
    """Return statistics of samples that were trained on, as far as they were kept, else of those that are tested."""
    if result.directory is not None:
        for kept in (result.out_of_fold, result.validation_predictions):
            if kept is not None:
                return kept.statistics
    return result.predictions.statistics
