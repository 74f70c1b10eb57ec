"""Stage 3 in a comparison: fine-tuning and its baselines, each tested like every other method, and what they leave.

Everything is left in the folder of the method: weights, result, history, and the pictures that people judge it by.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache import key_of_bytes
from cache.errors import UsageError
from cache.kept import drop_file
from pipeline.evaluation.method_folders import made_whole
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.results import VIEWS_READ, Result, evaluate_test
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.deviations import deviations_of_network
from pipeline.experiment.methods.finished_methods import (
    find_finished,
    is_same_training,
    require_same_features,
    require_same_settings,
)
from pipeline.experiment.methods.head_methods import (
    HeadProblems,
    MethodOutcome,
    build_result,
    format_accuracy,
    head_dir_name,
    is_same_head,
    options_of,
    predictions_from,
    predictions_of,
    recipe_of,
    run_heads,
)
from pipeline.experiment.methods.sample_rows import asked_about_samples
from pipeline.experiment.methods.tuned_backbone import by_validation_alone
from pipeline.experiment.models.model_card import ModelCard, read_recipe
from pipeline.experiment.models.model_store import copy_model, open_model, save_model, write_card
from pipeline.experiment.prediction.predict_masks import show_masks_of_network
from pipeline.experiment.prediction.unlike_images import detector_of_network
from pipeline.report.figures import range_test_curves, rate_schedule, save_plot
from pipeline.run_layout import CONTACT_SHEET, HEAD_WITHOUT_VAL, MODEL_CARD, NEXT_CONTACT_SHEET, RANGE_TEST, RATES
from pipeline.text import byte_count, duration, format_count
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig, HeadName
from stages.config.version_1 import OLD_METHODS
from stages.data.augment.contact_sheet import contact_sheet
from stages.data.augment.mixup import MixupCutmix
from stages.data.images.reading import reading_of
from stages.data.manifest import Manifest
from stages.data.sources.open_image import read_image
from stages.data.sources.tiles import tiling_of
from stages.extraction.estimate import estimate
from stages.extraction.extractor import Extractor
from stages.finetuning.autotune import CHECKPOINT
from stages.finetuning.baselines import baseline, random_head, random_map_head, unfitted_aggregate
from stages.finetuning.finetune import FinetuneResult, finetune
from stages.finetuning.finetune import find_lrs as range_tests
from stages.finetuning.predict_images import predict_proba
from stages.finetuning.predict_masks import mask_statistics
from stages.finetuning.problem import FinetuneProblem, with_arithmetic
from stages.finetuning.sample_views import image_count
from stages.finetuning.setup import OPTIONS_THAT_SHAPE_NOTHING, training_fingerprint
from stages.finetuning.transfer_model import HEAD, TransferModel
from stages.fitting.fit_head import train_head
from stages.network.heads.base import Head
from stages.network.heads.serialization import load_head
from stages.runtime.cost import Cost, measured
from stages.runtime.distributed import Rank
from stages.runtime.provenance import provenance
from stages.training.history import Epoch
from stages.training.lr_finder import LRFinderResult

_LOG = logging.getLogger("cutonce")

TEST_TIME_AUGMENTATION = "test-time augmentation"

_SAID_ELSEWHERE = ("num_workers", "checkpoint_minutes", "baselines", "baseline_lr", "name", "tta", "wise_ft")
"""Options that are no settings of a training, or are told under another name."""

_SHAPING = ("metric", "tta", *({*FinetuneConfig.__dataclass_fields__} - {*OPTIONS_THAT_SHAPE_NOTHING}))
"""Options of which another value makes another method."""

_OTHER_NAME = "a `name` of its own, "


def run_finetunings(experiment: Experiment, options: FinetuneConfig, head: HeadConfig) -> list[Result]:
    """Fine-tune, and train the baselines that are asked for, one result each."""
    if head.class_weights == "balanced" and experiment.task.reads == "image":
        _say(
            experiment.rank,
            "note: `class_weights` balanced is for heads where each pixel has a class: fine-tuning starts from such a "
            f"one, its pixels count alike, and its epoch is chosen by {experiment.task.primary}",
        )
    return [run_finetune(experiment, config, head) for config in _trainings(options)]


def require_same_finetunings(experiment: Experiment, options: FinetuneConfig, head: HeadConfig) -> None:
    """Refuse features and settings that fine-tunings of the run were not trained with, before anything is computed.

    What a head that training starts from is fitted with shows only when it is there, and is told then.

    Raises
    ------
    UsageError
        If there is such a method, and it may not be replaced; or if two of these would be one.
    """
    _require_names_of_their_own(options)
    configs = () if experiment.overwrite else _trainings(options)
    for config in (_resolved(experiment, config) for config in configs):
        method_dir = _method_dir(experiment.directory, transfer_method(config), name_of(config))
        made_with = {**options_of(experiment), **head.resolved(), **asdict(config)}
        require_same_features(method_dir, experiment.extractor.fingerprints, made_with, _OTHER_NAME)
        require_same_settings(method_dir, made_with, _SHAPING, _OTHER_NAME)


def with_rates(
    experiment: Experiment, options: FinetuneConfig, head: HeadConfig, rates: dict[str, float]
) -> FinetuneConfig:
    """Return a fine-tuning with other learning rates, by option, under a name that tells them if its own is taken."""
    changed = replace(options, lr=rates.get("lr", options.lr), head_lr=rates.get("head_lr", options.head_lr))
    try:
        require_same_finetunings(experiment, changed, head)
    except UsageError:
        return replace(changed, name="-".join([name_of(options), "lr", *(f"{rate:.1e}" for rate in rates.values())]))
    return changed


def _require_names_of_their_own(options: FinetuneConfig) -> None:
    folders = [f"{transfer_method(config)}-{name_of(config)}" for config in _trainings(options)]
    for name, folder in zip(options.baselines, folders[1:], strict=True):
        if folder == folders[0]:
            raise UsageError(
                f"`unfreeze` {options.unfreeze} and `baselines` {name} would both be {folder} in the run: leave out "
                "the baseline, or give a `name`"
            )


def run_starting_head(
    experiment: Experiment, options: FinetuneConfig, head: HeadConfig, others: Collection[HeadName]
) -> None:
    """Train the head that a fine-tuning starts from before an ensemble is made, of which it is one.

    Only where it is none of the `others` that are trained, and the run has none: the same command, given again, would
    find it there, and make another ensemble.
    """
    name = options.for_task(experiment.task.name).init_head
    assert name is not None, "of a task"
    if name != "new" and name not in others and read_recipe(experiment.directory / head_dir_name(name)) is None:
        _starting_head(experiment, _resolved(experiment, options), by_validation_alone(experiment, head))


def _resolved(experiment: Experiment, options: FinetuneConfig) -> FinetuneConfig:
    """Return the options with what the task and the device say where they leave it open."""
    return with_arithmetic(options.for_task(experiment.task.name), experiment.extractor.device)


def _trainings(options: FinetuneConfig) -> list[FinetuneConfig]:
    return [options, *(baseline(options, name) for name in options.baselines)]


def run_finetune(experiment: Experiment, options: FinetuneConfig, head: HeadConfig) -> Result:
    """Train from a stage-2 head (trained first if the run has none) and test; goes on from a killed call.

    Of several processes that train together the first tests and writes; all return its result.
    """
    options = _resolved(experiment, options)
    head = by_validation_alone(experiment, head)
    rank, seed, extractor = experiment.rank, experiment.seed, experiment.extractor
    start, start_seconds = rank.broadcast_from_first(lambda: _starting_head(experiment, options, head))
    experiment = experiment.readable()
    experiment.require_defined_scores()
    manifest, directory = experiment.manifest, experiment.directory
    method, name = transfer_method(options), name_of(options)
    method_dir = _method_dir(directory, method, name)
    problem = FinetuneProblem(extractor, manifest, start, options, seed, rank, head.class_weights == "balanced")
    shaping = training_fingerprint(problem)

    def digest_of(features: str) -> str:
        return key_of_bytes(json.dumps({**shaping, "features": features}, sort_keys=True, default=str).encode())

    def identity_of(features: str) -> str:
        return f"{digest_of(features)} {options.tta}"

    digest = digest_of(extractor.fingerprint)
    recipe = replace(
        recipe_of(
            experiment, experiment.task, method, name, identity_of(extractor.fingerprint), extractor.trunk.precision
        ),
        unfreeze=options.unfreeze,
        invert_unfreeze=options.invert_unfreeze,
        tta=options.tta,
        training=digest,
    )
    made_with = {**options_of(experiment), **head.resolved(), **asdict(options)}
    finished = rank.broadcast_from_first(
        lambda: find_finished(
            method_dir,
            partial(is_same_training, experiment, identity_of),
            made_with,
            overwrite=experiment.overwrite,
            remedy=_OTHER_NAME,
        )
    )
    if finished is not None:
        _say(rank, f"seed {seed}  {method_dir.name}: already trained, {format_accuracy(finished)}")
        return finished
    same_training = rank.broadcast_from_first(lambda: _find_same_training(directory, digest))
    if same_training is not None:
        _say(
            rank,
            f"seed {seed}  {method_dir.name}: the weights of {same_training.name}, tested with {options.tta} "
            "renderings",
        )
        result = rank.broadcast_from_first(
            lambda: _evaluate_with_tta(same_training, experiment, options, recipe, method_dir, made_with)
        )
        _say(rank, f"seed {seed}  {method_dir.name}: {format_accuracy(result)}")
        return result
    if rank.is_main:
        method_dir.mkdir(parents=True, exist_ok=True)
        _draw_contact_sheet(experiment, options, method_dir / NEXT_CONTACT_SHEET)
    _say(rank, f"seed {seed}  {method_dir.name}: training, {options.epochs} epochs")
    with measured() as training:
        tuned = finetune(
            problem,
            method_dir,
            on_epoch=_say_epoch if rank.is_main else lambda _: None,
            on_views=_report_view_cost,
        )

    suggestions = format_lr_suggestions(tuned.range_tests, "the rate stays as it was given")
    for range_test, suggestion in zip(tuned.range_tests, suggestions, strict=True):
        _say(rank, f"  range test of {range_test.block or 'all that trains'}: {suggestion}")

    def tested() -> Result:
        predictions, validation, testing = _predict(experiment, tuned.upper, options)
        outcome = MethodOutcome(
            method=method,
            name=name,
            settings=_settings(extractor, options, tuned),
            val_score=tuned.val_score,
            predictions=predictions,
            costs=(training, testing),
            trainable_parameters=tuned.trainable_parameters,
        )
        tested_images = _tested_images(experiment)
        result = build_result(experiment, outcome)
        result = _with_costs(result, options, tuned, training, start_seconds, tested_images)
        if tuned.stands_in:
            result.provenance[VIEWS_READ] = tuned.stands_in
        result = replace(
            result, options=made_with, prediction_seconds_per_image=testing.seconds / max(tested_images, 1)
        )
        with made_whole(method_dir) as fresh:
            result.save(fresh, predictions, validation=validation)
            if predictions.task.reads == "image":
                show_masks_of_network(fresh, extractor, tuned.upper, experiment.split("test"), predictions)
            shutil.copyfile(method_dir / NEXT_CONTACT_SHEET, fresh / CONTACT_SHEET)
            _draw_plots(tuned, fresh)
            save_model(
                fresh,
                replace(recipe, task=predictions.task.to_json()),
                tuned.head,
                tuned=tuned.upper,
                # of maps no vector says whether an image is unlike others
                unlike=None if experiment.task.reads == "image" else detector_of_network(experiment, tuned.upper),
            )
            if moved := deviations_of_network(experiment, tuned.upper, fresh, predictions.task):
                write_card(fresh, replace(recipe, task=predictions.task.to_json(), deviations=moved))
        drop_file("checkpoint", method_dir / CHECKPOINT)  # it went with the folder that it was in
        return result

    result = rank.broadcast_from_first(tested)
    _say(rank, f"seed {seed}  {method_dir.name}: {format_accuracy(result)}")
    return result


def _method_dir(directory: Path, method: str, name: str) -> Path:
    """Return the folder of a method in a run: that of version 1, if there is one."""
    old_dir = directory / f"{OLD_METHODS.get(method, method)}-{name}"
    return old_dir if old_dir.exists() else directory / f"{method}-{name}"


def _find_same_training(directory: Path, digest: str) -> Path | None:
    """Return where the run has the weights of the very same training, tested in another way."""
    models = {path.parent: read_recipe(path.parent) for path in sorted(directory.glob(f"*/{MODEL_CARD}"))}
    return next((path for path, recipe in models.items() if recipe is not None and recipe.training == digest), None)


def _evaluate_with_tta(
    twin: Path,
    experiment: Experiment,
    options: FinetuneConfig,
    recipe: ModelCard,
    method_dir: Path,
    made_with: dict[str, Any],
) -> Result:
    """Test the weights of another method with other renderings, and leave a method of its own."""
    backbone = experiment.extractor.backbone
    _, _, upper = open_model(twin, str(experiment.extractor.device), backbone if backbone.handed_in else None)
    predictions, validation, testing = _predict(experiment, upper, options)
    trained = Result.load(twin)
    stages = {**trained.seconds_by_stage, "evaluate": testing.seconds}
    settings = {name: value for name, value in trained.settings.items() if name != TEST_TIME_AUGMENTATION}
    result = replace(
        trained,
        name=recipe.name,
        task=predictions.task,
        test=evaluate_test(predictions.task, predictions.statistics, recipe.seed, predictions.units),
        seconds_by_stage=stages,
        seconds=sum(stages.values()),
        settings=settings | _as_tested(options),
        options=made_with,
        prediction_seconds_per_image=testing.seconds / max(_tested_images(experiment), 1),
        provenance={**trained.provenance, **provenance(experiment.manifest.digest)},
    )
    card = read_recipe(twin)
    moved = [] if card is None else card.deviations
    with made_whole(method_dir) as fresh:
        result.save(fresh, predictions, validation=validation)
        copy_model(twin, fresh, replace(recipe, task=predictions.task.to_json(), deviations=moved))
        for picture in (CONTACT_SHEET, RATES, RANGE_TEST):
            for path in (twin / picture, (twin / picture).with_suffix(".svg")):
                if path.exists():
                    shutil.copyfile(path, fresh / path.name)
    return result


def _tested_images(experiment: Experiment) -> int:
    """Return how many images go through a network that is tested, those that calibrate its task with them."""
    splits = ("val", "test") if experiment.task.calibrates else ("test",)
    return sum(image_count(experiment.split(split)) for split in splits)


def _predict(
    experiment: Experiment, upper: TransferModel, options: FinetuneConfig
) -> tuple[Predictions, Predictions, Cost]:
    """Return what a network predicts for the test split, and for the validation split, and what the former took.

    A task that predictions calibrate is calibrated by those for the validation split, of the same renderings. Where it
    is not, these only say whether the network is better than a head, which no prediction needs: they cost nothing here.
    """
    task, val, test = experiment.task, experiment.split("val"), experiment.split("test")
    if task.reads == "image":
        tiling = tiling_of(experiment.extractor.options)
        with measured() as testing:
            statistics = mask_statistics(experiment.extractor, upper, test, tiling)
        validated_masks = mask_statistics(experiment.extractor, upper, val, tiling)
        return predictions_from(task, test, statistics), predictions_from(task, val, validated_masks), testing

    def of_val() -> NDArray[np.float32]:
        return predict_proba(experiment.extractor, upper, val, options.tta)

    validated = None
    with measured() as testing:
        if task.calibrates:
            validated = of_val()
            task = task.calibrated(torch.from_numpy(validated), torch.from_numpy(val.targets))
        activated = predict_proba(experiment.extractor, upper, test, options.tta)
    validated = of_val() if validated is None else validated
    return predictions_of(task, test, activated), predictions_of(task, val, validated), testing


def run_lr_finder(
    experiment: Experiment, options: FinetuneConfig, head: HeadConfig, *, each_block: bool = False
) -> list[LRFinderResult]:
    """Return range tests of a fine-tuning from a stage-2 head, and leave their plot in the experiment's directory."""
    options = options.for_task(experiment.task.name)
    start, _ = _starting_head(experiment, options, head)
    extractor, manifest = experiment.extractor, experiment.readable().manifest
    balanced = head.class_weights == "balanced"
    problem = FinetuneProblem(extractor, manifest, start, options, experiment.seed, balanced=balanced)
    tests = range_tests(problem, each_block=each_block, on_views=_report_view_cost)
    save_plot(range_test_curves(tests), experiment.directory / RANGE_TEST)
    return tests


