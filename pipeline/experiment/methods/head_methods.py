"""The methods of a comparison on cached features, each leaving in the run what it learned and what it reached.

Every method is tested here and in the same way: on the manifest's test split, once, after it is trained.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import UsageError, listed
from pipeline.evaluation.method_folders import made_whole
from pipeline.evaluation.out_of_fold import OutOfFoldPredictions
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.results import FEATURES_READ, Result, evaluate_test, fold_scores
from pipeline.evaluation.shown_masks import ShownMasks, places_to_show
from pipeline.experiment.experiment import Experiment, OuterTest
from pipeline.experiment.methods.deviations import deviations_of
from pipeline.experiment.methods.finished_methods import find_finished, is_same_training, require_same_features
from pipeline.experiment.methods.sample_rows import (
    aggregate_settings,
    allowed_memory,
    asked_about_samples,
    feature_bytes,
    load_samples,
    save_image_weights,
    takes_bags,
)
from pipeline.experiment.methods.tuned_backbone import by_validation_alone
from pipeline.experiment.models.model_card import ModelCard, config_to_json
from pipeline.experiment.models.model_store import save_model
from pipeline.experiment.prediction.find_samples import sample_options
from pipeline.experiment.prediction.predict_masks import show_masks_of_network
from pipeline.experiment.prediction.unlike_images import detector_of_features
from pipeline.run_layout import SHOWN_MASKS
from pipeline.text import byte_count, duration, format_score
from stages.columns.table_encoder import TableEncoder
from stages.config.data import AFTER_TRAINING, SPLITS
from stages.config.features import FeatureConfig
from stages.config.heads import COLUMN_OPTIONS, DEPTH_OPTIONS, DEPTHS, ENSEMBLE, HeadConfig, HeadName
from stages.data.manifest import Manifest
from stages.data.masks.mask_targets import MaskTargets
from stages.data.sources.tiles import tiling_of
from stages.extraction.extractor import Extractor
from stages.extraction.mask_views import CachedMaskViews
from stages.extraction.read_features import read_features, require_cached
from stages.finetuning.predict_masks import mask_statistics
from stages.finetuning.sample_views import image_count
from stages.finetuning.transfer_model import head_on_features
from stages.fitting.epochs.map_heads import map_statistics, predicted_masks
from stages.fitting.feature_rows import AnyFeatureRows
from stages.fitting.fit_head import (
    CutContext,
    FeatureRows,
    FitProblem,
    HeadResult,
    StreamedFeatureRows,
    get_fit,
    head_method,
    head_probabilities,
    head_settings,
    needs_memory,
    one_sided_labels,
    require_classes_to_balance,
    require_head_for,
    require_smoothed_loss,
    train_foldable_head,
)
from stages.fitting.out_of_fold import OutOfFold
from stages.fitting.problem import PixelTargets
from stages.inspection.unlike import UnlikeDetector
from stages.network.aggregate import Aggregate
from stages.network.graph.trunk import Precision, precision_of
from stages.network.heads.base import Head
from stages.network.map_layout import MapLayout
from stages.runtime.cost import Cost, measured
from stages.runtime.progress import working
from stages.runtime.provenance import provenance
from stages.tasks.base import Statistics, Task

SplitFeatures = tuple[AnyFeatureRows, AnyFeatureRows, AnyFeatureRows]
"""Those of train, validation and test."""

_SHARE_OF_MASKS = 1 / 8
"""Of the memory that features may take, what thinned masks may."""

_MOST_MASK_BYTES = 1 << 30

_OF_RUN = "run:"
"""What the name of a backbone that was fine-tuned begins with."""

_LOG = logging.getLogger("cutonce")


@dataclass(frozen=True)
class MethodOutcome:
    """What a method came to, however it was trained.

    Attributes
    ----------
    method, name : str
        As in the result.
    settings : dict
        What a reader of the result wants to know of how it was trained.
    val_score : float
        The task's primary metric on the validation split.
    predictions : Predictions
        For the test split, of the task that predictions for the validation split calibrated.
    costs : tuple of Cost
        Of training, and of testing.
    trainable_parameters : int
    tested : str
        By what each sample was tested, in words; '' where there is a test split.
    """

    method: str
    name: str
    settings: dict[str, Any]
    val_score: float
    predictions: Predictions
    costs: tuple[Cost, Cost]
    trainable_parameters: int
    tested: str = ""


def run_heads(experiment: Experiment, names: Sequence[HeadName], options: HeadConfig) -> list[Result]:
    """Train heads on the cached features and test each; a head the run already has is not trained again.

    Raises
    ------
    UsageError
        If the run has one of them trained otherwise, and may not overwrite it; then none is trained.
    """
    experiment = experiment.readable()
    experiment.require_defined_scores()
    if experiment.task.reads == "image" and (options.columns or options.categories or options.texts):
        raise UsageError("`columns`, `categories` and `texts` are of a sample, and here each pixel has a class")
    options = by_validation_alone(experiment, options)
    earlier = {name: find_finished_head(experiment, name, options) for name in names}
    data = HeadProblems(experiment, options)
    data.of(names[0])
    for name in _left_out([name for name, finished in earlier.items() if finished is None], data, options):
        del earlier[name]
    if constant := one_sided_labels(experiment.task, experiment.split("train").targets):
        _LOG.warning(
            f"{experiment.label}: all training samples have, or all lack, {listed(constant)}: nothing can be learned "
            "of that"
        )
    results = []
    for name, finished in earlier.items():
        method_dir = experiment.directory / head_dir_name(name)
        if finished is not None:
            _LOG.info(f"{experiment.label}  {method_dir.name}: already trained, {format_accuracy(finished)}")
            results.append(finished)
            continue
        results.append(run_head(experiment, data, name, options, name))
    return results


def _left_out(names: Sequence[HeadName], data: HeadProblems, options: HeadConfig) -> list[HeadName]:
    """Return those of the heads that nobody has named which need features in memory, where these are streamed."""
    if options.head or not names:
        return []
    problem = data.of(names[0]).problem
    if not isinstance(problem.train, StreamedFeatureRows):
        return []
    left_out = [name for name in names if needs_memory(name, of_depths=problem.taps is not None)]
    if left_out:
        _LOG.info(
            f"note: left out, since the features are larger than `max_memory_gb` allows, and they need all of them in "
            f"memory: {', '.join(left_out)}"
        )
    return left_out


def run_head(experiment: Experiment, data: HeadProblems, name: HeadName, options: HeadConfig, called: str) -> Result:
    """Train one head on the cached features of readable samples and test it.

    Parameters
    ----------
    experiment : Experiment
    data : HeadProblems
        The rows.
    name : str
        Of the head.
    options : HeadConfig
    called : str
        What the method is called in the run: as the head, but where a run has the same head in several ways.
    """
    problem, test_rows, aggregate = data.of(name)
    method_dir = experiment.directory / head_dir_name(name, called)
    of_run = HeadMethod(
        head_method(name),
        name,
        method_dir,
        head_identity(experiment, name, options),
        {**views_as_settings(experiment.extractor), **aggregate_settings(aggregate)},
        called=called,
    )
    return train_and_test(
        experiment,
        of_run,
        replace(problem, config=options),
        test_rows,
        options,
        as_saved=partial(asked_about_samples, aggregate=aggregate),
        unlike=data.unlike,
    )


class HeadMethod(NamedTuple):
    """What a run calls a head that is trained for it, and what shapes it.

    Attributes
    ----------
    method, name : str
        As in the result.
    directory : Path
        Where it is left.
    identity : str
        Digest of all that shapes it.
    settings : dict
        What a reader of the result wants to know of its rows.
    takes_images : bool
        Whether any image had to be extracted for it.
    called : str
        What it is called in result and model, where that is not the name of the head.
    """

    method: str
    name: HeadName
    directory: Path
    identity: str
    settings: dict[str, Any]
    takes_images: bool = True
    called: str = ""


def train_and_test(
    experiment: Experiment,
    method: HeadMethod,
    problem: FitProblem,
    test_rows: AnyFeatureRows,
    options: HeadConfig,
    *,
    as_saved: Callable[[Head], Head],
    columns: TableEncoder | None = None,
    unlike: UnlikeDetector | None = None,
) -> Result:
    """Train a head, test it, say what it is worth out of folds, and leave both head and result in the run.

    What the folds cost is told apart: it ranks the head, and no prediction needs it.

    Parameters
    ----------
    as_saved : callable
        From a head on rows to the head on what `predict` has of a sample.
    columns : TableEncoder, optional
        What makes numbers of the columns that are part of the rows.
    unlike : UnlikeDetector, optional
        What tells images that are unlike the training images, where it takes any.
    """
    get_fit(method.name)  # imports are not what training costs
    label = f"{experiment.label}, {method.directory.name}"
    with measured() as training, working(label):
        trained, fold = train_foldable_head(method.name, problem)
    with measured() as folding, working(f"{label}, out of folds"):
        out_of_fold = None if experiment.fold else fold()  # the methods of an outer fold are not chosen between
    tested = _tested(experiment, method, trained, test_rows, problem.targets)
    outcome = MethodOutcome(
        method=method.method,
        name=method.called or method.name,
        settings={**trained.settings, **method.settings},
        val_score=trained.val_score,
        predictions=tested.predictions,
        costs=(training + tested.training, tested.testing),
        trainable_parameters=trained.trainable_parameters,
        tested=tested.protocol,
    )
    result = replace(
        build_result(experiment, outcome),
        selection=trained.selection,
        history=[epoch.to_json(trained.task.primary) for epoch in trained.history],
        options=head_options(experiment, method.name, options),
    )
    folded = None if out_of_fold is None else out_of_fold_predictions(experiment, trained.task, out_of_fold)
    if folded is not None:
        result = replace(result, cv={**folded.summary(result.metric), "seconds": folding.seconds})
    if not method.takes_images:
        stages = {**result.seconds_by_stage, "extract": 0.0}
        result = replace(
            result,
            seconds=sum(stages.values()),
            seconds_by_stage=stages,
            extraction_forwards=0,
            prediction_seconds_per_image=tested.testing.seconds / max(len(outcome.predictions), 1),
        )
    recipe = recipe_of(experiment, trained.task, method.method, method.called or method.name, method.identity)
    validation = predictions_from(trained.task, experiment.split("val"), trained.val_statistics)
    head = as_saved(trained.module)
    # fine-tuning starts from it, and from no head on statistics of several depths, of which some hold all rows
    without_val = as_saved(trained.module_train_only) if experiment.extractor.tap_layout is None else None
    if method.takes_images and columns is None:
        recipe = with_deviations(recipe, experiment, head, trained.task)
    with made_whole(method.directory) as fresh:
        result.save(fresh, outcome.predictions, validation=validation, out_of_fold=folded)
        if experiment.outer is None:
            _show(fresh, experiment, trained.module, problem.targets, test_rows, outcome.predictions)
        save_model(fresh, recipe, head, without_val=without_val, columns=columns, unlike=unlike)
    place, took = f"{experiment.label}  {method.directory.name}", duration(training.seconds)
    _LOG.info(f"{place}: {format_accuracy(result)}, trained in {took}")
    return result


def _tested(
    experiment: Experiment,
    method: HeadMethod,
    trained: HeadResult,
    rows: AnyFeatureRows,
    masks: PixelTargets | None,
) -> OuterTest:
    """Return what a head predicts for the test split, or what the outer folds say of it, under its own task."""
    if experiment.outer is not None:
        outer = experiment.outer(method.directory.name)
        return outer._replace(predictions=outer.predictions.of_task(trained.task))
    if masks is not None:
        tiling, test = tiling_of(experiment.extractor.options), experiment.split("test")
        with measured() as testing:
            if tiling is None:
                statistics = map_statistics(trained.module, rows, masks, trained.task)
            else:  # of test images whole ones are cached, if any, and their tiles are what is to be seen
                network = head_on_features(experiment.extractor, trained.module)
                statistics = mask_statistics(experiment.extractor, network, test, tiling)
        return OuterTest(predictions_from(trained.task, experiment.split("test"), statistics), Cost(), testing, "")
    with measured() as testing:
        activated = head_probabilities(trained.module, rows, trained.task)
    return OuterTest(predictions_of(trained.task, experiment.split("test"), activated), Cost(), testing, "")


def _show(
    directory: Path,
    experiment: Experiment,
    head: Head,
    masks: PixelTargets | None,
    rows: AnyFeatureRows,
    predictions: Predictions,
) -> None:
    """Leave what a head says of the parts of test samples: masks of a few, and what each image of a sample counts."""
    extractor, test = experiment.extractor, experiment.split("test")
    if masks is None:
        save_image_weights(directory, head, test, rows)
    elif tiling_of(extractor.options) is None:
        show_masks(directory, head, masks, rows, predictions)
    else:
        show_masks_of_network(directory, extractor, head_on_features(extractor, head), test, predictions)


def show_masks(
    directory: Path, head: Head, masks: PixelTargets, rows: AnyFeatureRows, predictions: Predictions
) -> None:
    """Leave the predicted and the true masks of a few test images in the folder of a head, for the page."""
    places = places_to_show(predictions.statistics)
    features = rows.features[places] if isinstance(rows, FeatureRows) else rows.read(places)
    targets = rows.labels[places]
    predicted = predicted_masks(head, features, targets, masks, predictions.task)
    ShownMasks.of(predictions.keys[places], predicted, masks.full(targets)).save(directory / SHOWN_MASKS)


def find_finished_head(
    experiment: Experiment, name: HeadName, options: HeadConfig, called: str | None = None
) -> Result | None:
    """Return the result of a head that the run has; UsageError where it is another one and may not be replaced."""
    return find_finished(
        experiment.directory / head_dir_name(name, called),
        is_same_head(experiment, name, options),
        head_options(experiment, name, options),
        overwrite=experiment.overwrite,
    )


def head_identity(experiment: Experiment, name: HeadName, options: HeadConfig) -> str:
    """Return the digest of all that shapes a head; of the experiment's readable samples."""
    return _identity_of_features(experiment, name, options)(experiment.extractor.fingerprint)


