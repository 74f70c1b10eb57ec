"""Trained methods of a run on another labelled data set: results as of a test split, in a folder of their own.

The run is read and not written. What is left under ``RUN/evaluations/NAME`` has the layout of a run without models, so
that the same page shows it; no command chooses by it.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cache import DigestCache
from cache.atomic_write import write_atomically
from cache.errors import DataError, UsageError, listed
from cache.keys import KEY_MEMO
from pipeline.evaluation.comparison import compare_runs, summarize, with_chosen
from pipeline.evaluation.console import format_tables, format_verdict
from pipeline.evaluation.method_folders import files_of_methods, made_whole
from pipeline.evaluation.new_data import Evaluation, against_own_test, verdict_on_new_data
from pipeline.evaluation.results import FEATURES_READ, VIEWS_READ, Result, evaluate_test, json_text, to_json_value
from pipeline.experiment.compare_runs import write_comparison
from pipeline.experiment.methods.head_methods import masks_for, predictions_from, predictions_of
from pipeline.experiment.models.mixture_model import Network, mean_answers, open_networks
from pipeline.experiment.models.model_card import ModelCard, read_columns, read_recipe, read_unlike, task_of_model
from pipeline.experiment.prediction.classify_images import choose_model
from pipeline.experiment.prediction.predict_masks import show_masks_of_network
from pipeline.experiment.prediction.unlike_images import cached_vectors
from pipeline.experiment.setup.run_setup import record_options
from pipeline.options.toml_file import read_configuration
from pipeline.run_layout import (
    CONFIGURATION,
    ENVIRONMENT,
    EVALUATION,
    EVALUATIONS,
    EXTRACTION,
    FIGURES,
    MANIFEST,
    MARKDOWN,
    MODEL_CARD,
    PREDICTIONS_TABLE,
    REPORT,
    RESULT,
    RESULTS,
    TABLE,
    TRAINED_IN,
    seed_dir,
    seed_dirs,
    seed_of,
)
from pipeline.text import terminal_width
from stages.columns.table_encoder import TableEncoder
from stages.config.data import DataConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import Manifest, load_targets
from stages.data.new_samples import load_new_samples
from stages.data.sources.tiles import tiling_of
from stages.extraction.extract import extract
from stages.extraction.extractor import Extractor
from stages.extraction.read_features import drop_unreadable, places_of, read_bags, read_features, require_cached
from stages.extraction.stand_in import stand_in
from stages.finetuning.predict_images import predict_proba, read_vectors
from stages.finetuning.predict_masks import mask_statistics
from stages.finetuning.transfer_model import TransferModel
from stages.fitting.epochs.map_heads import map_statistics
from stages.fitting.feature_rows import StreamedFeatureRows
from stages.fitting.fit_head import head_probabilities
from stages.network.heads.base import Head
from stages.network.heads.blocks import AggregatedBlocksHead
from stages.runtime.progress import progress
from stages.runtime.provenance import provenance
from stages.tasks.base import Statistics, Task, task_from_json

Seen = Literal["refuse", "leave-out", "keep"]
Unknown = Literal["refuse", "leave-out"]

_LOG = logging.getLogger("cutonce")

_FROM_RUN = ("images", "sample", "frames", "group_by", "group_column", "target", "log_target")
"""Options that say how samples and targets are read: as the run's, unless they are given."""

_WRITTEN = (FIGURES, REPORT, MARKDOWN, RESULTS, PREDICTIONS_TABLE, TABLE, CONFIGURATION, ENVIRONMENT)
"""What an evaluation leaves besides folders of seeds."""

_NAMED = 3
"""Samples that a message names."""

_BUFFER = 256 << 20
"""Bytes of maps that are in memory at a time, at most."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What of a run is evaluated, and what becomes of samples that it cannot be fairly asked about.

    Attributes
    ----------
    method : str, optional
        The folder's name of one method; by default every trained one.
    seed : int, optional
        One seed; by default every one.
    split : str, optional
        Take the samples of this split of the source alone.
    seen : str
        Samples that trained or chose the methods: ``refuse``, ``leave-out`` (those of the run's test split too), or
        ``keep``.
    unknown : str
        Samples of classes that the run does not know: ``refuse`` or ``leave-out``.
    device : str
    cache : Path, optional
        Where features go; by default where the run has them.
    exact_spec : bool
        Whether complete caches of another arithmetic or decoder do not serve.
    """

    method: str | None = None
    seed: int | None = None
    split: str | None = None
    seen: Seen = "refuse"
    unknown: Unknown = "refuse"
    device: str = "auto"
    cache: Path | None = None
    exact_spec: bool = False


