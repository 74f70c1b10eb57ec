"""Which method to take, without a look at any test image.

Heads are ranked by their predictions for samples that they were not fitted to, out of folds that are the same for all.
Of those that these samples do not tell apart from the best the cheapest is taken. What trains on images is not
cross-validated, which would take as many times as long: it has to show on the validation split that it is better than
that head.

Where a search (`best`) trained all of them, what training takes is no reason: it has been paid for the answer. The best
is taken then, of those that cost no more than the search allows (`max_predict_ms`), and of equals the one that it tried
first, so that a replay takes the same. The best of many scores is in part luck, which is taken off before it is
compared with that of an ensemble: the weights of that one were found within the folds, so its score has no such part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cache.errors import listed
from pipeline.evaluation.method_summary import MethodSummary, Scored
from pipeline.evaluation.trials import SearchSummary, read_search, read_trials
from pipeline.text import capitalized, format_difference, format_error, format_score
from stages.tasks.base import Metric
from stages.tasks.paired import compare
from stages.tasks.standard_error import standard_error
from stages.tasks.statistics import Difference, score_of_choosing
from stages.tasks.units import Units

FEW = 100
"""Samples below which a ranking by them is little more than chance, which is said."""

PREDICTION_ALIKE, TRAINING_ALIKE = 1.5, 2.0
"""Ratios up to which measured times are called the same: below, another run on the same machine may turn them round."""


@dataclass(frozen=True)
class Contest:
    """What trains on images against the head that was chosen, on the validation split.

    Attributes
    ----------
    row : MethodSummary
    difference : Difference, optional
        Of the metric, the head's taken off; None where the predictions for the validation split were not kept.
    won : bool
        Whether it is shown to be better.
    """

    row: MethodSummary
    difference: Difference | None
    won: bool


@dataclass(frozen=True)
class Choice:
    """The method to take, and how that was found.

    Attributes
    ----------
    chosen : MethodSummary
    head : MethodSummary, optional
        The head to take; None where there is none among the methods.
    tied : tuple of MethodSummary
        Those that the samples do not tell apart from the best, with the best; the chosen head is one of them.
    ranked : tuple of MethodSummary
        All methods from the best estimate down.
    contests : tuple of Contest
    cross_validated : bool
        Whether heads are ranked out of folds, and not on the validation split.
    words : tuple of str
        Sentences that say it.
    expected : float, optional
        What the best single head of a search is expected to score, the luck of the best taken off; None where no search
        trained them, or there are fewer than two.
    """

    chosen: MethodSummary
    head: MethodSummary | None
    tied: tuple[MethodSummary, ...]
    ranked: tuple[MethodSummary, ...]
    contests: tuple[Contest, ...]
    cross_validated: bool
    words: tuple[str, ...]
    expected: float | None = None


def choose(rows: Sequence[MethodSummary]) -> Choice:
    """Return the method to take of some that were trained on the same samples.

    Parameters
    ----------
    rows : sequence of MethodSummary
        At least one.
    """
    search = _search_of(rows)
    most = math.inf if search is None or search.max_predict_ms is None else search.max_predict_ms / 1000
    affordable = [row for row in rows if row.prediction_seconds <= most]
    allowed = affordable or [min(rows, key=lambda row: row.prediction_seconds)]
    heads = [row for row in allowed if row.is_head]
    dearness = _dearness(rows, search)
    ranking = _Ranking.of(heads or allowed, dearness)
    tied = ranking.tied
    found = None if search is None else _found_by_search(ranking)
    best = _cheapest(tied, ranking) if found is None else found.row
    contests = tuple(_contest(row, best) for row in allowed if heads and not row.is_head)
    won = [contest for contest in contests if contest.won]
    chosen = max(won, key=lambda contest: ranking.sign * contest.row.val_score).row if won else best
    of_all = ranking
    if len(allowed) < len(rows):
        of_all = _Ranking.of([row for row in rows if row.is_head == best.is_head], dearness)
    estimates = {id(row): of_all.scores[number] for number, row in enumerate(of_all.rows)}
    anchor = estimates[id(best)] - best.val_score
    estimates = {id(row): anchor + row.val_score for row in rows} | estimates
    ranked = sorted(rows, key=lambda row: (-ranking.sign * estimates[id(row)], dearness(row)))
    words = [
        *_ranking_words(of_all, ranked, len(rows)),
        *_cost_words([row for row in rows if row.prediction_seconds > most], most, affordable=bool(affordable)),
        *_tie_words(ranking, tied, best, found),
        *_contest_words(contests, best),
        *_warning(ranking, contests),
    ]
    return Choice(
        chosen,
        best if heads else None,
        tuple(tied),
        tuple(ranked),
        contests,
        ranking.cross_validated,
        tuple(words),
        None if found is None else found.expected,
    )


@dataclass(frozen=True)
class _Ranking:
    """Methods with what they are ranked by.

    Attributes
    ----------
    rows : list of MethodSummary
    scores : list of float
    samples : list of Scored, optional
        What the scores are of; None where predictions were not kept, or are not about the same samples.
    cross_validated : bool
    dearness : callable
        What decides between methods of the same score: the less, the better.
    """

    rows: list[MethodSummary]
    scores: list[float]
    samples: list[Scored] | None
    cross_validated: bool
    dearness: Callable[[MethodSummary], float]

    @classmethod
    def of(cls, rows: list[MethodSummary], dearness: Callable[[MethodSummary], float]) -> _Ranking:
        """Rank out of folds where every method has been folded in the same way, else on the validation split."""
        folded = _alike([row.out_of_fold for row in rows])
        if folded is not None:
            return cls(rows, [row.cv.mean for row in rows if row.cv is not None], folded, True, dearness)
        samples = _alike([row.validation for row in rows])
        return cls(rows, [row.val_score for row in rows], samples, False, dearness)

    @property
    def metric(self) -> Metric:
        return self.rows[0].metric

    @property
    def sign(self) -> int:
        return 1 if self.metric.higher_is_better else -1

    @property
    def order(self) -> list[int]:
        """The numbers of the methods from the best down."""
        return sorted(
            range(len(self.rows)), key=lambda row: (-self.sign * self.scores[row], self.dearness(self.rows[row]))
        )

    @property
    def best(self) -> int:
        """The number of the best method."""
        return self.order[0]

    @property
    def tied(self) -> list[MethodSummary]:
        """The best method, and those that are within one standard error of the paired difference from it."""
        return [row for number, row in enumerate(self.rows) if self._is_tied(number)]

    def _is_tied(self, number: int) -> bool:
        if number == self.best or self.samples is None:
            return number == self.best
        behind = self.sign * (self.scores[self.best] - self.scores[number])
        # of two methods that differ in one sample, the difference is its standard error to the last digit
        return behind == 0 or behind <= self.error(number) * (1 + 1e-9)

    def error(self, number: int) -> float:
        """Return the standard error of the difference of a method from the best; nan where it is not known."""
        if self.samples is None:
            return math.nan
        best, other = self.samples[self.best], self.samples[number]
        return standard_error(self.metric, best.statistics, best.units, against=other.statistics)


def _alike(samples: list[Scored | None]) -> list[Scored] | None:
    """Return the predictions of all methods where these have kept them, and of the same samples; else None."""
    known = [scored for scored in samples if scored is not None]
    return known if len(known) == len(samples) and all(known[0].is_about(scored) for scored in known) else None


def _search_of(rows: Sequence[MethodSummary]) -> SearchSummary | None:
    """Return the search that trained the methods, where one did: all are of one run."""
    runs = {row.run for row in rows}
    return read_search(runs.pop()) if len(runs) == 1 else None


def _dearness(rows: Sequence[MethodSummary], search: SearchSummary | None) -> Callable[[MethodSummary], float]:
    """Return what decides between methods of the same score: the time they took, or, in a search, when they were tried.

    A search goes from cheap to dear by no clock; a clock would have its replay take another of the equals.
    """
    if search is None:
        return lambda row: row.seconds
    tried = {record.name: float(record.number) for record in read_trials(rows[0].run)}
    return lambda row: tried.get(row.name, math.inf)


def _cheapest(tied: Sequence[MethodSummary], ranking: _Ranking) -> MethodSummary:
    """Return what predicts quickest, of those that do so alike what trains quickest, and of these the best."""
    quickest = min(row.prediction_seconds for row in tied)
    cheap = [row for row in tied if row.prediction_seconds <= PREDICTION_ALIKE * quickest]
    quickest = min(row.seconds_by_stage["train"] for row in cheap)
    cheap = [row for row in cheap if row.seconds_by_stage["train"] <= TRAINING_ALIKE * quickest]
    scores = {id(row): score for row, score in zip(ranking.rows, ranking.scores, strict=True)}
    return max(cheap, key=lambda row: ranking.sign * scores[id(row)])


@dataclass(frozen=True)
class _Found:
    """What a search takes, where training is paid for, and what a prediction may cost was asked.

    Attributes
    ----------
    row : MethodSummary
    single : MethodSummary
        The best that is no ensemble.
    expected : float, optional
        What that one is expected to score on other samples; None where there is but one, or predictions are not known.
    ensemble : MethodSummary, optional
        The best that is one.
    """

    row: MethodSummary
    single: MethodSummary
    expected: float | None
    ensemble: MethodSummary | None


def _found_by_search(ranking: _Ranking) -> _Found:
    """Take the best; an ensemble also where its score is that which the best single head is expected to have."""
    sign, scores = ranking.sign, ranking.scores
    numbers = ranking.order
    singles = [number for number in numbers if not ranking.rows[number].of_others]
    ensembles = [number for number in numbers if ranking.rows[number].of_others]
    best = ranking.rows[numbers[0]]
    if len(singles) < 2 or ranking.samples is None or not ranking.cross_validated:
        return _Found(best, ranking.rows[singles[0]] if singles else best, None, None)
    first = ranking.samples[singles[0]]
    expected = score_of_choosing(
        ranking.metric,
        [ranking.samples[number].statistics for number in singles],
        Units.of(len(first.units), first.units),
    )
    single, ensemble = ranking.rows[singles[0]], ranking.rows[ensembles[0]] if ensembles else None
    if ensemble is None:
        return _Found(single, single, expected, None)
    return _Found(ensemble if sign * scores[ensembles[0]] >= sign * expected else single, single, expected, ensemble)


def _contest(row: MethodSummary, head: MethodSummary) -> Contest:
    """Compare a method with the chosen head on the validation split."""
    metric = row.metric
    own, of_head = row.validation, head.validation
    if own is None or of_head is None or not own.is_about(of_head):
        ahead = row.val_score - head.val_score
        return Contest(row, None, ahead > 0 if metric.higher_is_better else ahead < 0)
    difference = compare(metric, own.statistics, of_head.statistics, own.units).difference
    return Contest(row, difference, difference.low > 0 if metric.higher_is_better else difference.high < 0)


def _ranking_words(ranking: _Ranking, ranked: Sequence[MethodSummary], count: int) -> list[str]:
    metric = ranking.metric
    scores = {id(row): score for row, score in zip(ranking.rows, ranking.scores, strict=True)}
    order = ", ".join(
        f"{row.label} {format_score(scores.get(id(row), row.val_score), as_percent=metric.as_percent)}"
        for row in ranked
        if id(row) in scores or not ranking.cross_validated
    )
    if count == 1:
        return []
    # in outer folds each sample is tested once, and is among those that the methods are ranked by
    in_folds = "tested" in ranking.rows[0].results[0].test
    tests = "predictions that test them" if in_folds else f"test {ranking.rows[0].unit}s"
    never_by = f"never by the {tests}"
    if not ranking.cross_validated:
        unknown = "" if ranking.samples is not None else "; predictions for these were not kept, so ties are not known"
        return [f"Methods are ranked by validation {metric.label}, {never_by}{unknown}: {order}."]
    cv = ranking.rows[0].cv
    assert cv is not None
    repeats = f", {cv.repeats} times over" if cv.repeats > 1 else ""
    return [
        f"Heads are ranked by {metric.label} on train and validation out of {cv.folds} folds{repeats}, the same for "
        f"all, {never_by}. They reach {order}."
    ]


def _cost_words(dear: Sequence[MethodSummary], most: float, *, affordable: bool) -> list[str]:
    """Say what costs more to predict with than a search allows, and so is not taken."""
    if not dear:
        return []
    costs = listed([f"{row.label} ({1000 * row.prediction_seconds:,.3g} ms)" for row in dear])
    if affordable:
        return [f"Above the {1000 * most:g} ms that an image may cost to predict, and so not taken: {costs}."]
    return [f"Warning: no method predicts an image within {1000 * most:g} ms ({costs}): the quickest is taken."]


def _tie_words(
    ranking: _Ranking, tied: Sequence[MethodSummary], best: MethodSummary, found: _Found | None
) -> list[str]:
    if found is not None:
        return _search_words(ranking, tied, found)
    if len(tied) < 2:
        return []
    others, cheaper = listed([row.label for row in tied]), "cheaper to predict with or to train"
    taken = (
        f"{best.label} is taken, as no other is clearly {cheaper}"
        if best is ranking.rows[ranking.best]
        else f"{best.label}, which is {cheaper}, is taken"
    )
    return [f"Within one standard error of the paired difference from the best are {others}. {capitalized(taken)}."]


def _search_words(ranking: _Ranking, tied: Sequence[MethodSummary], found: _Found) -> list[str]:
    """Say what of the best score is luck, and what is taken of those that are not told apart."""
    metric, best, words = ranking.metric, ranking.rows[ranking.best], []
    if found.expected is not None:
        expected = format_score(found.expected, as_percent=metric.as_percent)
        singles = sum(not row.of_others for row in ranking.rows)
        luck = (
            f"That {found.single.label} is the best of {singles} heads is in part luck. Chosen by a part of the "
            f"{found.single.unit}s and scored on the rest, the best comes to {expected}"
        )
        if found.ensemble is not None:
            luck += (
                f". {capitalized(found.ensemble.label)}, weighed within the folds, "
                f"{'has no less, and is taken' if found.row is found.ensemble else 'has less'}"
            )
        words.append(f"{luck}.")
    if len(tied) > 1:
        taken = f"{found.row.label}, the best, is taken" if found.row is best else f"{found.row.label} is taken"
        others = listed([row.label for row in tied])
        words.append(
            f"Within one standard error of the paired difference from the best are {others}. {capitalized(taken)}. "
            "What a prediction may cost says `max_predict_ms`."
        )
    return words


def _contest_words(contests: Sequence[Contest], head: MethodSummary) -> list[str]:
    words = []
    for contest in contests:
        if contest.difference is None:
            continue
        scored, metric = contest.row.validation, head.metric
        assert scored is not None
        value, low, high = (format_difference(end, as_percent=metric.as_percent) for end in contest.difference)
        images = len(np.unique(scored.samples))
        epoch = "the best epoch of what is tuned in it" if contest.row.of_others else "its best epoch"
        words.append(
            f"{capitalized(contest.row.label)} is not cross-validated: on the {images:,} validation {head.unit}s it is "
            f"{value}{' points' if metric.as_percent else ''} from {head.label} (95 % interval {low} to {high}), "
            f"{'and so it is taken' if contest.won else 'which does not show it to be better'}; {epoch} was "
            f"chosen on these {head.unit}s, which flatters it."
        )
    return words


def _warning(ranking: _Ranking, contests: Sequence[Contest]) -> list[str]:
    """Say where there are too few samples to rank by, and what difference they would show."""
    if len(ranking.rows) + len(contests) < 2:
        return []
    samples, metric = ranking.rows[0].results[0].samples, ranking.metric
    errors = [ranking.error(number) for number in range(len(ranking.rows)) if number != ranking.best]
    of_heads = [2 * error for error in errors if error > 0]
    won_by = [contest.difference for contest in contests if contest.difference is not None]
    of_contests = [(difference.high - difference.low) / 2 for difference in won_by]
    if ranking.cross_validated:
        compared = [("training and validation", samples["train"] + samples["val"], of_heads)]
    else:
        compared = [("validation", samples["val"], [*of_heads, *of_contests])]
    if ranking.cross_validated and contests:
        compared.append(("validation", samples["val"], of_contests))
    warnings = []
    for name, count, shown in compared:
        if count < FEW:
            # one sample says nothing of how far others differ, and methods that answer alike nothing of what is chance
            shown = [half for half in shown if half > 0 and count > 1]
            least = format_error(max(shown), as_percent=metric.as_percent) if shown else ""
            unit = " points" if metric.as_percent else ""
            told = f": differences of less than {least}{unit} cannot be told from chance" if shown else ""
            warnings.append(f"Warning: {count} {name} {ranking.rows[0].unit}s can hardly rank methods{told}.")
    return warnings
