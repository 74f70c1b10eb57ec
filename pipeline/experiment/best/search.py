"""The loop over the trials of a search, and what they know of each other.

A search is stopped between two trials by its budget, or anywhere by Ctrl-C: what is finished has been written by then,
and the answer is renewed after every trial. The same command goes on: it walks through the same trials again, finds
those that are finished, and runs the next.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, get_args

from cache.errors import CacheError, CacheInputError, CutonceError
from pipeline.evaluation.comparison import method_words
from pipeline.evaluation.results import Result
from pipeline.evaluation.trials import TrialRecord, read_trials, write_trials
from pipeline.experiment.best.budget import Budget
from pipeline.experiment.best.fine_tuning import Evidence
from pipeline.experiment.best.look import Look, SearchedData
from pipeline.experiment.best.order import all_trials, choosing_head, searched_heads
from pipeline.experiment.best.trial import HeadTrial, Trial, rank_settings
from pipeline.run_layout import (
    HEAD_WITHOUT_VAL,
    MODEL_CARD,
    MODEL_FILES,
    OUT_OF_FOLD,
    PREDICTIONS,
    RESULT,
    VALIDATION,
)
from pipeline.text import duration, format_score
from stages.config.features import FeatureConfig
from stages.config.head_registry import HeadKind, find_head
from stages.config.heads import DepthSet
from stages.extraction.extract import ImagesChangedError
from stages.fitting.folds import repeats
from stages.fitting.halving import DepthSetting, ranked_settings
from stages.fitting.span import landmarks_of
from stages.network.heads.registry import begins_linear
from stages.runtime.memory import MemoryShortError, shortage_told
from stages.tasks.base import Metric, find_metric

_LOG = logging.getLogger("cutonce")

SHOWN_NEXT = 4
"""Trials that would come next which are told."""


WIDE_ROW = 4096
"""Numbers of a row from which on an epoch of a torch head takes in proportion to them."""

MOST_OF_A_HEAD = 2
"""Trials of one head, on depths that served it, that are tried on another look."""


_FOR_THE_DISK, _FOR_MEMORY, _FOR_IMAGES = "for the disk", "for memory", "for images"
"""What the record of a trial says that had no room on the disk, or in memory, or lacked images that had been there: it
is tried again."""


class EnsembleMade(NamedTuple):
    """When the ensemble was made last, in seconds of the command, what that took, and whether heads came since."""

    at: float
    seconds: float
    is_due: bool = False


@dataclass
class Search:
    """What the trials of a search share and know of each other.

    Attributes
    ----------
    run : Path
    about : SearchedData
    main : Look
        What the search begins with.
    may_fine_tune : bool
    results : dict of str to Result
        Of the trials that are finished, by their names, in their order.
    records : list of TrialRecord
        Of all trials so far, those of earlier commands included.
    earlier : float
        Seconds of search that earlier commands took.
    extracted : float
        Seconds that this command took for features of all images.
    """

    run: Path
    about: SearchedData
    main: Look
    may_fine_tune: bool = True
    results: dict[str, Result] = field(default_factory=dict)
    records: list[TrialRecord] = field(default_factory=list)
    earlier: float = 0.0
    extracted: float = 0.0
    rankings: dict[str, list[DepthSetting]] = field(default_factory=dict)
    """Settings of depths on the first look from the best down, by head."""
    settings_taken: dict[str, tuple[DepthSetting, ...]] = field(default_factory=dict)
    """The settings that a trial was searched over, by its name."""
    evidence: Evidence | None = None
    """Whether fine-tuning could win, once that was weighed."""
    looks_ahead: bool = False
    """Whether trials are told and not run: then nothing is loaded for their estimates."""
    ensemble: EnsembleMade | None = None
    """The ensemble as it was made last."""
    would_run: Callable[[Trial], bool] = lambda _: True
    """Whether the trial that comes next would be run."""
    _looks: dict[str, Look] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Path, about: SearchedData, main: Look, *, may_fine_tune: bool = True) -> Search:
        """Return a search with what earlier commands left of it in the run."""
        search = cls(run, about, main, may_fine_tune)
        search.records = read_trials(run)
        search.earlier = max((record.at for record in search.records), default=0.0)
        for record in search.records:
            search.remember(record)
        return search

    @property
    def finished(self) -> list[TrialRecord]:
        """The records of the trials that are finished, the extraction left out."""
        return [record for record in self.records if record.number and record.state == "finished"]

    @property
    def metric(self) -> Metric:
        """What trials are ranked by."""
        return find_metric(self.about.manifest.task)

    def heads(self, *, in_epochs: bool) -> list[HeadKind]:
        """Return the heads that are searched."""
        return searched_heads(self, in_epochs=in_epochs)

    def look(self, name: str, options: FeatureConfig) -> Look:
        """Return a look by its name, made when it is first asked for."""
        if name not in self._looks:
            self._looks[name] = Look(name, options, self.about)
        return self._looks[name]

    def score_of(self, result: Result) -> float:
        """Return what a trial is ranked by: out of folds, or on the validation split where nothing was folded."""
        return float(result.cv["mean"]) if result.cv is not None else result.val[self.metric.name]

    def is_better(self, score: float, than: float | None) -> bool:
        """Return whether a score is better than another, or there is none."""
        sign = 1 if self.metric.higher_is_better else -1
        return than is None or sign * score > sign * than

    @property
    def best_name(self) -> str | None:
        """The name of the trial with the best score so far, of equals the first; out of folds, where any has that."""
        folded = {name: result for name, result in self.results.items() if result.cv is not None}
        best: str | None = None
        for name, result in (folded or self.results).items():
            if self.is_better(self.score_of(result), None if best is None else self.score_of(self.results[best])):
                best = name
        return best

    @property
    def best_score(self) -> float | None:
        """The best score so far."""
        return None if self.best_name is None else self.score_of(self.results[self.best_name])

    @property
    def best_error(self) -> float:
        """The standard error of the best score; nan where it is not known."""
        cv = None if self.best_name is None else self.results[self.best_name].cv
        error = None if cv is None else cv.get("standard_error")
        return math.nan if error is None else float(error)

    def best_trials(self, look: str, count: int) -> list[tuple[str, float, tuple[DepthSetting, ...]]]:
        """Return the heads on a look whose trials score best, with the score and the depths of each.

        At most `MOST_OF_A_HEAD` of one head, each on other depths.
        """
        sign = 1 if self.metric.higher_is_better else -1
        found = [
            (str(record.details["head"]), record.score, self._setting_of(record))
            for record in self.finished
            if record.name in self.results and record.details.get("look") == look and record.score is not None
        ]
        taken: list[tuple[str, float, tuple[DepthSetting, ...]]] = []
        for head, score, settings in sorted(found, key=lambda trial: -sign * trial[1]):
            of_head = [known for known, _, _ in taken if known == head]
            if len(of_head) < MOST_OF_A_HEAD and all((head, settings) != (known, other) for known, _, other in taken):
                taken.append((head, score, settings))
        return taken[:count]

    def _setting_of(self, record: TrialRecord) -> tuple[DepthSetting, ...]:
        """Return the one setting that a trial came to, of those it was searched over; none of rows without depths."""
        ranked = ranked_settings(self.results[record.name].selection)
        return tuple(ranked[:1]) if ranked else self.settings_taken.get(record.name, ())

    @property
    def divisions(self) -> int:
        """How often images are divided into folds, in each of which every head is trained: several times of few."""
        return repeats(self.learned_from)

    @property
    def learned_from(self) -> int:
        """How many samples heads are fitted to in the end: those of train and of validation."""
        manifest = self.about.manifest
        return len(manifest.indices("train")) + len(manifest.indices("val"))

    @property
    def depth_sets(self) -> list[DepthSet]:
        """The sets of depths that are tried, the smallest first; none where rows are of one cut."""
        layout = self.main.extractor.tap_layout
        if layout is None or self.about.manifest.images:
            return []
        return [choice for choice in get_args(DepthSet) if choice in (self.about.head.depths or layout.depth_sets())]

    def block_widths(self, depths: DepthSet) -> set[int]:
        """Return how wide the blocks of a set of depths are."""
        layout = self.main.extractor.tap_layout
        assert layout is not None  # else there are no depths
        names = layout.depth_sets()[depths]
        return {block.width for block in layout.blocks if block.name in names}

    @property
    def chooser(self) -> str:
        """The head of the first rung."""
        return choosing_head(self.about.manifest.task.name, () if self.depth_sets else self.about.head.head)

    @property
    def first_rung(self) -> list[DepthSetting]:
        """Settings of depths from the best down, as the head of the first rung scores them on all images."""
        results = [
            result
            for name, result in self.results.items()
            if name.partition("-")[0] == self.chooser and name.partition("-")[2] in (*self.depth_sets, "weights")
        ]
        return ranked_settings([candidate for result in results for candidate in result.selection])

    def ranked_for(self, trial: HeadTrial) -> list[DepthSetting]:
        """Return the settings of depths for the head of a trial, ranked now if they are not yet."""
        if trial.head not in self.rankings:
            self.rankings[trial.head] = rank_settings(self, trial)
        return self.rankings[trial.head]

    def was_finished(self, name: str) -> bool:
        """Return whether an earlier command finished a trial."""
        return any(record.name == name and record.state == "finished" for record in self.records)

    def head_seconds(self, head: str) -> float:
        """Return what a head takes on all rows: as it last did, or by its usual share of the time of another."""
        took = {
            str(record.details["head"]): (record.seconds - float(record.details.get("extract", 0.0)))
            / max(len(record.details["settings"]), 1)
            for record in self.records
            if record.state == "finished" and "head" in record.details
        }
        if head in took:
            return took[head]
        if not took:
            return 0.0
        known = self.chooser if self.chooser in took else next(iter(took))
        kind = find_head(head)
        share = kind.cost / find_head(known).cost
        if not kind.in_epochs:
            return took[known] * share
        # fitted heads see many depths in the span of the rows, and so do some that train in epochs; of others an epoch
        # goes through all numbers of each. And to fit the former to folds is little beside the search for their
        # settings, where an epoch takes as long in each
        numbers = math.prod(self.main.extractor.row_shape)
        if self.depth_sets and begins_linear(head):
            numbers = min(numbers, landmarks_of(self.learned_from, self.about.head.nystroem_components))
        return took[known] * share * max(numbers / WIDE_ROW, 1.0) * self.divisions

    def remember(self, record: TrialRecord) -> None:
        """Take from the record of a finished trial what later ones follow from."""
        details = record.details
        if record.state != "finished" or "head" not in details:
            return
        if "ranked" in details:
            self.rankings[details["head"]] = [DepthSetting(*setting) for setting in details["ranked"]]
        self.settings_taken[record.name] = tuple(DepthSetting(*setting) for setting in details["settings"])

    def answered(self, score: float | None) -> None:
        """Keep with the trial that ended last what the answer scores after it."""
        if self.records:
            last = max(self.records, key=lambda record: record.at)
            record_trial(self, replace(last, answer=score))

    def learn(self, trial: Trial, result: Result) -> None:
        """Take a finished trial into account."""
        self.results[trial.name] = result


@dataclass(frozen=True)
class Ended:
    """How a search ended.

    Attributes
    ----------
    upcoming : list of (Trial, seconds)
        Some trials that would come next, with what they would take; none where all are done.
    interrupted : bool
        Whether it was stopped by Ctrl-C.
    resuming : float
        Seconds that the same command takes before it goes on with the first of these: it reads features, finds what is
        finished and renews the answer.
    """

    upcoming: list[tuple[Trial, float]]
    interrupted: bool = False
    resuming: float = 0.0


def search_trials(search: Search, budget: Budget, renew: Callable[[Search], None]) -> Ended:
    """Run trial after trial until the budget is used up, none is left, or Ctrl-C.

    Parameters
    ----------
    search : Search
    budget : Budget
    renew : callable
        Renews the answer; asked after every trial that was run, and once after those that were found.

    Raises
    ------
    CutonceError
        If the first trial fails: then there is no answer. Later ones that fail are told and passed over.
    KeyboardInterrupt
        If there is no answer yet when it comes.
    """
    number = 0
    search.would_run = lambda trial: budget.allows(number + 1, trial.seconds(search))
    trials = all_trials(search)
    renewed = True
    found_all_at: float | None = None
    renewing = 0.0

    def renew_timed() -> None:
        nonlocal renewing
        began = budget.elapsed
        renew(search)
        renewing = budget.elapsed - began

    try:
        for number, trial in enumerate(trials, 1):
            if search.was_finished(trial.name) and number <= budget.trials:
                if (reason := _out_of_reach(search, trial)) is not None:
                    _LOG.info(f"note: {trial.name} is finished, and stays out of what comes next: {reason}")
                    continue
                found = trial.find(search)
                if found is not None:
                    search.learn(trial, found)
                    renewed = False
                    continue
            if _failed_before(search, trial) and number <= budget.trials:
                continue
            discard_half(search.about.directory / trial.folder)  # of a command of a version before
            try:
                estimate = trial.seconds(search)
            except CutonceError as error:  # a network that takes no other size, or is not there
                _record_failure(search, budget, number, trial, error)
                continue
            if found_all_at is None:
                found_all_at = budget.elapsed
            if not renewed:
                renew_timed()
                renewed = True
            if not budget.allows(number, estimate):
                resuming = found_all_at - search.extracted + renewing
                return Ended([(trial, estimate), *_following(search, trials)], resuming=resuming)
            _LOG.info(_progress_words(search, budget, number, trial, estimate))
            _run(search, budget, number, trial)
            renew_timed()
        if not renewed:
            renew(search)
    except KeyboardInterrupt:
        if not search.results:
            raise
        return Ended([], interrupted=True)
    return Ended([])


def _run(search: Search, budget: Budget, number: int, trial: Trial) -> None:
    """Run one trial and leave its record, whatever comes of it."""
    began = budget.elapsed
    record = TrialRecord(number, trial.name, trial.what, "interrupted", 0.0, 0.0)
    try:
        with shortage_told(trial.what):
            extracted = budget.elapsed - began if _extract(trial) else 0.0
            result = trial.run(search)
    except (CutonceError, KeyboardInterrupt) as error:
        took = budget.elapsed - began
        if isinstance(error, KeyboardInterrupt):
            record_trial(search, replace(record, seconds=took, at=search.earlier + budget.elapsed))
            raise
        if number == 1:
            raise
        _record_failure(search, budget, number, trial, error, took)
        return
    search.learn(trial, result)
    details = {**trial.details(search), **({"extract": extracted} if extracted else {})}
    record_trial(
        search,
        replace(
            record,
            state="finished",
            seconds=budget.elapsed - began,
            at=search.earlier + budget.elapsed,
            folder=trial.folder,
            score=search.score_of(result),
            scored="folds" if result.cv is not None else "validation",
            details=details,
        ),
    )


def _record_failure(
    search: Search, budget: Budget, number: int, trial: Trial, error: CutonceError, seconds: float = 0.0
) -> None:
    """Tell that a trial failed, and leave that in the run: it is not tried again, unless it lacked room or images."""
    _LOG.info(f"  {trial.name} failed, and is passed over: {error}")
    at, details = search.earlier + budget.elapsed, {}
    if isinstance(error, CacheError) and not isinstance(error, CacheInputError):
        details = {_FOR_THE_DISK: True}
    elif isinstance(error, MemoryShortError):
        details = {_FOR_MEMORY: True}
    elif isinstance(error, ImagesChangedError):
        details = {_FOR_IMAGES: True}
    record = TrialRecord(number, trial.name, trial.what, "failed", seconds, at, reason=str(error), details=details)
    record_trial(search, record)


def _extract(trial: Trial) -> bool:
    """Bring the features of a trial into the cache, and return whether any were missing."""
    look = getattr(trial, "look", None)
    if look is None or not look.missing:
        return False
    _ = look.experiment
    return True


def _out_of_reach(search: Search, trial: Trial) -> CutonceError | None:
    """Return why the features of a finished trial cannot be had now: its network was damaged, or taken away, since."""
    look = getattr(trial, "look", None)
    if look is None or look is search.main:
        return None
    try:
        _ = look.experiment
    except CutonceError as error:
        return error
    return None


def record_trial(search: Search, record: TrialRecord) -> None:
    """Leave the record of a trial in the run, in place of an earlier one of it."""
    others = [known for known in search.records if known.name != record.name]
    # in the order of the search, whenever each was run: of equal scores the first counts as the better one
    search.records = sorted([*others, record], key=lambda known: (known.number, known.at))
    search.remember(record)
    write_trials(search.run, search.records)


def discard_half(directory: Path) -> None:
    """Take away what there is of a method whose model is not complete: it could be chosen, and could not predict.

    Versions before wrote a method file by file. What goes on with a training stays.
    """
    if (directory / MODEL_CARD).exists():
        return
    without_val = (HEAD_WITHOUT_VAL, str(Path(HEAD_WITHOUT_VAL).with_suffix(".json")))
    for name in (RESULT, PREDICTIONS, VALIDATION, OUT_OF_FOLD, *MODEL_FILES, *without_val):
        (directory / name).unlink(missing_ok=True)


def _failed_before(search: Search, trial: Trial) -> bool:
    """Return whether an earlier command failed at a trial, for a reason that stays."""
    passing = {_FOR_THE_DISK, _FOR_MEMORY, _FOR_IMAGES}
    return any(
        record.name == trial.name and record.state == "failed" and not passing & {*record.details}
        for record in search.records
    )


def _following(search: Search, trials: Iterator[Trial]) -> list[tuple[Trial, float]]:
    """Return some of the trials that come after the next one, as far as that can be told now, with their seconds."""
    search.would_run, search.looks_ahead = lambda _: False, True
    found = []
    for trial in islice(trials, SHOWN_NEXT - 1):
        try:
            found.append((trial, trial.seconds(search)))
        except CutonceError:  # another network cannot be loaded: that is told when it is its turn
            break
    return found


def _progress_words(search: Search, budget: Budget, number: int, trial: Trial, estimate: float) -> str:
    """Return what runs now, how much time is left, and what is best so far."""
    parts = [f"trial {number}: {trial.what}"]
    if estimate >= 1:
        parts.append(f"about {duration(estimate)}")
    if math.isfinite(budget.seconds):
        parts.append(f"{duration(max(budget.left, 0.0))} left")
    elif math.isfinite(budget.trials):
        parts.append(f"{number} of {budget.trials:g} trials")
    if search.best_name is not None and search.best_score is not None:
        score = format_score(search.best_score, as_percent=search.metric.as_percent)
        parts.append(f"best so far {method_words(search.results[search.best_name])} {score}")
    return "; ".join(parts)