def evaluate_run(run: Path, data: str, given: Mapping[str, Any], options: EvaluationOptions, out: Path) -> Evaluation:
    """Test trained methods of a run on labelled samples of `data`, and leave results and a page in `out`.

    Parameters
    ----------
    run : Path
    data : str
        What the option `data` takes.
    given : mapping
        Options of the data that are not as the run's: ``group_column``, say.
    options : EvaluationOptions
    out : Path
        An evaluation that is there is replaced.

    Raises
    ------
    UsageError
        If the run has no such method or seed, or `out` is a run.
    DataError
        If the samples have no targets, targets that the run does not know, or are samples that trained it.
    """
    models = _models(run, options)
    recipe = _card(models[0])
    task = task_from_json(recipe.task)
    config = _data_options(run, Result.load(models[0]), task, data, given)
    cache = options.cache or Path(recipe.features["cache"])
    manifest = load_new_samples(
        config,
        task,
        DigestCache(cache / KEY_MEMO),
        partial(progress, label="read keys", unit="files"),
        split=options.split,
        leave_out_unknown=options.unknown == "leave-out",
        mask_classes=Manifest.load(models[0].parent / MANIFEST).mask_classes if task.reads == "image" else None,
    )
    seeds = list(dict.fromkeys(seed_of(model.parent) for model in models))
    manifest, seen, notes = _without_seen(run, seeds, manifest, options.seen)
    _require_columns(models, manifest)
    _make_room(out)
    # from now on it is known for an evaluation, even where it ends before its results are there
    write_atomically(out / EVALUATION, json_text({"data": data}).encode())
    _LOG.info("\n".join([f"{data}: {manifest.summary()[0]}", *(f"note: {note}" for note in (*manifest.notes, *notes))]))
    manifest, skipped, read = _extracted(models, manifest, options, cache)
    if not len(manifest):
        raise DataError(f"no sample of {data} could be read; the first: {skipped[0][1]}")
    for seed in seeds:
        directory = seed_dir(out, seed)
        directory.mkdir(parents=True, exist_ok=True)
        of_seed = [model for model in models if seed_of(model.parent) == seed]
        with_task = _with_task(manifest, task_from_json(_card(of_seed[0]).task))
        with_task.save(directory / MANIFEST)
        account = {"notes": [*manifest.notes, *notes, *read], "skipped": [*manifest.unreadable, *skipped]}
        write_atomically(directory / EXTRACTION, json.dumps(account, indent=1, default=str).encode())
        for model in of_seed:
            _test(model, with_task, options, cache, directory / model.name, data)
    record_options(out, config)
    chosen = choose_model(run, None, None).directory
    unlike = count_unlike(chosen if chosen in models else models[0], manifest, options, cache)
    return _publish(run, models, out, data, seen, unlike)


def default_out(run: Path, data: str, name: str | None) -> Path:
    """Return where an evaluation goes: by its name, or by what the data are called."""
    words = name or re.sub(r"[^\w.-]+", "-", Path(data).stem if Path(data).suffix else Path(data).name).strip("-.")
    if not words or Path(words).name != words:
        raise UsageError(f"`name` {words!r} must be the name of a folder")
    return run / EVALUATIONS / words


def _models(run: Path, options: EvaluationOptions) -> list[Path]:
    """Return the folders of the trained methods to test, in the order of seeds and names."""
    chosen = choose_model(run, options.method, options.seed).directory  # which refuses what the run does not have
    models = [path.parent for path in files_of_methods(run, MODEL_CARD) if (path.parent / RESULT).exists()]
    if options.method is not None:
        models = [model for model in models if model.name == chosen.name]
    if options.seed is not None:
        models = [model for model in models if seed_of(model.parent) == options.seed]
    if not models:
        raise DataError(f"{chosen} has no {RESULT}: train this method again")
    return models


def _card(model: Path) -> ModelCard:
    recipe = read_recipe(model)
    assert recipe is not None, "a folder that was found by its card"
    return recipe