def format_lr_suggestions(tests: Sequence[LRFinderResult], otherwise: str) -> list[str]:
    """Return what each range test suggests: an option, or the rate of a block that no option names; or what follows.

    Parameters
    ----------
    tests : sequence of LRFinderResult
        One of all that trains, or of single blocks, from the head down.
    otherwise : str
        What follows where a test suggests no rate.
    """
    below = [test.block for test in tests if test.block not in (None, HEAD)]
    options: dict[str | None, str] = {None: "`lr` ", HEAD: "`head_lr` "}
    options.update(dict.fromkeys(below[:1], "`lr` "))
    return [
        f"the loss never falls by more than chance; {otherwise}"
        if test.suggestion is None
        else f"{options.get(test.block, 'a rate of ')}{test.suggestion:.1e}"
        for test in tests
    ]


def transfer_method(options: FinetuneConfig) -> str:
    """Return the method of transfer that a training is compared as."""
    if options.unfreeze == HEAD:
        return "uncached"
    whole_network = options.unfreeze == "all" and options.reinit == "all"
    return "scratch" if whole_network and not (options.invert_unfreeze or options.invert_reinit) else "finetune"


def name_of(options: FinetuneConfig) -> str:
    """Return what a training is called: as asked, or by what trains and where it trains from."""
    if options.name is not None:
        return options.name
    if transfer_method(options) != "finetune":
        return "network" if options.unfreeze == "all" else HEAD
    parts = [f"top-{options.unfreeze}" if options.unfreeze.isdecimal() else options.unfreeze.replace(",", "+")]
    parts += ["inverted"] * options.invert_unfreeze
    parts += [f"new-{options.reinit.replace(',', '+')}"] if options.reinit is not None else []
    parts += ["from-cache"] * options.from_cache
    parts += ["wise-ft"] * options.wise_ft
    parts += [f"lora-{options.lora}"] if options.lora else []
    parts += [options.tta] if options.tta != "none" else []
    return "-".join(parts)


