"""Ensembles of the heads that a run has, made of their predictions out of folds without training any anew."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import CutonceError
from pipeline.evaluation.comparison import method_words
from pipeline.evaluation.method_folders import made_whole, remove_method
from pipeline.evaluation.out_of_fold import OutOfFoldPredictions
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.results import Result
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.head_methods import (
    MethodOutcome,
    build_result,
    format_accuracy,
    options_of,
    predictions_of,
    recipe_of,
    views_as_settings,
    with_deviations,
)
from pipeline.experiment.models.model_card import ModelCard, read_recipe, read_unlike
from pipeline.experiment.models.model_store import save_model
from pipeline.run_layout import HEAD, MODEL_CARD, RESULT
from stages.config.heads import HeadConfig, HeadName
from stages.fitting.ensemble import Answers, average, select_greedily
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.problem import FitProblem
from stages.fitting.stacking import fit_stack, stacked_outputs
from stages.network.graph.cuts import CutGraph
from stages.network.heads.base import Head
from stages.network.heads.ensemble import EnsembleHead, StackedHead
from stages.network.heads.serialization import load_head, read_head
from stages.runtime.cost import Cost, measured
from stages.tasks.averaging import LEAST_PROBABILITY, AveragingTask

METHOD = "ensemble"

_HEADS = ("linear", "head")
"""Methods whose heads take the same rows, the features of images."""

_LOG = logging.getLogger("cutonce")


@dataclass(frozen=True)
class Candidate:
    """A head of the run that may become a member.

    Attributes
    ----------
    directory : Path
        Where the run has it.
    result : Result
    card : ModelCard
    row_shape : tuple of int
        Of the rows it takes.
    graph : CutGraph
        Of the network it was trained on.
    validation : Predictions
    out_of_fold : OutOfFoldPredictions
    """

    directory: Path
    result: Result
    card: ModelCard
    row_shape: tuple[int, ...]
    graph: CutGraph
    validation: Predictions
    out_of_fold: OutOfFoldPredictions

    @cached_property
    def head(self) -> Head:
        """It as saved, on what `predict` has of a sample: only of members, since kernel machines hold many rows."""
        return load_head(self.directory / HEAD, self.graph)[0]

    def is_readable(self) -> bool:
        """Load it; where that fails, say so and return False: what an earlier command left ends nothing of this one."""
        try:
            _ = self.head
        except CutonceError as error:
            _LOG.warning(f"{self.directory.name} is no member of the ensemble: {error}")
            return False
        return True

    @property
    def cost(self) -> Cost:
        """What training it took."""
        return Cost(self.result.seconds_by_stage["train"], self.result.cpu_seconds, self.result.peak_memory_bytes)


def run_ensemble(experiment: Experiment, heads: Sequence[Result], options: HeadConfig) -> list[Result]:
    """Make an ensemble of all heads on the features that the run has, and test it.

    It is made anew where there is another head, or one was trained anew, and costs next to nothing: nothing is trained,
    and no image is asked for. There is none of fewer than two heads, where nothing was predicted out of folds, for a
    task whose predictions have no mean, or where no mean is better than one head alone: one of before is taken away.

    Parameters
    ----------
    experiment : Experiment
    heads : sequence of Result
        Those that were trained, or found, just now: others of the run are members where they were divided into the same
        folds.
    options : HeadConfig
    """
    if options.ensemble == "none" or experiment.fold:
        return []
    experiment = experiment.readable()
    kind = options.ensemble or "greedy"
    task = experiment.task
    candidates = _candidates(experiment, heads) if experiment.outer is None and isinstance(task, AveragingTask) else []
    if len(candidates) < 2 or not isinstance(task, AveragingTask):
        if options.ensemble is not None:
            _LOG.info(f"note: no ensemble is made: {_why_none(experiment, candidates)}")
        return []
    directory = experiment.directory / f"{METHOD}-{kind}"
    identities = {candidate.result.name: candidate.card.identity for candidate in candidates}
    identity = experiment.fingerprint({METHOD: kind, "candidates": identities, "class_weights": options.class_weights})
    card = read_recipe(directory)
    if card is not None and card.identity == identity and (directory / RESULT).exists():
        finished = Result.load(directory)
        _LOG.info(f"{experiment.label}  {directory.name}: already trained, {format_accuracy(finished)}")
        return [finished]
    made = _make_and_test(experiment, task, candidates, options, directory, identity)
    return [] if made is None else [made]


def take_away(experiment: Experiment, directory: Path, means: str, best: str, by: str) -> None:
    """Say that there is no ensemble, as one method alone is as good as any, and take away what there was before."""
    remove_method(directory)
    _LOG.info(f"{experiment.label}  {directory.name}: none, as {means} is better {by} than {best}")


def _why_none(experiment: Experiment, candidates: Sequence[Candidate]) -> str:
    if experiment.outer is not None:
        return "in outer folds (`test` cv, groups) each head is tested by itself"
    if not isinstance(experiment.task, AveragingTask):
        return f"predictions of the task {experiment.task.name} have no mean"
    found = f"only {candidates[0].result.name} has" if candidates else "none has"
    return f"it takes two heads or more with predictions out of the same folds, and {found} any"


def _candidates(experiment: Experiment, heads: Sequence[Result]) -> list[Candidate]:
    """Return the heads of the run on the same features, predicted out of the same folds as those that are given."""
    folded = [result for result in heads if result.cv is not None]
    if not folded:
        return []
    paths = sorted(path.parent for path in experiment.directory.glob(f"*/{MODEL_CARD}"))
    known = [candidate for path in paths if (candidate := _candidate(experiment, path)) is not None]
    given = [candidate for candidate in known if candidate.result.name == folded[0].name]
    return [candidate for candidate in known if given and _is_alike(candidate, given[0])]


def _candidate(experiment: Experiment, directory: Path) -> Candidate | None:
    """Return the head of a folder, if it may be a member; one that cannot be read may not."""
    extractor = experiment.extractor
    try:
        card = read_recipe(directory)
        if card is None or card.method not in _HEADS or not (directory / RESULT).exists():
            return None
        if card.features_fingerprint not in extractor.fingerprints:
            return None
        result = Result.load(directory)
        validation, out_of_fold = result.validation_predictions, result.out_of_fold
        if validation is None or out_of_fold is None:
            return None
        config, _ = read_head(directory / HEAD)
    except CutonceError as error:  # of an earlier command: it ends nothing that was trained now
        _LOG.warning(f"{directory.name} is no member of the ensemble: {error}")
        return None
    shape = tuple(config["row_shape"])
    return Candidate(directory, result, card, shape, extractor.graph, validation, out_of_fold)


def _is_alike(candidate: Candidate, other: Candidate) -> bool:
    """Return whether two heads take the same rows and were asked about the same samples out of the same folds."""
    return candidate.row_shape == other.row_shape and all(
        np.array_equal(getattr(candidate.out_of_fold, name), getattr(other.out_of_fold, name))
        for name in ("keys", "fold", "repeat")
    )


@dataclass(frozen=True)
class Combination:
    """How heads become one.

    Attributes
    ----------
    members : list of Candidate
        Those that count.
    settings : dict
        How much they do, in words.
    out_of_fold : float32 [n, out_features]
        What it says out of folds, activated.
    combine : callable
        From what members say, activated, and whether they were fitted to train alone, to what the ensemble says.
    head : callable
        From members as modules to the ensemble as a module.
    parameters : int
        Its own, beside those of its members.
    """

    members: list[Candidate]
    settings: dict[str, Any]
    out_of_fold: NDArray[np.float32]
    combine: Callable[[Sequence[NDArray[Any]], bool], NDArray[np.float32]]
    head: Callable[[Sequence[Head]], Head]
    parameters: int = 0


def _greedy(
    experiment: Experiment, task: AveragingTask, candidates: Sequence[Candidate], options: HeadConfig
) -> Combination:
    """Average heads with weights that are chosen out of folds."""
    first = candidates[0].out_of_fold
    said = [task.answers(candidate.out_of_fold.statistics) for candidate in candidates]
    answers = Answers(said, task.targets(first.statistics), first.fold, first.repeat)
    weights, out_of_fold = select_greedily(task, answers, balanced=options.class_weights == "balanced")
    positive = weights[weights > 0]
    order = np.argsort(-weights, kind="stable")
    shares = [f"{method_words(candidates[place].result)} {weights[place]:.2f}" for place in order if weights[place]]
    return Combination(
        [candidate for candidate, weight in zip(candidates, weights, strict=True) if weight],
        {"members": ", ".join(shares), "weights by": "loss out of folds"},
        out_of_fold,
        lambda parts, _: average(parts, positive),
        lambda heads: EnsembleHead.weighted(heads, positive.tolist(), task.activation),
    )


def _stack(
    experiment: Experiment, task: AveragingTask, candidates: Sequence[Candidate], options: HeadConfig
) -> Combination:
    """Fit a linear model to what heads say out of folds."""
    first = candidates[0].out_of_fold
    once = first.repeat == first.repeat.min()
    said = [task.answers(candidate.out_of_fold.statistics[once]) for candidate in candidates]
    rows = FeatureRows(stacked_outputs(task, said), task.targets(first.statistics[once]), (), _groups(experiment))
    places, train = np.arange(len(rows)), len(experiment.manifest.indices("train"))
    trained, folded = fit_stack(
        FitProblem(
            rows.at(places[:train]), rows.at(places[train:]), task, options, experiment.seed, torch.device("cpu")
        )
    )
    assert folded is not None, "the members have been folded in the same way"
    modules = {False: trained.module, True: trained.module_train_only}

    def combine(parts: Sequence[NDArray[Any]], without_val: bool) -> NDArray[np.float32]:
        with torch.no_grad():
            outputs = modules[without_val](torch.from_numpy(stacked_outputs(task, parts)))
        return np.asarray(task.activate(outputs))

    def head(heads: Sequence[Head]) -> Head:
        return StackedHead(heads, trained.module, task.activation, LEAST_PROBABILITY).eval()

    return Combination(
        list(candidates),
        {"members": ", ".join(method_words(candidate.result) for candidate in candidates), "stacked by": trained.name},
        folded.activated(task).reshape(len(first), -1),
        combine,
        head,
        trained.trainable_parameters,
    )


def _heads_of(candidates: Sequence[Candidate]) -> tuple[HeadName, ...]:
    """Return the heads that candidates are, each once; a run may have one in several ways, under names of their own."""
    known = [candidate.result.options.get("head") or [candidate.result.name] for candidate in candidates]
    return tuple(dict.fromkeys(name for names in known for name in names))


_KINDS = {"greedy": _greedy, "stack": _stack}


def _groups(experiment: Experiment) -> NDArray[np.int64] | None:
    """Return the groups of train, followed by those of validation."""
    numbers, manifest = experiment.manifest.group_numbers, experiment.manifest
    return None if numbers is None else numbers[np.r_[manifest.indices("train"), manifest.indices("val")]]


def _make_and_test(
    experiment: Experiment,
    task: AveragingTask,
    candidates: Sequence[Candidate],
    options: HeadConfig,
    directory: Path,
    identity: str,
) -> Result | None:
    """Make an ensemble, and leave it and its result in the run; None where but one member is readable and counts."""
    name = directory.name.removeprefix(f"{METHOD}-")
    with measured() as making:
        made = _KINDS[name](experiment, task, candidates, options)
    damaged = [member for member in made.members if not member.is_readable()]
    if damaged:
        kept = [candidate for candidate in candidates if not any(candidate is member for member in damaged)]
        return _make_and_test(experiment, task, kept, options, directory, identity) if len(kept) > 1 else None
    if len(made.members) == 1:
        best = f"{method_words(made.members[0].result)} alone"
        take_away(experiment, directory, f"no mean of {len(candidates)} heads", best, "out of folds")
        return None
    members, val = made.members, experiment.split("val")
    validated = made.combine([task.answers(member.validation.statistics) for member in members], True)
    tested = made.combine([task.answers(member.result.predictions.statistics) for member in members], False)
    calibrated = experiment.task
    if task.calibrates:
        calibrated = task.calibrated(torch.from_numpy(validated), torch.from_numpy(val.targets))
    names = [method_words(candidate.result) for candidate in candidates]
    outcome = MethodOutcome(
        method=METHOD,
        name=name,
        settings={**made.settings, "chosen from": ", ".join(names), **views_as_settings(experiment.extractor)},
        val_score=task.metrics[task.primary].score(predictions_of(task, val, validated).statistics),
        predictions=predictions_of(calibrated, experiment.split("test"), tested),
        costs=(
            sum((candidate.cost for candidate in candidates), making),
            sum((Cost(member.result.seconds_by_stage["evaluate"], 0.0, 0) for member in members), Cost()),
        ),
        trainable_parameters=sum((member.result.trainable_parameters for member in members), made.parameters),
    )
    first = candidates[0].out_of_fold
    targets = torch.from_numpy(task.targets(first.statistics))
    statistics = calibrated.statistic(torch.from_numpy(made.out_of_fold), targets)
    out_of_fold = replace(first, task=calibrated, statistics=statistics)
    folding = sum((candidate.result.cv or {}).get("seconds", 0.0) for candidate in candidates)
    result = build_result(experiment, outcome)
    result = replace(
        result,
        options={**options_of(experiment), **asdict(replace(options, head=_heads_of(candidates)))},
        cv={**out_of_fold.summary(result.metric), "seconds": folding + making.seconds},
    )
    validation = predictions_of(calibrated, val, validated)
    head = made.head([member.head for member in members])
    recipe = recipe_of(experiment, calibrated, METHOD, name, identity)
    with made_whole(directory) as fresh:
        result.save(fresh, outcome.predictions, validation=validation, out_of_fold=out_of_fold)
        save_model(
            fresh,
            with_deviations(recipe, experiment, head, calibrated),
            head,
            unlike=read_unlike(members[0].directory),
        )
    _LOG.info(f"{experiment.label}  {directory.name}: {format_accuracy(result)}, of {result.settings['members']}")
    return result