def _data_options(run: Path, result: Result, task: Task, data: str, given: Mapping[str, Any]) -> DataConfig:
    """Return the options of the new data: how the run reads samples and targets, as far as nothing else is given."""
    path = run / CONFIGURATION
    known = {**(read_configuration(path) if path.exists() else {}), **result.options}
    types = {option.name: option.default for option in fields(DataConfig)}
    of_run = {
        name: tuple(known[name]) if isinstance(types[name], tuple) else known[name]
        for name in _FROM_RUN
        if known.get(name) is not None
    }
    if levels := getattr(task, "levels", ()):
        of_run["ordinal"] = tuple(levels)
    return DataConfig(data, **{**of_run, **given, "task": task.name, "allow_leakage": True})


def _without_seen(
    run: Path, seeds: Sequence[int], manifest: Manifest, seen: Seen
) -> tuple[Manifest, dict[str, int], list[str]]:
    """Return the samples to test on, how many of them the run has in which split, and what is to be said of that.

    A sample is known by the keys of its images: renamed or moved, it is the same.
    """
    split_of: dict[str, str] = {}
    places: dict[str, str] = {}
    groups: set[str] = set()
    for seed in seeds:
        path = seed_dir(run, seed) / MANIFEST
        if not path.exists():
            raise DataError(f"{path} is missing: it says which images trained the methods of {run}")
        samples = Manifest.load(path)
        rows = samples.by_image()
        for key, split, location in zip(rows.keys, rows.splits, rows.locations, strict=True):
            # of several seeds, one that trained on it counts
            if split_of.get(key) != "train" and (split != "test" or key not in split_of):
                split_of[key], places[key] = split, location
        groups.update(
            group for group, split in zip(samples.groups, samples.splits, strict=False) if group and split != "test"
        )
    images = manifest.images or [()] * len(manifest)
    keys = [
        [image.key for image in views if image is not None] or [key]
        for key, views in zip(manifest.keys, images, strict=True)
    ]
    found = [next((key for key in of_sample if key in split_of), None) for of_sample in keys]
    splits = [None if key is None else split_of[key] for key in found]
    counts = Counter(split for split in splits if split is not None)
    trained = [index for index, split in enumerate(splits) if split in ("train", "val")]
    if not counts:
        return manifest, {}, _shared_groups(manifest, groups)
    said = ", ".join(f"{counts[split]:,} in its {split} split" for split in ("train", "val", "test") if counts[split])
    first = trained or [index for index, split in enumerate(splits) if split is not None]
    examples = listed(
        [
            f"{manifest.locations[index]} is {places[known]}"
            for index in first[:_NAMED]
            if (known := found[index]) is not None
        ],
        separator="; ",
    )
    overlap = f"{counts.total():,} of {len(manifest):,} samples are samples of {run}: {said} ({examples})"
    if seen == "leave-out":
        kept = [index for index, split in enumerate(splits) if split is None]
        if not kept:
            raise DataError(f"{overlap}: nothing is left to evaluate on")
        manifest = manifest.select(kept)
        return manifest, {}, [f"{overlap}; they are left out", *_shared_groups(manifest, groups)]
    if trained and seen == "refuse":
        raise DataError(
            f"{overlap}. Methods answer better for what trained or chose them than for what is new: say `seen` "
            "leave-out to evaluate on the others, or `seen` keep to count these too"
        )
    return manifest, dict(counts), [f"{overlap}; they are counted", *_shared_groups(manifest, groups)]


def _shared_groups(manifest: Manifest, groups: set[str]) -> list[str]:
    """Return a note of samples whose groups are called as groups that trained the run."""
    shared = sorted({group for group in manifest.groups if group in groups})
    if not shared:
        return []
    count = sum(group in groups for group in manifest.groups)
    return [
        f"{count:,} samples are of groups that are called as groups of the run's training and validation splits "
        f"({listed(shared)}): if they are the same, these samples are not independent of it"
    ]


def _require_columns(models: Sequence[Path], manifest: Manifest) -> None:
    """Refuse samples without the columns that a method was trained with."""
    for model in models:
        columns = read_columns(model)
        missing = [] if columns is None else [name for name in columns.names if name not in manifest.extra]
        if missing:
            raise DataError(
                f"{model.name} was trained with columns of a table, and the new samples have no {listed(missing)}: "
                "give a table that has them, or name by `method` one that takes images alone"
            )


