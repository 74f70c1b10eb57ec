"""The command ``best`` from its options to its answer."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache.errors import DataError, UsageError, listed
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.folder_lock import locked
from pipeline.evaluation.trials import TrialRecord, read_search, read_trials, replay_command
from pipeline.experiment.best.answer import close, renew, shaping_options
from pipeline.experiment.best.budget import Budget
from pipeline.experiment.best.look import Look, SearchedData
from pipeline.experiment.best.order import require_searched
from pipeline.experiment.best.search import Search, search_trials
from pipeline.experiment.methods.head_methods import require_heads
from pipeline.experiment.methods.outer_test import require_no_folds
from pipeline.experiment.methods.table_columns import note_columns_left_out
from pipeline.experiment.setup.dense_defaults import may_have_masks
from pipeline.experiment.setup.run_samples import changes_of_samples
from pipeline.experiment.setup.run_setup import init_seed, make_manifest, resolve_features
from pipeline.run_layout import BEST, TRIALS
from pipeline.text import duration
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import Manifest
from stages.extraction.estimate import estimate
from stages.extraction.extractor import Extractor, build_extractor

_LOG = logging.getLogger("cutonce")

TAPS, POOL = "all", "avg,max,std"
"""What is extracted where nothing else is asked for."""

_QUICK_BATCHES = 2
"""Batches a thread that are timed to say whether a pass fits into a budget."""


@dataclass(frozen=True)
class BestOptions:
    """What a search is asked for.

    Attributes
    ----------
    budget : Budget
    replay : Path, optional
        A run whose trials are to be made again.
    max_predict_ms : float, optional
    """

    budget: Budget
    replay: Path | None = None
    max_predict_ms: float | None = None


def run_best(
    data: DataConfig,
    features: FeatureConfig,
    head: HeadConfig,
    asked: BestOptions,
    out: Path,
    *,
    overwrite: bool = False,
) -> tuple[Comparison, bool]:
    """Search for the best method, and return the comparison of all that was tried, and whether it was interrupted.

    Raises
    ------
    UsageError
        If the budget has no room for one pass over the images, or an option is for other commands.
    KeyboardInterrupt
        If there is no answer yet when it comes.
    """
    require_no_folds(data, "`train`")
    if len(data.seeds) > 1:
        raise UsageError(
            f"`seeds` {' '.join(map(str, data.seeds))}: a search is of one split; give the command once for each, with "
            "an `out` of its own"
        )
    if may_have_masks(data):
        _require_answers_for_images(make_manifest(data, features, data.seeds[0]))
    require_searched(head.head)
    note_columns_left_out(head)
    features = resolve_features(data, with_all_depths(features))
    extractor = build_extractor(features)
    if extractor.backbone.tuned_in is not None:
        raise UsageError(
            f"`backbone` {features.backbone} was trained on images that folds of a search would hold out: use `train`, "
            "which chooses heads on such a network by the validation split alone"
        )
    seed = data.seeds[0]
    manifest, directory = init_seed(out, data, features, seed, head)
    if manifest.images and extractor.tap_layout is not None:
        features = replace(features, taps="", pool="avg")
        _LOG.info("note: samples of several images are searched on the last layer, not on all depths")
        extractor = build_extractor(features)
    require_heads(extractor, manifest, head.heads_for(manifest.task.name), head)
    about = SearchedData(data, manifest, seed, directory, head, overwrite)
    with _alone(out, directory):
        return _search(Look("", features, about, extractor), out, asked)


@contextmanager
def _alone(out: Path, directory: Path) -> Iterator[None]:
    """Let no other search into the run meanwhile: each would take its trials for its own.

    Raises
    ------
    UsageError
        If there is one.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(directory, wait=False))
        except BlockingIOError as error:
            raise UsageError(
                f"`out` {out}: another `best` is searching there: give another `out`, or wait for it; given again "
                "then, this command goes on from its trials"
            ) from error
        yield


def _search(main: Look, out: Path, asked: BestOptions) -> tuple[Comparison, bool]:
    search = Search.of(out, main.about, main)
    if asked.replay is not None:
        asked = _replaying(search, asked, asked.replay)
    budget, max_predict_ms = asked.budget, asked.max_predict_ms
    _resume_words(search, budget)
    _extract_within(search, main.extractor, budget)
    ended = search_trials(search, budget, lambda found: renew(found, budget, max_predict_ms))
    comparison = close(search, budget, max_predict_ms, ended)
    if asked.replay is not None:
        _LOG.info(_replay_words(search, asked.replay))
    return comparison, ended.interrupted


