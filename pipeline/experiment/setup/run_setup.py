"""The first steps of every command, each leaving what it did in the run: directory, manifests, cached features."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cache import DigestCache
from cache.atomic_write import remove_stale_temporaries, write_atomically
from cache.errors import DataError, UsageError
from cache.keys import KEY_MEMO
from pipeline.evaluation.decision import require_decidable
from pipeline.evaluation.method_folders import files_of_methods
from pipeline.experiment.models.model_card import read_recipe
from pipeline.experiment.setup.dense_defaults import dense_features, may_have_masks
from pipeline.experiment.setup.map_room import maps_in_words
from pipeline.experiment.setup.run_samples import require_same_samples, seeds_with_results
from pipeline.options.toml_file import write_configuration
from pipeline.run_layout import (
    CONFIGURATION,
    ENVIRONMENT,
    EXTRACTION,
    MANIFEST,
    MODEL_CARD,
    seed_dir,
    seed_of,
)
from pipeline.text import byte_count, duration, percent
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.goals import goal_of
from stages.config.heads import HeadConfig
from stages.data.images.reading import needs_survey
from stages.data.manifest import Manifest, load_manifest
from stages.data.outer_folds import outer_folds
from stages.data.sources.tiles import tiling_of
from stages.data.survey import survey
from stages.data.tiled_manifest import tiled_manifest
from stages.extraction.extract import Extraction, extract
from stages.extraction.extractor import Extractor
from stages.extraction.room import row_bytes
from stages.extraction.stand_in import stand_in
from stages.runtime.distributed import SINGLE_PROCESS, Rank
from stages.runtime.environment import describe_machine
from stages.runtime.progress import progress
from stages.tasks.base import find_metric, ranked_by

_LOG = logging.getLogger("cutonce")


def init_run(path: Path, *groups: DataConfig | FeatureConfig | HeadConfig | FinetuneConfig) -> None:
    """Make the run directory, and leave the options in it where it has no results, which were made with their own."""
    path.mkdir(parents=True, exist_ok=True)
    for directory in (path, *(child for child in path.rglob("*") if child.is_dir())):
        remove_stale_temporaries(directory)
    if not seeds_with_results(path):
        record_options(path, *groups)


def record_options(path: Path, *groups: DataConfig | FeatureConfig | HeadConfig | FinetuneConfig) -> None:
    """Leave the resolved options of a command, and the machine's description, in the run that it trained methods in."""
    write_configuration(path / CONFIGURATION, *groups)
    _write_json(path / ENVIRONMENT, describe_machine())


def make_manifest(
    data: DataConfig, features: FeatureConfig, seed: int, head: HeadConfig | None = None, *, labels: bool = True
) -> Manifest:
    """Return the manifest of the data under one seed, with keys remembered beside the cache.

    Its task has the metric by which everything is chosen, ranked and tested: the one that is asked for, or what goes
    with the `head` that is to be trained. Without `labels`, for extraction alone, there need not be any.

    Raises
    ------
    UsageError
        If the task has no such metric.
    """
    memo = DigestCache(features.cache / KEY_MEMO)
    bar = partial(progress, label="read keys", unit="files")
    manifest = load_manifest(data, seed, memo, bar, labels=labels)
    if (tiling := tiling_of(features)) is not None:
        if manifest.task.reads != "image":
            raise UsageError(
                f"`tile` {features.tile} cuts images whose pixels have classes, and `data` {data.data} has no masks"
            )
        if data.tests_each_sample:
            raise UsageError(
                f"`tile` {features.tile} trains on tiles and tests whole images, which have to be a split of their "
                "own: give `test_size` a share"
            )
        manifest = tiled_manifest(manifest, tiling)
    if labels:
        require_decidable(manifest.task, goal_of(data.threshold_for), data.coverage, calibrate=data.calibrate)
    if head is not None and data.tests_each_sample:
        folds = len(outer_folds(manifest, data, seed))  # what cannot be folded is told before images are extracted
        manifest.notes.append(f"each sample is tested once, in {folds} outer folds, by what never saw it")
    balanced = head is not None and head.class_weights == "balanced"
    task = ranked_by(manifest.task, data.metric, balanced=balanced)
    if task == manifest.task:
        return manifest
    notes = list(manifest.notes)
    if data.metric is None:
        notes.append(
            f"`class_weights` balanced: settings are chosen and methods ranked by {find_metric(task).label}; `metric` "
            "names another"
        )
    return replace(manifest, task=task, notes=notes)