def _make_room(out: Path) -> None:
    """Remove what an evaluation that is there has left; refuse a folder that is none."""
    if files_of_methods(out, MODEL_CARD) or (files_of_methods(out, RESULT) and not (out / EVALUATION).exists()):
        raise UsageError(f"`out` {out} is a run: an evaluation goes into a folder of its own")
    there = [path.name for path in (*seed_dirs(out), *(out / name for name in _WRITTEN)) if path.exists()]
    if there and not (out / EVALUATION).exists():
        raise UsageError(
            f"`out` {out} holds what no evaluation wrote and one would replace ({listed(there)}): name a new or empty "
            "folder"
        )
    for directory in (*seed_dirs(out), out / FIGURES):
        shutil.rmtree(directory, ignore_errors=True)
    for name in (REPORT, RESULTS, PREDICTIONS_TABLE):
        (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)


def _extracted(
    models: Sequence[Path], manifest: Manifest, options: EvaluationOptions, cache: Path
) -> tuple[Manifest, list[tuple[str, str]], list[str]]:
    """Bring the caches up to date for all methods on images; return the samples that can be read, the others with the
    reasons, and what caches serve in place of those that this machine would fill.
    """
    skipped: dict[str, str] = {}
    read: list[str] = []
    done: set[str] = set()
    for model in models:
        if _card(model).method == "columns":
            continue
        for network in _open_networks(model, manifest, options, cache):
            extractor = network.extractor
            if extractor.fingerprint in done:
                continue
            done.add(extractor.fingerprint)
            if extractor.stands_in:
                _LOG.info(f"note: {extractor.stands_in}")
                read.append(extractor.stands_in)
            skipped.update(extract(extractor, manifest).skipped)
            manifest = drop_unreadable(extractor, manifest)
    return manifest, list(skipped.items()), read


def _open_networks(model: Path, manifest: Manifest, options: EvaluationOptions, cache: Path) -> list[Network]:
    """Return the networks of a method, which read of samples the view that is tested on: augmented ones are for
    training.
    """

    def reading(network: Network) -> Network:
        extractor = network.extractor
        asked = replace(extractor.options, views=1, exact_spec=options.exact_spec or extractor.options.exact_spec)
        known, keys = network.recipe.features_fingerprint, manifest.distinct_images.keys
        asked_for = replace(extractor, options=asked)
        return replace(network, extractor=stand_in(asked_for, keys, known=() if known is None else (known,)))

    return [reading(network) for network in open_networks(model, options.device, cache=cache)]


def _with_task(manifest: Manifest, task: Task) -> Manifest:
    """Return the samples with the task of a seed, on whose scale their targets are."""
    return replace(manifest, task=task, targets=load_targets(task, manifest.target_texts))


def _test(model: Path, manifest: Manifest, options: EvaluationOptions, cache: Path, directory: Path, data: str) -> None:
    """Test one method on the samples, and leave its result and its predictions."""
    recipe, own, task = _card(model), Result.load(model), task_of_model(model)
    networks = _open_networks(model, manifest, options, cache)
    extractor, upper = networks[0].extractor, networks[0].upper
    started = time.perf_counter()
    columns, of_task = read_columns(model), replace(manifest, task=task)
    if task.reads == "image":
        predictions = predictions_from(task, manifest, _mask_statistics(recipe, extractor, upper, of_task))
    else:
        answers = mean_answers(networks, lambda network: _answers(network, of_task, columns))
        predictions = predictions_of(task, manifest, answers)
    seconds = time.perf_counter() - started
    if recipe.method != "columns" and tiling_of(extractor.options) is None:
        cached = [network.extractor for network in networks if network.recipe.unfreeze is None]
        seconds += sum(each.seconds(manifest.distinct_images.keys) for each in cached)
    metric = task.metrics[task.primary]
    if math.isnan(metric.score(predictions.statistics)):
        raise DataError(
            f"{metric.label} is not defined for the {len(manifest)} samples of {data}: what is true of them does not "
            "vary. Give samples of more kinds"
        )
    stages = {**own.seconds_by_stage, "evaluate": seconds}
    result = replace(
        own,
        task=task,
        samples={**own.samples, "test": len(manifest)},
        test=evaluate_test(task, predictions.statistics, recipe.seed, predictions.units),
        seconds_by_stage=stages,
        seconds=sum(stages.values()),
        settings={**own.settings, "evaluated on": data, TRAINED_IN: str(model)},
        prediction_seconds_per_image=seconds / max(len(manifest.distinct_images.keys), 1),
        provenance={
            **{name: said for name, said in own.provenance.items() if name in (FEATURES_READ, VIEWS_READ)},
            **provenance(manifest.digest),
        },
    )
    with made_whole(directory) as fresh:
        result.save(fresh, predictions)
        if task.reads == "image":
            show_masks_of_network(fresh, extractor, upper, of_task, predictions)