def _starting_head(experiment: Experiment, options: FinetuneConfig, head: HeadConfig) -> tuple[Head, float]:
    """Return the head that training starts from, one that never saw the validation split, and its price in seconds.

    It becomes a method of the run, or is the one that the run has; where that is trained otherwise, it is left alone.
    """
    extractor = experiment.extractor
    assert options.init_head is not None, "of a task"
    if options.init_head == "new" and experiment.task.reads == "image":
        return random_map_head(extractor, experiment.task.out_features, experiment.seed), 0.0
    if options.init_head == "new":
        kind = head.aggregate if head.aggregate != "attention" else "mean"
        aggregate = unfitted_aggregate(extractor, experiment.manifest, kind)
        return random_head(extractor, experiment.manifest.task.out_features, experiment.seed, aggregate), 0.0
    # it is fitted on the evaluation view: augmented ones are cached at the boundary, where training needs them
    image_extractor = replace(extractor, options=replace(extractor.options, views=1))
    experiment = replace(experiment, extractor=image_extractor)
    directory = experiment.directory / head_dir_name(options.init_head)
    recipe, readable = read_recipe(directory), experiment.readable()
    if recipe is not None and not is_same_head(readable, options.init_head, head)(recipe.identity):
        _LOG.info(
            f"seed {experiment.seed}  {directory.name} is trained with other options or views: another one is "
            "fitted to start from"
        )
        with measured() as fitting:
            fitted_to = HeadProblems(readable, head).of(options.init_head)
            fitted = train_head(options.init_head, fitted_to.problem)
        module = asked_about_samples(fitted.module_train_only, fitted_to.aggregate)
        return module.cpu().eval(), fitting.seconds  # as one that is loaded
    result = run_heads(experiment, [options.init_head], head)[0]
    module, _ = load_head(directory / HEAD_WITHOUT_VAL, extractor.graph)
    return module, result.seconds_by_stage["train"]