def is_same_head(experiment: Experiment, name: HeadName, options: HeadConfig) -> Callable[[str], bool]:
    """Return what says of an identity whether it is that of a head of the experiment."""
    return partial(is_same_training, experiment, _identity_of_features(experiment, name, options))


def _identity_of_features(experiment: Experiment, name: HeadName, options: HeadConfig) -> Callable[[str], str]:
    settings = {
        **head_settings(name, options, experiment.task),
        "head": name,
        **views_as_settings(experiment.extractor),
    }
    # of heads on columns alone, of what is made of heads, and of several depths
    depth_options = DEPTH_OPTIONS if experiment.extractor.tap_layout is None else () if options.depths else (DEPTHS,)
    for option in (*COLUMN_OPTIONS, ENSEMBLE, *depth_options):
        del settings[option]
    if not experiment.manifest.images or takes_bags(name):  # nothing is aggregated
        del settings["aggregate"]
    return partial(experiment.fingerprint, settings)


def head_options(experiment: Experiment, name: HeadName, options: HeadConfig) -> dict[str, Any]:
    """Return the options that a head is made with."""
    return {**options_of(experiment), **head_settings(name, replace(options, head=(name,)), experiment.task)}


def require_heads(
    extractor: Extractor,
    manifest: Manifest,
    names: Iterable[HeadName],
    options: HeadConfig = HeadConfig(),
    *,
    option: str = "head",
) -> None:
    """Refuse heads that do not predict the task, or do not take the rows that there will be, before these are made.

    Parameters
    ----------
    options
        With which they are trained.
    option
        Which names the heads.

    Raises
    ------
    UsageError
        See :func:`~stages.fitting.fit_head.require_head_for`,
        :func:`~stages.fitting.fit_head.require_smoothed_loss` and
        :func:`~stages.fitting.fit_head.require_classes_to_balance`.
    """
    if len(manifest):
        require_classes_to_balance(manifest.task, manifest.targets, options)
    maps = map_layout_for(extractor, manifest.task)
    if maps is not None and manifest.images:
        raise UsageError("a mask is of one image, and samples of several (`images`, `sample`, `frames`) have none")
    row_shape = extractor.row_shape if maps is None else (maps.width,)
    for name in names:
        require_head_for(name, manifest.task, row_shape, bags=bool(manifest.images), maps=maps, option=option)
        require_smoothed_loss(name, manifest.task, options)


