"""The steps of a comparison, each leaving what it did in the run: extraction, heads on the cache, fine-tuning.

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

from cache import KeyMemo, key_of_bytes
from pipeline.configuration import write_configuration
from pipeline.console import byte_count, duration, say
from pipeline.models import HEAD_WITHOUT_VAL, Recipe, forget_model, plain_features, read_recipe, save_model
from pipeline.results import Predictions, Result
from stages.data import Manifest, contact_sheet, load_manifest, read_image
from stages.distributed import ALONE, Rank
from stages.extract import Extraction, extract
from stages.extractor import Extractor, complete_stores, read_features, readable_samples
from stages.finetune import finetune, image_probabilities, training_identity
from stages.fitting.rows import AnyRows
from stages.head import Rows, StreamedRows, TrainedHead, head_probabilities, method_of, train_head
from stages.machine import describe_machine
from stages.network.heads import load_head
from stages.options import Data, Features, Finetune, Head, HeadName
from stages.progress import progress
from stages.training.cost import Cost, measured
from stages.training.loop import Epoch
from stages.training.metrics import evaluate

ENVIRONMENT = "environment.json"
EXTRACTION = "extraction.json"
MANIFEST = "manifest.csv"
CONTACT_SHEET = "contact-sheet.png"


def open_run(path: Path, *groups: Data | Features | Head | Finetune) -> None:
    """Make the run directory and leave the resolved configuration and the machine's description in it."""
    write_configuration(path, *groups)
    _write_json(path / ENVIRONMENT, describe_machine())


def make_manifest(data: Data, features: Features, seed: int) -> Manifest:
    """Return the manifest of the data under one seed, with keys remembered beside the cache."""
    memo = KeyMemo(features.cache / "keys.sqlite")
    return load_manifest(data, seed, memo=memo, progress=lambda items: progress(items, label="read keys", unit="files"))


def manifest_in_words(manifest: Manifest) -> str:
    """Return how many images of how many classes there are in each split, and what was done to get there."""
    lines = [", ".join(manifest.summary())]
    return "\n".join([*lines, *(f"note: {note}" for note in manifest.notes)])


def open_seed(run: Path, data: Data, features: Features, seed: int) -> tuple[Manifest, Path]:
    """Return the manifest of one seed and the directory it was left in, where all else of the seed goes too."""
    manifest = make_manifest(data, features, seed)
    say(f"seed {seed}: {manifest_in_words(manifest)}")
    directory = run / f"seed-{seed}"
    directory.mkdir(parents=True, exist_ok=True)
    manifest.save(directory / MANIFEST)
    return manifest, directory


def extract_features(
    extractor: Extractor, manifest: Manifest, directory: Path | None, rank: Rank = ALONE
) -> Extraction:
    """Bring the cache up to date, say what that took, and leave an account of it in `directory`."""
    report = extract(extractor, manifest, rank)
    if not rank.first:
        return report
    say(*_words(report, extractor))
    if directory is not None:
        account = {**report.to_json(), "notes": [*manifest.notes, *extractor.notes]}
        _write_json(directory / EXTRACTION, account)
    return report


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
        identity = _identity(extractor, manifest, seed, {**asdict(options), "head": name, **_views(extractor)})
        done = _finished(place, identity)
        if done is not None:
            say(f"seed {seed}  {place.name}: already trained, {_accuracy(done)}")
            results.append(done)
            continue
        with measured() as training:
            classes = len(manifest.class_names)
            trained = train_head(name, options, train, val, classes, seed, extractor.device, graph=graph, cut=cut)
        with measured() as testing:
            probabilities = head_probabilities(trained.module, test_rows)
        result = _result(
            extractor,
            manifest,
            seed,
            trained.method,
            name,
            {**trained.settings, **_views(extractor)},
            trained.val_accuracy,
            test.labels,
            probabilities,
            [training, testing],
            trained.trainable_parameters,
        )
        result = replace(result, selection=trained.selection, history=[asdict(epoch) for epoch in trained.history])
        recipe = _recipe(extractor, manifest, seed, trained.method, name, identity)
        forget_model(place)
        result.save(place, _predictions(test, probabilities))
        save_model(place, recipe, trained.module, without_val=trained.module_without_val)
        say(f"seed {seed}  {place.name}: {_accuracy(result)}, trained in {duration(training.seconds)}")
        results.append(result)
    return results


