"""Ensembles over unlike members: heads on other features of the same images, and networks that were fine-tuned.

Nothing is trained, and no image is opened: what members said of the same samples when they were trained is averaged.
Weights are chosen out of folds where every member has been folded, since folds of one seed over the same samples are
the same whatever the features. A fine-tuned network has no folds: then weights are chosen on the validation split, by
what members trained on train alone say of it, and what the mixture itself says of a part of that split is averaged with
weights that the other parts chose. So that it is compared with a head on samples that chose no weight of its own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, KFold

from cache.errors import CutonceError, DataError, UsageError, alternatives, listed
from pipeline.evaluation.method_folders import made_whole
from pipeline.evaluation.named_methods import folders_called
from pipeline.evaluation.out_of_fold import OutOfFoldPredictions
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.results import FEATURES_READ, VIEWS_READ, Result
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.ensemble_methods import take_away
from pipeline.experiment.methods.head_methods import MethodOutcome, build_result, format_accuracy, predictions_of
from pipeline.experiment.models.mixture_members import Member, save_members
from pipeline.experiment.models.model_card import ModelCard, read_recipe, read_unlike
from pipeline.experiment.models.model_store import open_model, save_card
from pipeline.experiment.setup.run_samples import seeds_with_results
from pipeline.run_layout import MANIFEST, MODEL_CARD, RESULT, part_of_run, run_of, seed_dir
from stages.config.data import DataConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import Manifest, load_targets
from stages.fitting.ensemble import Answers, average, select_greedily
from stages.runtime.cost import Cost, measured
from stages.tasks.averaging import AveragingTask

FOLDED, TUNED = ("ensemble", "mixed"), ("mixture", "greedy")
"""Method and name of a mixture whose members were all folded, and of one with a member that trains on images."""

BY_DEFAULT = ("linear", "head", "finetune")
"""Methods that are members where none is named."""

_NO_MEMBERS = {
    "columns": "it looks at no image",
    "joined": "it takes columns of a table besides",
    "mixture": "it is a mixture itself: name its members",
}

_ASKED = "members"
"""Option under which a mixture that was asked for by a command of its own has the names that it was given."""

_PARTS = 5
"""Parts of the validation split, of each of which the weights are chosen on the others."""

_LOG = logging.getLogger("cutonce")


@dataclass(frozen=True)
class _Candidate:
    """A method that may become a member: where it is, and what it says of which samples."""

    directory: Path
    result: Result
    card: ModelCard
    validation: Predictions

    @property
    def out_of_fold(self) -> OutOfFoldPredictions | None:
        return self.result.out_of_fold

    @property
    def network(self) -> str:
        """What it stands on, in words."""
        size, cut = self.result.image_size, self.result.cut
        tuned = "" if self.card.unfreeze is None else f" ({self.directory.name})"
        return f"{self.result.backbone} at {size} px, {cut}{tuned}"


def methods_of(runs: Sequence[Path], seed: int, names: Sequence[str] = ()) -> list[Path]:
    """Return the folders of the methods of runs under one seed: those of these names, or heads and tuned networks.

    Raises
    ------
    UsageError
        If a run has no methods under the seed, or a name is none of any run.
    """
    found = []
    for run in runs:
        models = [path.parent for path in sorted(seed_dir(run, seed).glob(f"*/{MODEL_CARD}"))]
        if not models:
            raise UsageError(
                part_of_run(run) or f"{run} has no trained method under seed {seed}: train both with the same `seeds`"
            )
        found += [path for path in models if (path / RESULT).exists()]
    if not names:
        cards = {path: read_recipe(path) for path in found}
        return [path for path, card in cards.items() if card is not None and card.method in BY_DEFAULT]
    named = {name: folders_called(found, name) for name in names}
    for name, folders in named.items():
        if not folders:
            there_are = alternatives(name, [path.name for path in found])
            raise UsageError(f"`members` {name}: there is no such method.{there_are}")
    wanted = {path for folders in named.values() for path in folders}
    return [path for path in found if path in wanted]


def run_mixture(experiment: Experiment, options: HeadConfig) -> list[Result]:
    """Make the mean of the heads and the fine-tuned networks that a run has under a seed, and test it.

    Nothing is trained, and no image is opened. One that was made of the same members is found; it is made anew where
    there is another. There is none where nothing was fine-tuned, or for a task whose predictions have no mean. One that
    `make_mixtures` was asked for stays the mean that it was asked to be: of the runs, or of the names, that were given.

    Parameters
    ----------
    experiment : Experiment
    options : HeadConfig
        `ensemble` none leaves it out.

    Returns
    -------
    list of Result
        One, or none.
    """
    if options.ensemble == "none":
        return []
    asked = _asked_for(experiment.directory / "-".join(TUNED))
    if asked is not None:
        return _as_asked(experiment, asked)
    models = [path.parent for path in sorted(experiment.directory.glob(f"*/{MODEL_CARD}"))]
    cards = {path: read_recipe(path) for path in models}
    methods = {path: card.method for path, card in cards.items() if card is not None}
    if "finetune" not in methods.values():
        return []
    if not isinstance(experiment.task, AveragingTask):
        reason = f"predictions of the task {experiment.task.name} have no mean"
    else:
        readable = experiment.readable()
        members = [path for path, method in methods.items() if method in BY_DEFAULT and _may_be_member(readable, path)]
        found = {methods[path] for path in members}
        if "finetune" in found and len(found) > 1:
            return mixture_or_none(experiment, members, options, with_tuned=True)
        reason = "it takes a fine-tuned network and a head that kept what they say of the same validation samples"
    if options.ensemble is not None:
        _LOG.info(f"note: no mean of heads and fine-tuned networks is made: {reason}")
    return []


def _asked_for(directory: Path) -> Result | None:
    """Return the mixture of a folder, if a command of its own was asked for it."""
    if read_recipe(directory) is None or not (directory / RESULT).exists():
        return None
    result = Result.load(directory)
    return result if _ASKED in result.options else None


def _as_asked(experiment: Experiment, asked: Result) -> list[Result]:
    """Choose a mixture again from what it was chosen from and, where no names were given, from what is new in the run.

    Where that cannot be, as where another run is gone, it is left as it is, which is said.
    """
    names = tuple(asked.options[_ASKED])
    run, seed = run_of(experiment.directory / "method"), experiment.seed
    before = [_folder_of(experiment, path) for path in asked.settings["chosen from"].split(", ")]
    try:
        new = [] if names else methods_of([run], seed)
        made = make_mixture(
            experiment,
            list(dict.fromkeys([*before, *new])),
            replace(HeadConfig(), class_weights=asked.options["class_weights"]),
            asked=names,
        )
    except CutonceError as error:
        _LOG.info(f"note: {'-'.join(TUNED)} stays as the command ensemble made it: {error}")
        return [asked]
    return [] if made is None else [made]


def _may_be_member(experiment: Experiment, directory: Path) -> bool:
    """Return whether a method of the run may be a member; one that an earlier command left otherwise ends nothing."""
    if not (directory / RESULT).exists():
        return False
    try:
        candidate = _candidate(directory)
        _require_same_samples(experiment, candidate, candidate)
    except CutonceError as error:
        _LOG.warning(f"left out of the mean of heads and fine-tuned networks: {error}")
        return False
    return True


def mixture_or_none(
    experiment: Experiment, members: Sequence[Path], options: HeadConfig, *, with_tuned: bool = False
) -> list[Result]:
    """Return a mean of methods, or none where there can be none, which is said: it ends nothing that was trained.

    `with_tuned` there is none either where what is fine-tuned gets no weight: a mean of heads is the ensemble's, which
    weighs them out of folds.
    """
    try:
        made = make_mixture(experiment, members, options, with_tuned=with_tuned)
    except CutonceError as error:
        _LOG.info(f"note: no ensemble of {len(members)} methods is made: {error}")
        return []
    return [] if made is None else [made]


def make_mixtures(runs: Sequence[Path], names: Sequence[str] = (), options: HeadConfig | None = None) -> list[Result]:
    """Make an ensemble of the methods of several runs under each seed of the first, and leave it in that one.

    Under a seed where no mean is better than one method alone there is none.

    Raises
    ------
    UsageError
        As `methods_of` and `make_mixture`.
    """
    numbers = seeds_with_results(runs[0])
    if not numbers:
        raise UsageError(part_of_run(runs[0]) or f"{runs[0]} has no finished results: train methods into it first")
    members = {seed: methods_of(runs, seed, names) for seed in numbers}
    for seed in numbers:
        _require_same_splits(runs, seed)
    made = [
        make_mixture(
            _saved_experiment(runs[0], seed, members[seed]), members[seed], options or HeadConfig(), asked=tuple(names)
        )
        for seed in numbers
    ]
    return [result for result in made if result is not None]


def _saved_experiment(run: Path, seed: int, models: Sequence[Path]) -> Experiment:
    """Return what a run was under a seed, on the features of the first of some of its methods."""
    if not models:
        raise UsageError(f"no method of {run} under seed {seed} can be a member; name some by `members`")
    directory = seed_dir(run, seed)
    manifest, task = Manifest.load(directory / MANIFEST), Result.load(models[0]).task
    manifest = replace(manifest, task=task, targets=load_targets(task, manifest.target_texts))
    return Experiment(open_model(models[0])[1], manifest, seed, directory)


def _require_same_splits(runs: Sequence[Path], seed: int) -> None:
    """Refuse runs whose samples or splits differ, and say in what."""
    first = Manifest.load(seed_dir(runs[0], seed) / MANIFEST)
    for run in runs[1:]:
        other = Manifest.load(seed_dir(run, seed) / MANIFEST)
        here, there = set(first.keys), set(other.keys)
        if here != there:
            reason = (
                f"{len(here - there):,} images of the first are not in the other, and {len(there - here):,} are new"
            )
        elif first.task.uncalibrated() != other.task.uncalibrated():
            reason = "they predict different things: classes, labels or the task differ"
        elif dict(zip(first.keys, first.splits, strict=True)) != dict(zip(other.keys, other.splits, strict=True)):
            reason = "the same images are in other splits: `test_size`, `val_size`, groups or the options of the data"
        else:
            continue
        raise UsageError(
            f"{runs[0]} and {run} make no ensemble under seed {seed}: {reason}. Train both with the same options of "
            "the data and the same `seeds`"
        )


def make_mixture(
    experiment: Experiment,
    directories: Sequence[Path],
    options: HeadConfig,
    *,
    with_tuned: bool = False,
    asked: tuple[str, ...] | None = None,
) -> Result | None:
    """Average trained methods, which may stand on other features or be fine-tuned networks, and test the mean.

    Weights are those of greedy selection with replacement, as of `run_ensemble`; the test split has no part in it.

    Parameters
    ----------
    experiment : Experiment
        Whose samples these are; where the result goes.
    directories : sequence of Path
        Folders of methods of this or other runs, trained on the same samples in the same splits.
    options : HeadConfig
        `class_weights` alone counts.
    with_tuned : bool
        Whether it has to be a mean of heads with something that is fine-tuned.
    asked : tuple of str, optional
        Names of the members to choose from, () for all, where it was asked for: it then stays (`run_mixture`).

    Returns
    -------
    Result or None
        Left in ``ensemble-mixed``, or, where a member has no folds, in ``mixture-greedy``, with copies of the members'
        models. None where no mean is better than one method alone, or, `with_tuned`, than heads alone: that is said,
        and what lies there of before is taken away.

    Raises
    ------
    UsageError
        If these are fewer than two methods, were asked about other samples, or predict what has no mean.
    """
    experiment = experiment.readable()
    task = experiment.task
    if not isinstance(task, AveragingTask):
        raise UsageError(f"predictions of the task {task.name} have no mean: there is no ensemble of them")
    candidates = [_candidate(path) for path in dict.fromkeys(directories)]
    if len(candidates) < 2:
        found = f"{candidates[0].directory} alone" if candidates else "none"
        raise UsageError(
            f"an ensemble takes two trained methods or more, and there is {found}: train another, or give another run"
        )
    for candidate in candidates:
        _require_same_samples(experiment, candidate, candidates[0])
    folded = _folded_alike(candidates)
    method, name = FOLDED if folded is not None else TUNED
    directory = experiment.directory / f"{method}-{name}"
    identities = {_path_of(experiment, candidate.directory): candidate.card.identity for candidate in candidates}
    identity = experiment.fingerprint({"members": identities, "class_weights": options.class_weights})
    card = read_recipe(directory)
    if card is not None and card.identity == identity and (directory / RESULT).exists():
        finished = Result.load(directory)
        _LOG.info(f"{experiment.label}  {directory.name}: already made, {format_accuracy(finished)}")
        return finished
    return _make_and_test(experiment, task, candidates, folded, options, directory, identity, with_tuned, asked)


def _candidate(directory: Path) -> _Candidate:
    card = read_recipe(directory)
    if card is None or not (directory / RESULT).exists():
        raise UsageError(f"{directory} holds no trained method")
    result = Result.load(directory)
    if card.method in _NO_MEMBERS:
        raise UsageError(f"{directory} cannot be a member of an ensemble over networks: {_NO_MEMBERS[card.method]}")
    if result.predictions.folds is not None:
        raise UsageError(
            f"{directory} was tested in outer folds, each by a model of its own: there is no one model of it"
        )
    if result.validation_predictions is None:
        raise UsageError(f"{directory} kept no predictions for validation; train it again with `overwrite`")
    return _Candidate(directory, result, card, result.validation_predictions)


def _require_same_samples(experiment: Experiment, candidate: _Candidate, first: _Candidate) -> None:
    """Refuse a member that predicts something else, or was asked about other samples."""
    beside = "" if first is candidate else f" beside {first.directory}"
    where = f"{candidate.directory} cannot be a member{beside}"
    if candidate.result.task.uncalibrated() != experiment.task.uncalibrated():
        raise UsageError(f"{where}: it predicts something else, other classes or another task")
    for split, said in (("val", candidate.validation), ("test", candidate.result.predictions)):
        keys = np.array(experiment.split(split).keys, "S32")
        if not np.array_equal(said.keys, keys):
            unknown = len(set(said.keys.tolist()) ^ set(keys.tolist()))
            reason = f"{unknown:,} samples are in one and not in the other" if unknown else "their order differs"
            raise UsageError(
                f"{where}: their {split} splits are not the same ({reason}). Give the same data, splits and seed"
            )


def _folded_alike(candidates: Sequence[_Candidate]) -> list[OutOfFoldPredictions] | None:
    """Return what members say out of folds, where all have been folded, and into the same folds."""
    known = [folded for candidate in candidates if (folded := candidate.out_of_fold) is not None]
    alike = len(known) == len(candidates) and all(
        np.array_equal(getattr(folded, name), getattr(known[0], name))
        for folded in known
        for name in ("keys", "fold", "repeat")
    )
    return known if alike else None


def _parts_of(val: Manifest, seed: int) -> NDArray[np.int64]:
    """Return in which part each sample of the validation split is; groups are not torn apart."""
    groups, size = val.group_numbers, len(val)
    units = size if groups is None else len(np.unique(groups))
    if units < 2:
        raise DataError(f"the validation split has {units} sample or group: weights cannot be chosen by it")
    number = min(_PARTS, units)
    folds = KFold(number, shuffle=True, random_state=seed) if groups is None else GroupKFold(number)
    parts = np.empty(size, np.int64)
    for part, (_, places) in enumerate(folds.split(np.zeros(size), groups=groups)):
        parts[places] = part
    return parts


def _make_and_test(
    experiment: Experiment,
    task: AveragingTask,
    candidates: Sequence[_Candidate],
    folded: Sequence[OutOfFoldPredictions] | None,
    options: HeadConfig,
    directory: Path,
    identity: str,
    with_tuned: bool,
    asked: tuple[str, ...] | None,
) -> Result | None:
    """Choose the weights, average, and leave the mixture and its result in the run; None as in `make_mixture`."""
    val, test = experiment.split("val"), experiment.split("test")
    select = partial(select_greedily, task, balanced=options.class_weights == "balanced")
    validated = [task.answers(candidate.validation.statistics) for candidate in candidates]
    with measured() as making:
        if folded is not None:
            said = [task.answers(part.statistics) for part in folded]
            targets = task.targets(folded[0].statistics)
            weights, honest = select(Answers(said, targets, folded[0].fold, folded[0].repeat))
            answered = average(validated, weights)
        else:
            targets = task.targets(candidates[0].validation.statistics)
            parts = _parts_of(val, experiment.seed)
            of_val = Answers(validated, targets, parts, np.zeros(len(val), np.int64), fitted_to_others=False)
            weights, honest = select(of_val)
            answered = honest
    order = [int(place) for place in np.argsort(-weights, kind="stable") if weights[place]]
    members, shares = [candidates[place] for place in order], [float(weights[place]) for place in order]
    lacks_tuned = with_tuned and {member.card.method == "finetune" for member in members} != {True, False}
    if lacks_tuned or len(members) == 1:
        means = "heads with what is fine-tuned" if with_tuned else f"{len(candidates)} methods"
        best = listed([_path_of(experiment, member.directory) for member in members])
        by = "out of folds" if folded is not None else "on validation"
        take_away(experiment, directory, f"no mean of {means}", f"{best} alone", by)
        return None
    tested = average([task.answers(member.result.predictions.statistics) for member in members], np.array(shares))
    calibrated = experiment.task
    if task.calibrates:
        calibrated = task.calibrated(torch.from_numpy(answered), torch.from_numpy(val.targets))
    method, name = FOLDED if folded is not None else TUNED
    words = [
        f"{_path_of(experiment, member.directory)} {share:.2f}" for member, share in zip(members, shares, strict=True)
    ]
    outcome = MethodOutcome(
        method=method,
        name=name,
        settings={
            "members": ", ".join(words),
            "weights by": "loss out of folds" if folded is not None else "loss on validation of what saw train alone",
            "networks": listed(list(dict.fromkeys(member.network for member in members)), separator="; "),
            "chosen from": ", ".join(_path_of(experiment, candidate.directory) for candidate in candidates),
        },
        val_score=task.metrics[task.primary].score(predictions_of(task, val, answered).statistics),
        predictions=predictions_of(calibrated, test, tested),
        costs=(
            sum((_training_cost(candidate.result) for candidate in candidates), making),
            sum((Cost(member.result.seconds_by_stage["evaluate"], 0.0, 0) for member in members), Cost()),
        ),
        trainable_parameters=sum(member.result.trainable_parameters for member in members),
    )
    result = _with_costs(build_result(experiment, outcome), candidates, members)
    for remark in (FEATURES_READ, VIEWS_READ):
        read = [str(member.result.provenance[remark]) for member in members if remark in member.result.provenance]
        if read:
            result.provenance[remark] = "; ".join(dict.fromkeys(read))
    kept = {field.name for field in fields(DataConfig)}
    of_data = {option: value for option, value in members[0].result.options.items() if option in kept}
    of_command = {} if asked is None else {_ASKED: list(asked)}
    result = replace(result, options={**of_data, **asdict(replace(options, head=())), **of_command})
    out_of_fold = None
    if folded is not None:
        statistics = calibrated.statistic(torch.from_numpy(honest), torch.from_numpy(targets))
        out_of_fold = replace(folded[0], task=calibrated, statistics=statistics)
        folding = sum((candidate.result.cv or {}).get("seconds", 0.0) for candidate in candidates)
        result = replace(result, cv={**out_of_fold.summary(result.metric), "seconds": folding + making.seconds})
    card = replace(
        members[0].card,
        method=method,
        name=name,
        task=calibrated.to_json(),
        identity=identity,
        training=None,
        deviations=[],  # each of its members keeps its own
    )
    named = [
        Member(
            _path_of(experiment, member.directory),
            share,
            member.result.prediction_seconds_per_image,
            member.result.backbone,
            member.result.cut,
            member.result.image_size,
        )
        for member, share in zip(members, shares, strict=True)
    ]
    with made_whole(directory) as fresh:
        validation = predictions_of(calibrated, val, answered)
        result.save(fresh, outcome.predictions, validation=validation, out_of_fold=out_of_fold)
        save_members(fresh, named, [member.directory for member in members])
        save_card(fresh, card, unlike=read_unlike(members[0].directory))
    _LOG.info(f"{experiment.label}  {directory.name}: {format_accuracy(result)}, of {result.settings['members']}")
    return result


def _path_of(experiment: Experiment, directory: Path) -> str:
    """Return where a member is: from the folder of the seed, or, of another run, from the run."""
    here, there = experiment.directory.resolve(), directory.resolve()
    start = here if there.parent == here else run_of(here / "method")
    return Path(os.path.relpath(there, start)).as_posix()


def _folder_of(experiment: Experiment, path: str) -> Path:
    """Return the folder of a member that `_path_of` wrote."""
    start = run_of(experiment.directory / "method") if path.startswith("..") else experiment.directory
    return start / path


def _training_cost(result: Result) -> Cost:
    return Cost(result.seconds_by_stage["train"], result.cpu_seconds, result.peak_memory_bytes)


def _with_costs(result: Result, candidates: Sequence[_Candidate], members: Sequence[_Candidate]) -> Result:
    """Return a result with what its members stand on, and what those take together: features that they share once."""
    extracted, forwards = dict[str, float](), dict[str, int]()
    for candidate in candidates:
        features = str(candidate.card.features_fingerprint or candidate.directory)
        seconds = candidate.result.seconds_by_stage["extract"]
        extracted[features] = max(extracted.get(features, 0.0), seconds)
        forwards[features] = max(forwards.get(features, 0), candidate.result.extraction_forwards)
    stages = {**result.seconds_by_stage, "extract": sum(extracted.values())}
    return replace(
        result,
        seconds=sum(stages.values()),
        seconds_by_stage=stages,
        extraction_forwards=sum(forwards.values()),
        backbone_forwards=sum(candidate.result.backbone_forwards for candidate in candidates),
        backbone=_joined(member.result.backbone for member in members),
        weights=_joined(member.result.weights for member in members),
        cut=_joined(member.result.cut for member in members),
        pool=_joined(member.result.pool for member in members),
        image_size=_size(member.result.image_size for member in members),
        prediction_seconds_per_image=_prediction_seconds(members),
    )


def _prediction_seconds(members: Sequence[_Candidate]) -> float | None:
    """Return what an image takes with all members, in seconds: each network once, and every head on it.

    Of members that share a trunk (`together`) the dearest tells: two passes for mirror images too, of which the first
    does for those that see the image alone.
    """
    of_networks: dict[str, float] = {}
    of_heads = 0.0
    for member in members:
        whole = member.result.prediction_seconds_per_image
        if whole is None:
            return None
        card, alone = member.card, member.card.unfreeze is not None
        key = str(member.directory) if alone else str(card.features_fingerprint or member.directory)
        key = card.trunk if card.shares_trunk else key
        tested = max(member.result.samples["test"], 1)
        head = 0.0 if alone else min(member.result.seconds_by_stage["evaluate"] / tested, whole)
        of_networks[key] = max(of_networks.get(key, 0.0), whole - head)
        of_heads += head
    return sum(of_networks.values()) + of_heads


def _joined(values: Iterable[str | None]) -> str:
    return " + ".join(dict.fromkeys(str(value) for value in values))


def _size(values: Iterable[int | str | None]) -> int | str | None:
    distinct = list(dict.fromkeys(values))
    return distinct[0] if len(distinct) == 1 else " + ".join(map(str, distinct))