def map_layout_for(extractor: Extractor, task: Task) -> MapLayout | None:
    """Return what maps the rows hold for a task that asks for an answer at each place; None for one of images.

    Raises
    ------
    UsageError
        If the features are no maps.
    """
    return extractor.map_layout if task.reads == "image" else None


def masks_for(extractor: Extractor, manifest: Manifest, options: HeadConfig) -> MaskTargets | None:
    """Return the masks of samples by their numbers in the manifest; None where targets are no masks."""
    if manifest.mask_classes is None:
        return None
    memory = min(allowed_memory(options) * _SHARE_OF_MASKS, _MOST_MASK_BYTES)
    views = CachedMaskViews(extractor, manifest)
    return MaskTargets(manifest.targets.tolist(), manifest.mask_classes, int(memory), views)


def require_same_features_of_heads(experiment: Experiment, names: Sequence[HeadName], options: HeadConfig) -> None:
    """Refuse features that heads of the run were not trained on, before these are extracted.

    Raises
    ------
    UsageError
        If there is such a head, and it may not be replaced.
    """
    for name in () if experiment.overwrite else names:
        directory = experiment.directory / head_dir_name(name)
        require_same_features(directory, experiment.extractor.fingerprints, head_options(experiment, name, options))


class HeadProblem(NamedTuple):
    """What a head is fitted to, the rows that it is tested on, and what made them of the images of samples.

    `aggregate` is None where samples have one image, or the head takes all of them.
    """

    problem: FitProblem
    test_rows: AnyFeatureRows
    aggregate: Aggregate | None


