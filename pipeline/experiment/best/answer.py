"""The answer of a search, renewed after every trial: the ensemble of what there is, and the method to take."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from pipeline.evaluation.comparison import Comparison, compare_runs
from pipeline.evaluation.console import PROSE
from pipeline.evaluation.methods import names_of_others
from pipeline.evaluation.results import Result
from pipeline.evaluation.trials import SearchSummary, read_search, replay_command
from pipeline.experiment.best.budget import Budget
from pipeline.experiment.best.outlook import outlook_words, tried_words
from pipeline.experiment.best.search import Ended, EnsembleMade, Search, discard_half
from pipeline.experiment.best.trial import Trial
from pipeline.experiment.compare_runs import chosen_in, publish, write_results
from pipeline.experiment.methods.ensemble_methods import run_ensemble
from pipeline.experiment.methods.mixture import mixture_or_none
from pipeline.experiment.setup.run_setup import record_options
from pipeline.text import terminal_width, wrapped
from stages.config.features import OF_THE_MACHINE
from stages.tasks.averaging import AveragingTask

_LOG = logging.getLogger("cutonce")

_WITHOUT_EFFECT = (*OF_THE_MACHINE, "max_memory_gb", "data_root", "seeds")
"""Options that say nothing of what trials come to."""


ENSEMBLE_SHARE = 0.1
"""Share of the time of the search that making the ensemble anew may take; what it lacks is made up at the end."""


def combine(search: Search) -> list[Result]:
    """Make the ensembles of what is finished: of heads on the first look, of heads on all looks, and with tuned blocks.

    Nothing is trained for them. The first predicts in one pass, so it is there beside the second; the third is weighed
    on the validation split, as tuned blocks are not predicted out of folds.
    """
    experiment, options = search.main.experiment, search.about.head
    heads = [result for result in search.results.values() if result.method in ("linear", "head")]
    made = run_ensemble(experiment, heads, options)
    if options.ensemble == "none" or not isinstance(experiment.task, AveragingTask):
        return made
    finished = [record for record in search.finished if record.folder is not None and record.name in search.results]
    folded = [record for record in finished if record.scored == "folds"]
    tuned = [record for record in finished if search.results[record.name].method == "finetune"]
    folders = {record.name: experiment.directory / str(record.folder) for record in finished}
    if len(folded) > 1 and any(record.details.get("look") for record in folded):
        made += mixture_or_none(experiment, [folders[record.name] for record in folded], options)
    if folded and tuned:
        members = [folders[record.name] for record in (*folded, *tuned)]
        made += mixture_or_none(experiment, members, options, with_tuned=True)
    return made


def _combine_in_time(search: Search, budget: Budget) -> None:
    """Make the ensemble anew, unless that took a large part of the time lately: of large models much is written."""
    began, last = budget.elapsed, search.ensemble
    if last is not None and last.seconds > ENSEMBLE_SHARE * (began - last.at):
        search.ensemble = last._replace(is_due=True)
        return
    combine(search)
    search.ensemble = EnsembleMade(budget.elapsed, budget.elapsed - began)


def renew(search: Search, budget: Budget, max_predict_ms: float | None) -> None:
    """Make the ensemble anew, choose, and write it down: from now on this is the answer."""
    about = search.about
    _combine_in_time(search, budget)
    record_options(search.run, about.data, search.main.options, about.head)
    asked, former = _summary(search, budget, max_predict_ms, None, Ended([])), read_search(search.run)
    if former is not None:  # the answer so far stands until there is another
        asked = replace(asked, chosen=former.chosen, words=former.words)
    asked.save(search.run)
    comparison = compare_runs([search.run], search.metric.name)
    write_results(comparison, [search.run], search.run)
    cv = comparison.choice.chosen.cv
    search.answered(None if cv is None else cv.mean)
    # who reads it while the search goes on, or after it was killed, is told that it can go on
    _summary(search, budget, max_predict_ms, comparison, Ended([], interrupted=True)).save(search.run)


def close(search: Search, budget: Budget, max_predict_ms: float | None, ended: Ended) -> Comparison:
    """Say what was tried, what is taken and what more minutes might bring, and write the page."""
    if search.ensemble is not None and search.ensemble.is_due:
        combine(search)
    for method in names_of_others():  # one may have been interrupted while it was written, by a version before
        for directory in search.about.directory.glob(f"{method}-*"):
            discard_half(directory)
    comparison = compare_runs([search.run], search.metric.name)
    summary = _summary(search, budget, max_predict_ms, comparison, ended)
    summary.save(search.run)
    published = publish([search.run], search.run, search.metric.name)
    width = min(terminal_width(), PROSE)
    again = shlex.join(replay_command(search.run, search.run.with_name(f"{search.run.name}-again")))
    said = [wrapped(words, width) for words in summary.words]
    _LOG.info("\n".join(["", *said, f"The same trials again, to the same bits: {again}"]))
    return published


def _summary(
    search: Search, budget: Budget, max_predict_ms: float | None, comparison: Comparison | None, ended: Ended
) -> SearchSummary:
    return SearchSummary(
        budget=budget.seconds if math.isfinite(budget.seconds) else None,
        trials=len(search.finished),
        seconds=max((record.at for record in search.records), default=0.0),
        chosen={} if comparison is None else dict(chosen_in(comparison, search.run)),
        words=() if comparison is None else (*tried_words(search, comparison), *outlook_words(search, budget, ended)),
        upcoming=tuple(_upcoming(ended.upcoming)),
        max_predict_ms=max_predict_ms,
        options=shaping_options(search),
    )


def _upcoming(trials: Sequence[tuple[Trial, float]]) -> list[dict[str, Any]]:
    return [{"name": trial.name, "what": trial.what, "seconds": round(seconds, 1)} for trial, seconds in trials]


def shaping_options(search: Search) -> dict[str, Any]:
    """Return the options that trials follow from, as JSON values: a replay has to have the same."""
    about = search.about
    options = {**asdict(about.data), **asdict(search.main.options), **asdict(about.head), "seed": about.seed}
    named = {name: value for name, value in options.items() if name not in _WITHOUT_EFFECT}
    return {name: list(map(str, value)) if isinstance(value, tuple) else _plain(value) for name, value in named.items()}


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