def resolve_features(data: DataConfig, features: FeatureConfig, *, maps: bool = True) -> FeatureConfig:
    """Return the options of stage 1 with what only the data tell: intensity range, channels, and whether each pixel
    has a class; then features are maps, unless whole images are to be compared by a vector each.
    """
    if maps and may_have_masks(data):
        manifest = make_manifest(data, features, data.seeds[0])
        features = dense_features(features, manifest) if manifest.task.reads == "image" else features
    if not needs_survey(features):
        return features
    found = survey(make_manifest(data, features, data.seeds[0], labels=False), features)
    _LOG.info("\n".join(found.words))
    return found.options


def format_manifest(manifest: Manifest) -> str:
    """Return how many images of how many classes there are in each split, and what was done to get there."""
    lines = [", ".join(manifest.summary())]
    return "\n".join([*lines, *(f"note: {note}" for note in manifest.notes)])


def init_seed(
    run: Path,
    data: DataConfig,
    features: FeatureConfig,
    seed: int,
    head: HeadConfig | None = None,
    finetune: FinetuneConfig | None = None,
    *,
    labels: bool = True,
    allow_leakage: bool = False,
) -> tuple[Manifest, Path]:
    """Return the manifest of one seed and the directory it was left in, where all else of the seed goes too.

    Nothing is written before the samples are found, and found to be those of the run: of a wrong `data` nothing is
    left. The metric of the task may be one that goes with the `head` that is to be trained, see `make_manifest`.
    Without `labels`, for extraction alone, there need not be any. With `allow_leakage` an image may stand in two of the
    given splits, whatever the option of the data says: an inspection reports it.

    Raises
    ------
    UsageError
        If the run has results of other samples, see
        :func:`~pipeline.experiment.setup.run_samples.require_same_samples`.
    """
    read = replace(data, allow_leakage=allow_leakage or data.allow_leakage)
    manifest = make_manifest(read, features, seed, head, labels=labels)
    manifest = require_same_samples(run, seed, data, manifest)
    init_run(run, *(group for group in (data, features, head, finetune) if group is not None))
    _LOG.info(f"seed {seed}: {format_manifest(manifest)}")
    directory = seed_dir(run, seed)
    directory.mkdir(parents=True, exist_ok=True)
    manifest.save(directory / MANIFEST)
    return manifest, directory


def take_features(
    extractor: Extractor,
    manifest: Manifest,
    run: Path | None = None,
    *,
    say: bool = False,
    one_view: bool = False,
) -> Extractor:
    """Return what the features of a manifest are read with: where its own caches lack rows, complete ones may serve.

    A run goes on with the features that its methods were trained on, where they are there; see
    :func:`~stages.extraction.stand_in.stand_in`.

    Parameters
    ----------
    extractor : Extractor
    manifest : Manifest
    run : Path, optional
    say : bool
        Whether it is said here that others serve; `extract_features` does it too.
    one_view : bool
        Whether the evaluation view alone is read, whatever views the options name: fine-tuning has them elsewhere.
    """
    known: set[str] = set()
    for path in () if run is None else files_of_methods(run, MODEL_CARD):
        with suppress(DataError):  # a damaged one is told where it is needed
            recipe = read_recipe(path.parent)
            if recipe is not None and recipe.features_fingerprint is not None:
                known.add(recipe.features_fingerprint)
    read = replace(extractor, options=replace(extractor.options, views=1)) if one_view else extractor
    taken = stand_in(read, manifest.distinct_images.keys, known=known)
    if say and taken.stands_in:
        _LOG.info(f"note: {taken.stands_in}")
    return replace(taken, options=extractor.options)