class HeadProblems:
    """What heads are fitted to, of the readable samples; heads that take the same rows share them."""

    def __init__(self, experiment: Experiment, options: HeadConfig) -> None:
        self._experiment, self._options = experiment, options
        self._loaded: dict[bool, HeadProblem] = {}

    def of(self, name: HeadName) -> HeadProblem:
        """Return what a head is fitted to."""
        bags = bool(self._experiment.manifest.images) and takes_bags(name)
        if bags not in self._loaded:
            self._loaded = {bags: self._load(name, bags)}  # the rows of one kind are in memory at a time
        return self._loaded[bags]

    @cached_property
    def unlike(self) -> UnlikeDetector:
        """What tells images that are unlike the training images, by the features that all heads share."""
        return detector_of_features(self._experiment)

    def _load(self, name: HeadName, bags: bool) -> HeadProblem:
        experiment, options = self._experiment, self._options
        extractor = experiment.extractor
        if experiment.manifest.images:
            parts, aggregate = load_samples(experiment, options, name)
            problem = FitProblem(*parts[:2], experiment.task, options, experiment.seed, extractor.device, bags=bags)
            return HeadProblem(problem, parts[2], aggregate)
        train, val, test = load_split_features(experiment, options)
        (tap, *others) = extractor.taps
        cut = CutContext(extractor.graph, tap.cut) if tap.cut is not None and not others else None
        problem = FitProblem(
            *(train, val, experiment.task, options, experiment.seed, extractor.device, cut),
            maps=map_layout_for(extractor, experiment.task),
            targets=masks_for(extractor, experiment.manifest, options),
            taps=extractor.tap_layout,
        )
        return HeadProblem(problem, test, None)