def with_all_depths(features: FeatureConfig) -> FeatureConfig:
    """Return the options of stage 1 with all depths, where neither a cut nor taps were named."""
    if features.taps or features.cut != "auto" or features.pool != "avg":
        return features
    return replace(features, taps=TAPS, pool=POOL)


def _require_answers_for_images(manifest: Manifest) -> None:
    if manifest.task.reads == "image":
        raise UsageError(
            "`best` searches heads that answer for an image, and here each pixel has a class: use `run`, which trains "
            "lraspp on maps of several depths, and `train` with `head` lraspp linear fcn deeplabv3 to compare heads"
        )


def _resume_words(search: Search, budget: Budget) -> None:
    finished = search.finished
    if not finished:
        return
    counts = " The budget counts anew." if math.isfinite(budget.seconds) else ""
    _LOG.info(f"{len(finished)} trials are finished already, and are taken as they are.{counts}")


def _extract_within(search: Search, extractor: Extractor, budget: Budget) -> None:
    """Bring the features into the cache, once it is known that there is time for it.

    Raises
    ------
    UsageError
        If there is not; says what it would take, and what to do.
    """
    missing = search.main.missing
    if missing and math.isfinite(budget.seconds):
        expected = estimate(extractor, search.about.manifest, batches=_QUICK_BATCHES)
        if expected.seconds > budget.left:
            needed = duration(math.ceil(budget.elapsed + expected.seconds))
            raise UsageError(
                f"`budget` has {duration(max(budget.left, 0.0))} left, and one pass over {missing:,} images takes "
                f"about {duration(expected.seconds)}: give it {needed} or more; or fewer pixels "
                "(`image_size`: a quarter of them is about four times as quick), a smaller `backbone`, or `precision` "
                "bf16. What `extract` with the "
                "same options computes before is not counted"
            )
    began = budget.elapsed
    _ = search.main.experiment
    if missing:
        took = search.extracted = budget.elapsed - began
        record = TrialRecord(0, "extract", "features of all images", "finished", took, search.earlier + budget.elapsed)
        search.records = [known for known in search.records if known.number != 0] + [record]


def _replaying(search: Search, asked: BestOptions, replay: Path) -> BestOptions:
    """Return what is asked for with as many trials as another run has, and with what a prediction might cost there.

    Raises
    ------
    DataError
        If that run was not searched, or has no trials.
    UsageError
        If it was made with other options or of other samples, or is the run itself.
    """
    summary = read_search(replay)
    if summary is None:
        raise DataError(f"`replay` {replay} was not made by `best`: it has no {BEST}")
    if replay.resolve() == search.run.resolve():
        raise UsageError(f"`replay` {replay} is `out` itself, whose trials would be found: give another `out`")
    here = shaping_options(search)
    differing = [
        f"`{name}` {_said(summary.options[name])} there and {_said(value)} here"
        for name, value in here.items()
        if name in summary.options and summary.options[name] != value and name != "data"
    ]
    if differing:
        raise UsageError(
            f"`replay` {replay} was searched with other options: {'; '.join(differing)}. With those of there: "
            f"{shlex.join(replay_command(replay, search.run))}"
        )
    if changes := changes_of_samples(replay, search.about.seed, search.about.manifest):
        raise UsageError(f"`replay` {replay} was searched on other samples ({changes}): give the same `data`")
    trials = max((record.number for record in read_trials(replay) if record.state != "interrupted"), default=0)
    if not trials:
        raise DataError(f"`replay` {replay} has no trials ({TRIALS}): its own command, given again, finds them")
    most = summary.max_predict_ms if asked.max_predict_ms is None else asked.max_predict_ms
    return replace(asked, budget=Budget(trials=trials, clock=asked.budget.clock), max_predict_ms=most)


def _said(value: Any) -> str:
    """Return an option's value in words."""
    return "not given" if value is None or value == [] else str(value)


def _replay_words(search: Search, replay: Path) -> str:
    """Say whether the trials that another run has came out the same."""
    there = {
        record.name: record.score for record in read_trials(replay) if record.number and record.state == "finished"
    }
    here = {record.name: record.score for record in search.finished}
    differing = [name for name, score in there.items() if name in here and here[name] != score]
    missing = [name for name in there if name not in here]
    if differing:
        return (
            f"Trials that score otherwise than in {replay}: {listed(differing)}. Other versions of libraries, another "
            "kind of processor, or features that fit into memory there and are streamed here, give other bits"
        )
    if missing:
        made = f"{len(there) - len(missing)} of {len(there)} trials are made again, and score"
        return f"{made} as in {replay}, to the last digit; not made: {listed(missing)}."
    return f"All {len(there)} trials score as in {replay}, to the last digit."