def extract_features(
    extractor: Extractor, manifest: Manifest, directory: Path | None, rank: Rank = SINGLE_PROCESS
) -> Extraction:
    """Bring the cache up to date, say what that took, and leave an account of it in `directory`.

    Where the seed has results of other features the account is theirs, and stays: see `record_extraction`.
    """
    if rank.is_main and extractor.tap_layout is not None:
        layout, rows = extractor.tap_layout, len(manifest.distinct_images.keys) * extractor.cached_views
        _LOG.info(
            f"taps: {len(layout.blocks)} statistics in one pass, {layout.width:,} numbers a row, "
            f"{byte_count(rows * row_bytes(extractor.taps[0]))} for {rows:,} rows; `extract --dry-run` says how "
            "long it takes"
        )
    if rank.is_main and (words := maps_in_words(extractor, len(manifest.distinct_images.keys))):
        _LOG.info(words)
    report = extract(extractor, manifest, rank)
    if not rank.is_main:
        return report
    if directory is not None and _has_results_of_other_features(directory, report):
        directory = None
    if directory is not None:
        report = _with_former_remarks(report, directory)
    _LOG.info("\n".join(_words(report, extractor, directory)))
    if directory is not None:
        record_extraction(directory, report, extractor, manifest)
    return report


def record_extraction(directory: Path, report: Extraction, extractor: Extractor, manifest: Manifest) -> None:
    """Leave the account of an extraction with a seed of a run, which methods were trained on."""
    account = {**report.to_json(), "notes": [*manifest.notes, *extractor.notes, *report.remarks]}
    _write_json(directory / EXTRACTION, account)


def _has_results_of_other_features(directory: Path, report: Extraction) -> bool:
    path = directory / EXTRACTION
    if not path.exists() or seed_of(directory) not in seeds_with_results(directory.parent):
        return False
    return bool(json.loads(path.read_text(encoding="utf-8")).get("fingerprints") != report.fingerprints)


def _with_former_remarks(report: Extraction, directory: Path) -> Extraction:
    """Return a report with what an earlier command remarked of the files that it read for these features.

    A file is remarked of while it is read: what is served from the cache is not read again.
    """
    path = directory / EXTRACTION
    if not path.exists():
        return report
    account = json.loads(path.read_text(encoding="utf-8"))
    former = account.get("remarks", []) if account.get("fingerprints") == report.fingerprints else []
    return replace(report, remarks=list(dict.fromkeys([*former, *report.remarks])))


def _words(report: Extraction, extractor: Extractor, directory: Path | None) -> list[str]:
    rows = " + ".join(str(list(shape)) for shape in report.row_shapes)
    views = f", {report.views} views" if report.views > 1 else ""
    at = report.cut if extractor.tap_layout is not None else f"cut at {report.cut}"
    lines = [f"{report.backbone} ({report.weights}), {at}, row {rows}{views}"]
    if report.extracted or report.extracted_by_others:
        other_processes = f", {report.extracted_by_others} by other processes" if report.extracted_by_others else ""
        lines.append(
            f"extracted {report.extracted} images{other_processes} in {duration(report.seconds)} "
            f"({report.images_per_second:.0f} images/s); {report.hits} were in the cache already"
        )
        stage_shares = ", ".join(f"{stage} {percent(share, digits=0)}" for stage, share in report.shares.items())
        lines.append(f"busy: {stage_shares}")
    else:
        lines.append(f"nothing to do: all {report.hits} images are in the cache")
    paths = ", ".join(str(cache.path) for cache in extractor.caches)
    lines.append(f"cache {paths}: {byte_count(report.size_on_disk)}")
    lines += [f"note: {note}" for note in (*extractor.notes, *report.remarks)]
    if report.skipped:
        lines.append(f"skipped, as they could not be read ({len(report.skipped)}):")
        lines += [f"  {location!r}: {reason}" for location, reason in report.skipped[:20]]
        if len(report.skipped) > 20:
            where = (
                f"all are listed in {directory / EXTRACTION}"
                if directory is not None
                else "a new run (`out`) lists all of them"
            )
            lines.append(f"  and {len(report.skipped) - 20} more; {where}")
    return lines


def _write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=1, default=str).encode())