def head_dir_name(name: HeadName, called: str | None = None) -> str:
    """Return the name of the folder of a head: its method and what it is called, by default its name.

    A path of Python has no colon in it.
    """
    return f"{head_method(name)}-{(called or name).replace(':', '.')}"


def load_split_features(experiment: Experiment, options: HeadConfig) -> SplitFeatures:
    """Return the cached features of train, validation and test: in memory, or, where they are too large, streamed."""
    extractor, manifest = experiment.extractor, experiment.manifest
    parts = {name: experiment.split(name) for name in SPLITS}
    views = extractor.options.views
    maps = map_layout_for(extractor, experiment.task)
    # of masks, rows know the number
    labels = manifest.targets if maps is None else np.arange(len(manifest))
    size = feature_bytes(extractor, manifest)
    allowed_bytes = allowed_memory(options)
    if size > allowed_bytes:
        _LOG.info(
            f"the features take {byte_count(size)}, and `max_memory_gb` allows {byte_count(allowed_bytes)}: they are "
            "streamed"
            + (", the evaluation view alone" if views > 1 else "")
            + _smaller_taps(extractor, size, allowed_bytes)
        )
        stores = require_cached(extractor, manifest)
        streams = [
            StreamedFeatureRows(stores, part.keys, labels[manifest.indices(name)], int(allowed_bytes))
            for name, part in parts.items()
        ]
        return streams[0], streams[1], streams[2]
    features = read_features(extractor, manifest)
    numbers = manifest.group_numbers
    in_split = [manifest.indices(name) for name in parts]
    train, val, test = (
        FeatureRows(features[indices], labels[indices], groups=None if numbers is None else numbers[indices])
        for indices in in_split
    )
    augmented = [read_features(extractor, parts["train"], view) for view in range(1, views)]
    return replace(train, augmented=augmented), val, test


