"""The methods of a comparison on cached features, each leaving in the run what it learned and what it reached.

Every method is tested here and in the same way: on the manifest's test split, once, after it is trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from cache import key_of_bytes
from pipeline.console import byte_count, duration, say
from pipeline.models import Recipe, forget_model, plain_features, read_recipe, save_model
from pipeline.results import Predictions, Result
from stages.data import Manifest
from stages.extractor import Extractor, complete_stores, read_features, readable_samples
from stages.fitting.rows import AnyRows
from stages.head import Rows, StreamedRows, head_probabilities, method_of, train_head
from stages.options import Head, HeadName
from stages.training.cost import Cost, measured
from stages.training.metrics import evaluate


def run_heads(
    extractor: Extractor, manifest: Manifest, names: Sequence[HeadName], options: Head, seed: int, directory: Path
) -> list[Result]:
    """Train heads on the cached features and test each; a head the run already has is not trained again."""
    manifest = readable_samples(extractor, manifest)
    train, val, test_rows = rows_of_splits(extractor, manifest, options)
    test = manifest.select(manifest.indices("test"))
    graph, cut = extractor.graph, extractor.taps[0].cut if len(extractor.taps) == 1 else None
    results = []
    for name in names:
        place = directory / place_of(name)
        identity = _identity(
            extractor, manifest, seed, {**asdict(options), "head": name, **views_as_settings(extractor)}
        )
        done = finished(place, identity)
        if done is not None:
            say(f"seed {seed}  {place.name}: already trained, {accuracy_in_words(done)}")
            results.append(done)
            continue
        with measured() as training:
            classes = len(manifest.class_names)
            trained = train_head(name, options, train, val, classes, seed, extractor.device, graph=graph, cut=cut)
        with measured() as testing:
            probabilities = head_probabilities(trained.module, test_rows)
        result = result_of(
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
        result = replace(result, selection=trained.selection, history=[asdict(epoch) for epoch in trained.history])
        recipe = recipe_of(extractor, manifest, seed, trained.method, name, identity)
        forget_model(place)
        result.save(place, predictions_of(test, probabilities))
        save_model(place, recipe, trained.module, without_val=trained.module_without_val)
        say(f"seed {seed}  {place.name}: {accuracy_in_words(result)}, trained in {duration(training.seconds)}")
        results.append(result)
    return results


def place_of(name: HeadName) -> str:
    """Return the name of the folder of a head: its method and its name, in which a path of Python has no colon."""
    return f"{method_of(name)}-{name.replace(':', '.')}"


def rows_of_splits(extractor: Extractor, manifest: Manifest, options: Head) -> tuple[AnyRows, AnyRows, AnyRows]:
    """Return the cached features of train, validation and test: in memory, or, where they are too large, streamed."""
    parts = {name: manifest.select(manifest.indices(name)) for name in ("train", "val", "test")}
    views = extractor.options.views
    row_bytes = math.prod(extractor.row_shape) * np.dtype(extractor.options.dtype).itemsize
    size = (len(manifest) + (views - 1) * len(parts["train"])) * row_bytes
    allowed = options.memory * 1e9 if options.memory is not None else psutil.virtual_memory().available / 2
    if size > allowed:
        say(
            f"the features take {byte_count(size)}, and --memory allows {byte_count(allowed)}: they are streamed"
            + (", the evaluation view alone" if views > 1 else "")
        )
        stores = complete_stores(extractor, manifest)
        streams = [StreamedRows(stores, part.keys, part.labels, int(allowed)) for part in parts.values()]
        return streams[0], streams[1], streams[2]
    features = read_features(extractor, manifest)
    numbers = manifest.group_numbers
    in_split = [manifest.indices(name) for name in parts]
    train, val, test = (
        Rows(features[places], manifest.labels[places], groups=None if numbers is None else numbers[places])
        for places in in_split
    )
    augmented = [read_features(extractor, parts["train"], view) for view in range(1, views)]
    return replace(train, augmented=augmented), val, test


def finished(place: Path, identity: str) -> Result | None:
    """Return the result of a method that was trained in just this way, if the run has it."""
    recipe = read_recipe(place)
    return Result.load(place) if recipe is not None and recipe.identity == identity else None


def _identity(extractor: Extractor, manifest: Manifest, seed: int, options: dict[str, Any]) -> str:
    samples = "".join(manifest.keys) + " ".join(manifest.splits) + " ".join(map(str, manifest.labels.tolist()))
    words = [extractor.fingerprint, samples, list(manifest.class_names), seed, options]
    return key_of_bytes(json.dumps(words, sort_keys=True, default=str).encode())


def views_as_settings(extractor: Extractor) -> dict[str, Any]:
    """Return what the heads are shown besides the evaluation view, as settings; nothing where that is all."""
    options = extractor.options
    return {"views": options.views, "augment": options.augment} if options.views > 1 else {}


def result_of(
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
) -> Recipe:
    """Return what a method stands on; a fine-tuned one adds what is its own."""
    options = extractor.options
    if Path(options.weights).exists():
        options = replace(options, weights=str(Path(options.weights).resolve()))
    return Recipe(
        method=method,
        name=name,
        seed=seed,
        class_names=list(manifest.class_names),
        features=plain_features(options),
        weights_digest=extractor.backbone.weights,
        unfreeze=None,
        identity=identity,
    )


def predictions_of(test: Manifest, probabilities: NDArray[np.float32]) -> Predictions:
    """Return what was predicted for the test split, with whose images these are."""
    return Predictions(np.array(test.keys, "S32"), np.array(test.locations), test.labels, probabilities)


def accuracy_in_words(result: Result) -> str:
    """Return the accuracy on the test split with its interval."""
    low, high = result.test["accuracy_ci95"]
    return f"test accuracy {result.test['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%})"