def run_finetune(
    extractor: Extractor, manifest: Manifest, options: Finetune, head: Head, seed: int, directory: Path
) -> Result:
    """Fine-tune from a stage-2 head (trained first if the run has none) and test; goes on from a killed call."""
    start_result = run_heads(extractor, manifest, [options.start], head, seed, directory)[0]
    manifest = readable_samples(extractor, manifest)
    place = directory / place_of(options.start)
    start = _saved_head(extractor, place, options.start, start_result)
    name = f"top-{options.unfreeze}" if options.unfreeze.isdigit() else options.unfreeze
    place = directory / f"finetune-{name}"
    identity = training_identity(extractor, start, options, manifest, seed)
    done = _finished(place, identity)
    if done is not None:
        say(f"seed {seed}  {place.name}: already trained, {_accuracy(done)}")
        return done
    place.mkdir(parents=True, exist_ok=True)
    _draw_contact_sheet(extractor, manifest, seed, place / CONTACT_SHEET)
    say(f"seed {seed}  {place.name}: fine-tuning, {options.epochs} epochs")
    with measured() as training:
        tuned = finetune(extractor, start, options, manifest, seed, place / "checkpoint.pt", _say_epoch)
    test = manifest.select(manifest.indices("test"))
    with measured() as testing:
        probabilities = image_probabilities(extractor, tuned.upper, test)
    assert tuned.fit.best is not None
    settings = {
        **{key: value for key, value in asdict(options).items() if key != "loader_workers"},
        "augment": extractor.options.augment,
        "best epoch": tuned.fit.best.epoch,
        "trained blocks": list(tuned.upper.trained),
    }
    result = _result(
        extractor,
        manifest,
        seed,
        "finetune",
        name,
        settings,
        tuned.fit.best.val_accuracy,
        test.labels,
        probabilities,
        [training, testing],
        tuned.trainable_parameters,
    )
    # what a killed and resumed training spent before is in its history; the head it starts from is part of the price
    training_seconds = max(training.seconds, sum(epoch.seconds for epoch in tuned.fit.history))
    stages = {**result.seconds_by_stage, "train": start_result.seconds_by_stage["train"] + training_seconds}
    result = replace(
        result,
        seconds_by_stage=stages,
        seconds=sum(stages.values()),
        backbone_forwards=tuned.backbone_forwards + len(test.keys),
        history=[asdict(epoch) for epoch in tuned.fit.history],
    )
    forget_model(place)
    result.save(place, _predictions(test, probabilities))
    recipe = _recipe(extractor, manifest, seed, "finetune", name, identity, unfreeze=options.unfreeze)
    save_model(place, recipe, tuned.head, tuned=tuned)
    (place / "checkpoint.pt").unlink(missing_ok=True)
    say(f"seed {seed}  {place.name}: {_accuracy(result)}, trained in {duration(training_seconds)}")
    return result


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


def _finished(place: Path, identity: str) -> Result | None:
    """Return the result of a method that was trained in just this way, if the run has it."""
    recipe = read_recipe(place)
    return Result.load(place) if recipe is not None and recipe.identity == identity else None


def _identity(extractor: Extractor, manifest: Manifest, seed: int, options: dict[str, Any]) -> str:
    samples = "".join(manifest.keys) + " ".join(manifest.splits) + " ".join(map(str, manifest.labels.tolist()))
    words = [extractor.fingerprint, samples, list(manifest.class_names), seed, options]
    return key_of_bytes(json.dumps(words, sort_keys=True, default=str).encode())