def _smaller_taps(extractor: Extractor, size: int, allowed_bytes: float) -> str:
    """Return which sets of depths would be in memory, where rows of all taps are not."""
    layout = extractor.tap_layout
    if layout is None:
        return ""
    sizes = {word: size * layout.select(names).width // layout.width for word, names in layout.depth_sets().items()}
    fitting = [f"{word} ({byte_count(taken)})" for word, taken in sizes.items() if taken <= allowed_bytes]
    return f"; of `taps`, {listed(fitting)} would be in memory" if fitting else "; no set of `taps` would be in memory"


def views_as_settings(extractor: Extractor) -> dict[str, Any]:
    """Return what the heads are shown besides the evaluation view, as settings; nothing where that is all."""
    options = extractor.options
    if options.mirror:
        return {"mirror": "the mean over mirror images"}
    return {"views": options.views, "augment": options.augment} if options.views > 1 else {}


def build_result(experiment: Experiment, outcome: MethodOutcome) -> Result:
    """Return the result of a method; a fine-tuned one adds what is its own."""
    extractor, manifest, task = experiment.extractor, experiment.manifest, outcome.predictions.task
    training, testing = outcome.costs
    readable = manifest.distinct_images.keys
    stages = {
        "extract": extractor.seconds(readable),
        "train": training.seconds,
        "evaluate": testing.seconds,
    }
    tested_images = len(outcome.predictions) * image_count(manifest) / max(len(manifest), 1)
    return Result(
        method=outcome.method,
        name=outcome.name,
        seed=experiment.seed,
        samples={split: len(manifest.indices(split)) for split in SPLITS} | {"test": len(outcome.predictions)},
        task=task,
        val={task.primary: outcome.val_score},
        test={
            **evaluate_test(task, outcome.predictions.statistics, experiment.seed, outcome.predictions.units),
            **fold_scores(outcome.predictions),
            **({"tested": outcome.tested} if outcome.tested else {}),
        },
        seconds=sum(stages.values()),
        seconds_by_stage=stages,
        cpu_seconds=sum(cost.cpu_seconds for cost in outcome.costs),
        peak_memory_bytes=max(cost.peak_memory_bytes for cost in outcome.costs),
        trainable_parameters=outcome.trainable_parameters,
        backbone_forwards=0,
        extraction_forwards=len(readable),
        backbone=extractor.backbone.name,
        weights=extractor.backbone.weights_source,
        cut=extractor.cut_names,
        pool=extractor.options.pool,
        image_size=extractor.backbone.preprocessing.image_size,
        settings=outcome.settings,
        history=[],
        selection=[],
        prediction_seconds_per_image=stages["extract"] / max(len(readable), 1)
        + testing.seconds / max(tested_images, 1),
        provenance={**provenance(manifest.digest), **({FEATURES_READ: said} if (said := extractor.stands_in) else {})},
    )


def recipe_of(
    experiment: Experiment,
    task: Task,
    method: str,
    name: str,
    identity: str,
    precision: Precision | None = None,
) -> ModelCard:
    """Return what a method stands on, with the task that it was tested as; a fine-tuned one adds what is its own.

    It predicts in the precision that the rows were computed in, or in the one that is given.
    """
    extractor = experiment.extractor
    backbone = extractor.backbone
    return ModelCard(
        method=method,
        name=name,
        seed=experiment.seed,
        task=task.to_json(),
        features=config_to_json(_with_whole_path(_in_precision(extractor, precision or _rows_precision(extractor)))),
        features_fingerprint=experiment.extractor.fingerprint,
        weights_digest=backbone.weights,
        unfreeze=None,
        identity=identity,
        handed_in=(
            {"identity": backbone.identity, "preprocessing": backbone.preprocessing.to_json()}
            if backbone.handed_in
            else None
        ),
        samples=sample_options(experiment.data) if experiment.manifest.images else None,
    )


def with_deviations(recipe: ModelCard, experiment: Experiment, head: Head, task: Task) -> ModelCard:
    """Return the card with how far the answers of the head move where features are computed in another way."""
    return replace(recipe, deviations=deviations_of(experiment, head, task))


def options_of(experiment: Experiment) -> dict[str, Any]:
    """Return the options of data and features that a result is made with; a method adds what is its own.

    The precision is that of the rows, by its name.
    """
    data = {} if experiment.data is None else asdict(experiment.data)
    for option in AFTER_TRAINING:
        data.pop(option, None)
    extractor = experiment.extractor
    features = config_to_json(_with_whole_path(_in_precision(extractor, _rows_precision(extractor))))
    return {**data, "metric": experiment.task.primary, **features}


def _rows_precision(extractor: Extractor) -> Precision:
    """Return the precision that the rows were computed in, which may be another one than this machine's."""
    return precision_of(extractor.taps[0].cache.spec.precision) or extractor.trunk.precision


def _in_precision(extractor: Extractor, precision: Precision) -> FeatureConfig:
    """Return the options of stage 1 with a precision by its name: left to a machine, it would be another on another."""
    return replace(extractor.options, precision=precision)


def _with_whole_path(options: FeatureConfig) -> FeatureConfig:
    """Return the options with weights, or a tuned network, that any folder finds."""
    if options.backbone.startswith(_OF_RUN):
        folder = Path(options.backbone.removeprefix(_OF_RUN)).absolute()
        options = replace(options, backbone=f"{_OF_RUN}{folder}")
    return replace(options, weights=str(Path(options.weights).resolve())) if Path(options.weights).exists() else options


def predictions_of(task: Task, test: Manifest, activated: NDArray[np.float32]) -> Predictions:
    """Return what was predicted for the test split, with whose images these are."""
    return predictions_from(task, test, task.statistic(torch.from_numpy(activated), torch.from_numpy(test.targets)))


def predictions_from(task: Task, test: Manifest, statistics: Statistics) -> Predictions:
    """Return what was predicted for the test split, of which the task kept this, with whose images these are."""
    groups = np.array(test.groups) if any(test.groups) else None
    return Predictions(task, np.array(test.keys, "S32"), np.array(test.locations), statistics, groups=groups)


def out_of_fold_predictions(experiment: Experiment, task: Task, out_of_fold: OutOfFold) -> OutOfFoldPredictions:
    """Return the outputs of a head out of folds as what was predicted for which sample."""
    manifest = experiment.manifest
    places = np.concatenate([manifest.indices("train"), manifest.indices("val")])
    targets, repeats = torch.from_numpy(manifest.targets[places]), len(out_of_fold.folds)
    numbers = manifest.group_numbers
    return OutOfFoldPredictions(
        task,
        np.tile(np.array(manifest.keys, "S32")[places], repeats),
        out_of_fold.folds.reshape(-1),
        np.repeat(np.arange(repeats), len(places)),
        np.concatenate(
            [task.statistic(torch.from_numpy(activated), targets) for activated in out_of_fold.activated(task)]
        ),
        None if numbers is None else np.tile(numbers[places].astype(np.str_), repeats),
    )


def format_accuracy(result: Result) -> str:
    """Return what was reached out of folds, and on the test split with its interval, by the metric that ranks."""
    metric = result.metric
    known = result.interval
    score, low, high = (
        format_score(value, as_percent=metric.as_percent) for value in (result.test[metric.name], known.low, known.high)
    )
    groups = "" if known.groups is None else f", over {known.groups:,} groups"
    test = f"test {metric.label} {score} (95 % interval {low} to {high}{groups})"
    if result.cv is None:
        return test
    return f"{format_score(result.cv['mean'], as_percent=metric.as_percent)} out of folds, {test}"