def _with_costs(
    result: Result,
    options: FinetuneConfig,
    tuned: FinetuneResult,
    training: Cost,
    start_seconds: float,
    tested_images: int,
) -> Result:
    """Return a result with all that this training took, from images to predictions.

    What a killed and resumed training spent before is in its history. The head it starts from, and the features that
    was fitted on, are part of the price; so are cached views.
    """
    features = result.seconds_by_stage["extract"] if options.init_head != "new" else 0.0
    trained = max(training.seconds, sum(epoch.seconds for epoch in tuned.fit.history))
    stages = {
        **result.seconds_by_stage,
        "extract": features + tuned.view_seconds,
        "train": start_seconds + trained,
    }
    return replace(
        result,
        seconds_by_stage=stages,
        seconds=sum(stages.values()),
        backbone_forwards=tuned.backbone_forwards + tested_images,
        extraction_forwards=(result.extraction_forwards if options.init_head != "new" else 0) + tuned.view_forwards,
        history=[epoch.to_json(result.task.primary) for epoch in tuned.fit.history],
    )


def _settings(extractor: Extractor, options: FinetuneConfig, tuned: FinetuneResult) -> dict[str, Any]:
    """Return what a reader of the result wants to know of how it was trained."""
    assert tuned.fit.best is not None
    settings = {
        name: value for name, value in asdict(options).items() if value is not None and name not in _SAID_ELSEWHERE
    }
    if not options.lora:
        del settings["lora"]
    settings |= {
        "amp_dtype": tuned.autocast,
        "augment": extractor.options.augment,
        "best epoch": tuned.fit.best.epoch,
        "trained blocks": list(tuned.upper.trained),
        "rates found": {range_test.block or "all": range_test.suggestion for range_test in tuned.range_tests},
    }
    if tuned.interpolation is not None:
        settings["WiSE-FT, share of the tuned weights"] = tuned.interpolation.alpha
    if options.from_cache:
        settings["views"] = extractor.options.views
    if tuned.upper.reinitialized and transfer_method(options) != "scratch":
        settings["reinitialised"] = list(tuned.upper.reinitialized)
    return settings | _as_tested(options)