def _mask_statistics(recipe: ModelCard, extractor: Extractor, upper: TransferModel, manifest: Manifest) -> Statistics:
    """Return what the task keeps of each sample: of a head from cached maps; of tiles and tuned blocks from images."""
    tiling = tiling_of(extractor.options)
    if recipe.unfreeze is not None or tiling is not None:
        return mask_statistics(extractor, upper, manifest, tiling)
    stores, places = require_cached(extractor, manifest), np.arange(len(manifest))
    rows = StreamedFeatureRows(stores, manifest.keys, places, _BUFFER)
    masks = masks_for(extractor, manifest, HeadConfig())
    assert masks is not None
    return map_statistics(upper.model.head, rows, masks, manifest.task)


def count_unlike(model: Path, manifest: Manifest, options: EvaluationOptions, cache: Path) -> int | None:
    """Return how many samples are unlike those that trained a method, as `predict` says; None if it cannot tell."""
    detector = read_unlike(model)
    if detector is None:
        return None
    network = _open_networks(model, manifest, options, cache)[0]
    extractor, upper = network.extractor, network.upper
    tuned = network.recipe.unfreeze is not None
    vectors = read_vectors(extractor, upper, manifest) if tuned else cached_vectors(extractor, manifest)
    return int(np.count_nonzero(detector.scores(vectors) > 1))


def _answers(network: Network, manifest: Manifest, columns: TableEncoder | None) -> NDArray[np.float32]:
    """Return what a network answers for samples, float32 [n, out_features]: a head from cached features."""
    extractor, upper = network.extractor, network.upper
    if network.recipe.unfreeze is not None:
        return predict_proba(extractor, upper, manifest, network.recipe.tta)
    head = upper.model.head
    assert isinstance(head, Head)
    with torch.inference_mode():
        return head_probabilities(head, head_rows(extractor, manifest, head, columns), manifest.task)


def head_rows(
    extractor: Extractor, manifest: Manifest, head: Head, columns: TableEncoder | None
) -> NDArray[np.floating]:
    """Return what a head is given of each sample: features, all images in a bag, columns of the table beside them."""
    values = None
    if columns is not None:
        values = columns.encode(manifest.extra, manifest.locations).values
        if head.config["row_shape"] == [columns.width]:
            return values
    if not manifest.images:
        features = read_features(extractor, manifest)
    else:
        fitted = head.aggregate.places if isinstance(head, AggregatedBlocksHead) else head.config["row_shape"][0]
        features = read_bags(extractor, manifest, places=max(fitted, places_of(manifest)))
    if values is None:
        return features
    return np.concatenate([features.reshape(len(features), -1).astype(np.float32), values], axis=1)


def _publish(
    run: Path, models: Sequence[Path], out: Path, data: str, seen: dict[str, int], unlike: int | None
) -> Evaluation:
    """Compare what was tested, write the page, and say it."""
    comparison = compare_runs([out])
    evaluated = {(result.seed, result.method, result.name) for row in comparison.rows for result in row.results}
    own = (Result.load(model) for model in models)
    own_rows, _ = summarize(
        [
            result.by_metric(comparison.metric.name)
            for result in own
            if (result.seed, result.method, result.name) in evaluated
        ]
    )
    compared = against_own_test(comparison.rows, own_rows, independent=not seen)
    chosen = choose_model(run, None, None).directory.name
    verdict = verdict_on_new_data(comparison, compared, chosen, data, seen, unlike)
    comparison = replace(with_chosen(comparison, verdict.chosen), verdict=verdict, break_even=None)
    evaluation = Evaluation(data, comparison, compared, seen, unlike)
    write_atomically(out / EVALUATION, json_text(to_json_value(evaluation.to_json())).encode())
    page = write_comparison(comparison, [out], out)
    width = terminal_width()
    tables = [evaluation.table, format_tables(comparison, width)]
    said = [format_verdict(comparison, width), *tables, f"report: {page}"]
    _LOG.info("".join(f"\n{part}\n" for part in said).removesuffix("\n"))
    return evaluation