def _views(extractor: Extractor) -> dict[str, Any]:
    """Return what the heads are shown besides the evaluation view, as settings; nothing where that is all."""
    options = extractor.options
    return {"views": options.views, "augment": options.augment} if options.views > 1 else {}


def _saved_head(extractor: Extractor, place: Path, name: HeadName, result: Result) -> TrainedHead:
    head, _ = load_head(place / HEAD_WITHOUT_VAL, extractor.graph)
    return TrainedHead(name, head, head, result.val["accuracy"], float("nan"))


def _result(
    extractor: Extractor,
    manifest: Manifest,
    seed: int,
    method: str,
    name: str,
    settings: dict[str, Any],
    val_accuracy: float,
    test_labels: NDArray[np.int64],
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
        test=evaluate(test_labels, probabilities, seed=seed),
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


def _recipe(
    extractor: Extractor,
    manifest: Manifest,
    seed: int,
    method: str,
    name: str,
    identity: str,
    unfreeze: str | None = None,
) -> Recipe:
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
        unfreeze=unfreeze,
        identity=identity,
    )


def _predictions(test: Manifest, probabilities: NDArray[np.float32]) -> Predictions:
    return Predictions(np.array(test.keys, "S32"), np.array(test.locations), test.labels, probabilities)


def _draw_contact_sheet(
    extractor: Extractor, manifest: Manifest, seed: int, path: Path, images: int = 6, views: int = 7
) -> None:
    train = manifest.select(manifest.indices("train")[:: max(len(manifest.indices("train")) // images, 1)][:images])
    contact_sheet(
        [read_image(location) for location in train.locations],
        extractor.augmentation,
        range(seed * views, (seed + 1) * views),
        path,
        title=f"What the network sees while fine-tuning: augmentation '{extractor.options.augment}'",
    )


def _say_epoch(epoch: Epoch) -> None:
    trained = f"train {epoch.train_accuracy:.4f}  " if epoch.train_accuracy is not None else "as joined      "
    say(
        f"  epoch {epoch.epoch:>3}  {trained}val {epoch.val_accuracy:.4f}  loss {epoch.val_loss:.4f}  "
        f"{duration(epoch.seconds) if epoch.seconds else ''}"
    )


def _accuracy(result: Result) -> str:
    low, high = result.test["accuracy_ci95"]
    return f"test accuracy {result.test['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%})"


def _words(report: Extraction, extractor: Extractor) -> list[str]:
    rows = " + ".join(str(list(shape)) for shape in report.row_shapes)
    views = f", {report.views} views" if report.views > 1 else ""
    lines = [f"{report.backbone} ({report.weights}), cut at {report.cut}, row {rows}{views}"]
    if report.extracted or report.elsewhere:
        others = f", {report.elsewhere} by other processes" if report.elsewhere else ""
        lines.append(
            f"extracted {report.extracted} images{others} in {duration(report.seconds)} "
            f"({report.images_per_second:.0f} images/s); {report.hits} were in the cache already"
        )
        busy = ", ".join(f"{stage} {share:.0%}" for stage, share in report.shares.items())
        lines.append(f"busy: {busy}")
    else:
        lines.append(f"nothing to do: all {report.hits} images are in the cache")
    paths = ", ".join(str(cache.path) for cache in extractor.caches)
    lines.append(f"cache {paths}: {byte_count(report.size_on_disk)}")
    lines += [f"note: {note}" for note in extractor.notes]
    if report.skipped:
        lines.append(f"skipped {len(report.skipped)} images that could not be read:")
        lines += [f"  {location!r}: {reason}" for location, reason in report.skipped[:20]]
        if len(report.skipped) > 20:
            lines.append(f"  and {len(report.skipped) - 20} more; all are listed in {EXTRACTION} of the run")
    return lines


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1, default=str), encoding="utf-8")
    temporary.replace(path)