def _as_tested(options: FinetuneConfig) -> dict[str, Any]:
    return {TEST_TIME_AUGMENTATION: options.tta} if options.tta != "none" else {}


def _draw_contact_sheet(
    experiment: Experiment, options: FinetuneConfig, path: Path, images: int = 6, views: int = 7
) -> None:
    extractor, manifest, seed = experiment.extractor, experiment.manifest, experiment.seed
    train = manifest.indices("train")
    sample = manifest.select(train[:: max(len(train) // images, 1)][:images])
    mixing = None
    if (options.mixup or options.cutmix) and not options.from_cache:
        mixing = MixupCutmix(options.mixup, options.cutmix)
    contact_sheet(
        [read_image(location, reading_of(extractor.options)) for location in sample.locations],
        extractor.augmentation,
        range(seed * views, (seed + 1) * views),
        path,
        title=f"What the network sees while it trains: augmentation '{extractor.options.augment}'",
        mixing=mixing,
    )


def _draw_plots(tuned: FinetuneResult, method_dir: Path) -> None:
    save_plot(rate_schedule(tuned.rates, tuned.blocks, tuned.steps_per_epoch), method_dir / RATES)
    if tuned.range_tests:
        save_plot(range_test_curves(tuned.range_tests), method_dir / RANGE_TEST)


def _report_view_cost(maps: Extractor, train: Manifest) -> None:
    """Say what the cache of views takes, before it is paid, or which serves in its place."""
    if maps.stands_in:
        _LOG.info(f"note: {maps.stands_in}")
    cost = estimate(maps, train)
    if cost.images:
        (tap,) = cost.taps
        _LOG.info(
            f"cached views at {tap.cut}: {cost.images:,} training images lack some of {maps.options.views} views; "
            f"{format_count(cost.renderings)} renderings through the frozen part will take "
            f"{duration(cost.seconds)} and "
            f"{byte_count(tap.size)} in {maps.options.cache}"
        )


def _say_epoch(epoch: Epoch) -> None:
    if epoch.train_loss is None:
        trained = "as joined      "
    elif epoch.train_score is None:
        trained = f"train loss {epoch.train_loss:.4f}  "
    else:
        trained = f"train {epoch.train_score:.4f}  "
    terms = "".join(f"  {name} {value:.4f}" for name, value in epoch.terms.items() if len(epoch.terms) > 1)
    _LOG.info(
        f"  epoch {epoch.epoch:>3}  {trained}val {epoch.val_score:.4f}  loss {epoch.val_loss:.4f}{terms}  "
        f"{duration(epoch.seconds) if epoch.seconds else ''}"
    )


def _say(rank: Rank, message: str) -> None:
    if rank.is_main:
        _LOG.info(message)
