"""What was tried, and what more minutes might bring, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cache.errors import listed
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.trials import TrialRecord
from pipeline.experiment.best.budget import Budget
from pipeline.experiment.best.search import Ended, Search
from pipeline.text import duration, format_difference, format_score
from stages.tasks.base import Metric

_RECENT = 1 / 2
"""The last part of the time whose gain is told."""


def tried_words(search: Search, comparison: Comparison) -> list[str]:
    """Return what was tried and what is taken, in sentences."""
    finished = search.finished
    failed = [record for record in search.records if record.state == "failed"]
    seconds = max((record.at for record in search.records), default=0.0)
    trials = f"{len(finished)} trial{'s' * (len(finished) != 1)}"
    words = [f"{trials} in {duration(seconds)} of search: {listed([record.label for record in finished], 40)}."]
    if failed:
        words.append(f"Failed: {'; '.join(f'{record.label} ({record.reason})' for record in failed)}.")
    chosen = comparison.choice.chosen
    folder = chosen.results[0].directory
    score = chosen.val_score if chosen.cv is None else chosen.cv.mean
    by = "on validation" if chosen.cv is None else "out of folds"
    expected = None if chosen.cv is None or chosen.of_others else comparison.choice.expected
    if expected is not None:
        luck = "the luck of the best of them taken off"
        by += f" ({format_score(expected, as_percent=search.metric.as_percent)} with {luck})"
    called = "" if folder is None else f" (`method` {folder.name})"
    words.append(
        f"Taken: {chosen.label}, {format_score(score, as_percent=search.metric.as_percent)} {by}, "
        f"{1000 * chosen.prediction_seconds:.3g} ms an image{called}."
    )
    if len(finished) == 1:
        words.append("There is no ensemble of one head: the next trial makes one of two.")
    return words


def outlook_words(search: Search, budget: Budget, ended: Ended) -> list[str]:
    """Return what more minutes might bring, in sentences: what the last ones brought, and what would come next."""
    metric = search.metric
    curve = answers_over_time(search.records, metric)
    words = [_gain_words(curve, metric)] if len(curve) > 1 else []
    if ended.upcoming:
        following = [f"{trial.what} (about {duration(seconds)})" for trial, seconds in ended.upcoming]
        total = sum(seconds for _, seconds in ended.upcoming)
        goes_on = "the same command goes on from here"
        if math.isfinite(budget.seconds):
            # the budget counts what comes before, too; rounded down it would not suffice
            for_next, for_all = (duration(math.ceil(ended.resuming + part)) for part in (ended.upcoming[0][1], total))
            goes_on += f", with a `budget` of {for_next} for the next or {for_all} for these"
        words.append(f"More minutes would try {'; then '.join(following)}: {goes_on}.")
    elif ended.interrupted:
        words.append("It was stopped; the same command goes on from here.")
    else:
        words.append("All there is to try has been tried: more minutes bring nothing more, and more labels might.")
    if search.evidence is not None and not search.evidence.could_win:
        words.append(f"Fine-tuning is not tried: {search.evidence.words}.")
    return words


def answers_over_time(records: Sequence[TrialRecord], metric: Metric) -> list[tuple[float, float]]:
    """Return the score out of folds of what would have been taken, against seconds of search.

    Of records that do not say it, of a version before, it is the best score of a trial so far.
    """
    ended = sorted(records, key=lambda record: record.at)
    points = [(record.at, record.answer) for record in ended if record.answer is not None]
    if points:
        return points
    sign = 1 if metric.higher_is_better else -1
    best: list[tuple[float, float]] = []
    for record in ended:
        if record.score is not None and record.scored == "folds":
            best.append((record.at, max([record.score, *(score for _, score in best[-1:])], key=lambda x: sign * x)))
    return best


def _gain_words(curve: Sequence[tuple[float, float]], metric: Metric) -> str:
    """Say what the last half of the time brought."""
    end, best = curve[-1]
    begun = [score for at, score in curve if at <= (1 - _RECENT) * end] or [curve[0][1]]
    gain = best - begun[-1]
    if gain == 0:
        return "The last half of the time brought nothing to the score, out of folds, of what is taken."
    unit = " points" if metric.as_percent else ""
    return (
        f"The last half of the time brought {format_difference(gain, as_percent=metric.as_percent)}{unit} to the "
        "score, out of folds, of what is taken."
    )
