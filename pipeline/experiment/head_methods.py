"""The methods of a comparison on cached features, each leaving in the run what it learned and what it reached.

Every method is tested here and in the same way: on the manifest's test split, once, after it is trained.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from cache import key_of_bytes
from pipeline.evaluation.results import Predictions, Result
from pipeline.experiment.model_store import ModelCard, config_to_json, invalidate_model, read_recipe, save_model
from pipeline.text import byte_count, duration
from stages.config.heads import HeadConfig, HeadName
from stages.config.version_1 import as_version_1
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor
from stages.extraction.read_features import drop_unreadable, read_features, require_cached
from stages.fitting.feature_rows import AnyFeatureRows
from stages.fitting.fit_head import FeatureRows, StreamedFeatureRows, head_method, head_probabilities, train_head
from stages.runtime.cost import Cost, measured
from stages.tasks.evaluate import evaluate

_LOG = logging.getLogger("cutonce")


def run_heads(
    extractor: Extractor, manifest: Manifest, names: Sequence[HeadName], options: HeadConfig, seed: int, directory: Path
) -> list[Result]:
    """Train heads on the cached features and test each; a head the run already has is not trained again."""
    manifest = drop_unreadable(extractor, manifest)
    train, val, test_rows = load_split_features(extractor, manifest, options)
    test = manifest.select(manifest.indices("test"))
    graph, cut = extractor.graph, extractor.taps[0].cut if len(extractor.taps) == 1 else None
    results = []
    for name in names:
        place = directory / head_dir_name(name)
        identity = _identity(
            extractor, manifest, seed, {**asdict(options), "head": name, **views_as_settings(extractor)}
        )
        done = load_if_finished(place, identity)
        if done is not None:
            _LOG.info(f"seed {seed}  {place.name}: already trained, {format_accuracy(done)}")
            results.append(done)
            continue
        with measured() as training:
            classes = len(manifest.class_names)
            trained = train_head(name, options, train, val, classes, seed, extractor.device, graph=graph, cut=cut)
        with measured() as testing:
            probabilities = head_probabilities(trained.module, test_rows)
        result = build_result(
            extractor,
            manifest,
            seed,
            trained.method,
            name,
            {**trained.settings, **views_as_settings(extractor)},
            trained.val_accuracy,
            test,
            probabilities,
            [training, testing],
            trained.trainable_parameters,
        )
        result = replace(result, selection=trained.selection, history=[epoch.to_json() for epoch in trained.history])
        recipe = recipe_of(extractor, manifest, seed, trained.method, name, identity)
        invalidate_model(place)
        result.save(place, predictions_of(test, probabilities))
        save_model(place, recipe, trained.module, without_val=trained.module_train_only)
        _LOG.info(f"seed {seed}  {place.name}: {format_accuracy(result)}, trained in {duration(training.seconds)}")
        results.append(result)
    return results


def head_dir_name(name: HeadName) -> str:
    """Return the name of the folder of a head: its method and its name, in which a path of Python has no colon."""
    return f"{head_method(name)}-{name.replace(':', '.')}"


def load_split_features(
    extractor: Extractor, manifest: Manifest, options: HeadConfig
) -> tuple[AnyFeatureRows, AnyFeatureRows, AnyFeatureRows]:
    """Return the cached features of train, validation and test: in memory, or, where they are too large, streamed."""
    parts = {name: manifest.select(manifest.indices(name)) for name in ("train", "val", "test")}
    views = extractor.options.views
    row_bytes = math.prod(extractor.row_shape) * np.dtype(extractor.options.storage_dtype).itemsize
    size = (len(manifest) + (views - 1) * len(parts["train"])) * row_bytes
    allowed = (
        options.max_memory_gb * 1e9 if options.max_memory_gb is not None else psutil.virtual_memory().available / 2
    )
    if size > allowed:
        _LOG.info(
            f"the features take {byte_count(size)}, and `max_memory_gb` allows {byte_count(allowed)}: they are streamed"
            + (", the evaluation view alone" if views > 1 else "")
        )
        stores = require_cached(extractor, manifest)
        streams = [StreamedFeatureRows(stores, part.keys, part.labels, int(allowed)) for part in parts.values()]
        return streams[0], streams[1], streams[2]
    features = read_features(extractor, manifest)
    numbers = manifest.group_numbers
    in_split = [manifest.indices(name) for name in parts]
    train, val, test = (
        FeatureRows(features[places], manifest.labels[places], groups=None if numbers is None else numbers[places])
        for places in in_split
    )
    augmented = [read_features(extractor, parts["train"], view) for view in range(1, views)]
    return replace(train, augmented=augmented), val, test


def load_if_finished(place: Path, identity: str) -> Result | None:
    """Return the result of a method that was trained in just this way, if the run has it."""
    recipe = read_recipe(place)
    return Result.load(place) if recipe is not None and recipe.identity == identity else None


def _identity(extractor: Extractor, manifest: Manifest, seed: int, options: dict[str, Any]) -> str:
    samples = "".join(manifest.keys) + " ".join(manifest.splits) + " ".join(map(str, manifest.labels.tolist()))
    words = [extractor.fingerprint, samples, list(manifest.class_names), seed, as_version_1(options)]
    return key_of_bytes(json.dumps(words, sort_keys=True, default=str).encode())


def views_as_settings(extractor: Extractor) -> dict[str, Any]:
    """Return what the heads are shown besides the evaluation view, as settings; nothing where that is all."""
    options = extractor.options
    return {"views": options.views, "augment": options.augment} if options.views > 1 else {}


def build_result(
    extractor: Extractor,
    manifest: Manifest,
    seed: int,
    method: str,
    name: str,
    settings: dict[str, Any],
    val_accuracy: float,
    test: Manifest,
    probabilities: NDArray[np.float32],
    costs: list[Cost],
    trainable_parameters: int,
) -> Result:
    """Return the result of a method; a fine-tuned one adds what is its own."""
    training, testing = costs
    readable = list(dict.fromkeys(manifest.keys))
    stages = {
        "extract": extractor.seconds(readable),
        "train": training.seconds,
        "evaluate": testing.seconds,
    }
    return Result(
        method=method,
        name=name,
        seed=seed,
        samples={split: len(manifest.indices(split)) for split in ("train", "val", "test")},
        class_names=manifest.class_names,
        val={"accuracy": val_accuracy},
        test=evaluate(test.labels, probabilities, seed=seed),
        seconds=sum(stages.values()),
        seconds_by_stage=stages,
        cpu_seconds=sum(cost.cpu_seconds for cost in costs),
        peak_memory_bytes=max(cost.peak_memory_bytes for cost in costs),
        trainable_parameters=trainable_parameters,
        backbone_forwards=0,
        extraction_forwards=len(readable),
        backbone=extractor.backbone.name,
        weights=extractor.backbone.weights_source,
        cut=extractor.cut_names,
        pool=extractor.options.pool,
        image_size=extractor.backbone.preprocessing.image_size,
        settings=settings,
        history=[],
        selection=[],
    )


def recipe_of(
    extractor: Extractor,
    manifest: Manifest,
    seed: int,
    method: str,
    name: str,
    identity: str,
) -> ModelCard:
    """Return what a method stands on; a fine-tuned one adds what is its own."""
    options = extractor.options
    if Path(options.weights).exists():
        options = replace(options, weights=str(Path(options.weights).resolve()))
    return ModelCard(
        method=method,
        name=name,
        seed=seed,
        class_names=list(manifest.class_names),
        features=config_to_json(options),
        weights_digest=extractor.backbone.weights,
        unfreeze=None,
        identity=identity,
    )


def predictions_of(test: Manifest, probabilities: NDArray[np.float32]) -> Predictions:
    """Return what was predicted for the test split, with whose images these are."""
    return Predictions(np.array(test.keys, "S32"), np.array(test.locations), test.labels, probabilities)


def format_accuracy(result: Result) -> str:
    """Return the accuracy on the test split with its interval."""
    low, high = result.test["accuracy_ci95"]
    return f"test accuracy {result.test['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%})"
