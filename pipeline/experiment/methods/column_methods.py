"""Heads on columns of the table, alone and beside the images: what the question needs that one has of them.

Heads on the images alone are trained by `head_methods`; here each is trained twice more, on the columns alone
(``columns-ridge``) and on both (``joined-ridge``), so that a comparison says what either adds to the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import UsageError
from pipeline.evaluation.results import Result
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.finished_methods import find_finished, is_same_training
from pipeline.experiment.methods.head_methods import (
    HeadMethod,
    HeadProblem,
    HeadProblems,
    format_accuracy,
    head_options,
    train_and_test,
    views_as_settings,
)
from pipeline.experiment.methods.sample_rows import aggregate_settings, takes_bags
from pipeline.experiment.methods.table_columns import TableColumns, encode_columns, log_notes
from stages.config.data import SPLITS
from stages.config.heads import DEPTH_OPTIONS, ENSEMBLE, HeadConfig, HeadName
from stages.fitting.feature_rows import AnyFeatureRows, FeatureRows
from stages.fitting.fit_head import FitProblem
from stages.fitting.problem import RowBlocks
from stages.inspection.unlike import UnlikeDetector
from stages.network.heads.base import Head
from stages.network.heads.blocks import AggregatedBlocksHead

COLUMNS, JOINED = "columns", "joined"

_LOG = logging.getLogger("cutonce")


def run_column_methods(experiment: Experiment, names: Sequence[HeadName], options: HeadConfig) -> list[Result]:
    """Train heads on the columns that the options name, alone and beside the cached features, and test each.

    A method that the run has already is not trained again. Without columns there is nothing to do.

    Raises
    ------
    UsageError
        If there is no such column, or the run has one of the methods trained otherwise, and may not overwrite it.
    DataError
        If a column cannot be used.
    """
    experiment = experiment.readable()
    table = encode_columns(experiment.manifest, options)
    if table is None:
        return []
    log_notes(table)
    vector_heads = [name for name in names if not (experiment.manifest.images and takes_bags(name))]
    for name in names:
        if name not in vector_heads:
            _LOG.info(f"note: columns stand beside one row for each sample, and {name} takes its images one by one")
    methods = [(method, name) for name in vector_heads for method in (COLUMNS, JOINED)]
    earlier = {
        (method, name): find_finished(
            experiment.directory / column_dir_name(method, name),
            partial(is_same_training, experiment, _identity_of(experiment, table, method, name, options)),
            head_options(experiment, name, options),
            overwrite=experiment.overwrite,
        )
        for method, name in methods
    }
    problems = HeadProblems(experiment, options)
    results = []
    for (method, name), finished in earlier.items():
        method_dir = experiment.directory / column_dir_name(method, name)
        if finished is not None:
            _LOG.info(f"{experiment.label}  {method_dir.name}: already trained, {format_accuracy(finished)}")
            results.append(finished)
            continue
        unlike = problems.unlike if method == JOINED else None
        results.append(_train_and_test(experiment, table, problems.of(name), method, name, options, method_dir, unlike))
    return results


def column_dir_name(method: str, name: HeadName) -> str:
    """Return the name of the folder of a head on columns."""
    return f"{method}-{name.replace(':', '.')}"


def _train_and_test(
    experiment: Experiment,
    table: TableColumns,
    images: HeadProblem,
    method: str,
    name: HeadName,
    options: HeadConfig,
    method_dir: Path,
    unlike: UnlikeDetector | None,
) -> Result:
    """Train one head, test it, and leave it in the run."""
    problem, test_rows = _with_columns(experiment, images, table, method)
    of_images = _settings_of_images(experiment, images) if method == JOINED else {}
    identity = _identity_of(experiment, table, method, name, options)(experiment.extractor.fingerprint)
    of_run = HeadMethod(
        method, name, method_dir, identity, {**table.settings, **of_images}, takes_images=method == JOINED
    )

    def as_saved(head: Head) -> Head:
        if method == COLUMNS or images.aggregate is None:
            return head
        return AggregatedBlocksHead(images.aggregate, head, table.encoder.width).eval()

    return train_and_test(
        experiment, of_run, problem, test_rows, options, as_saved=as_saved, columns=table.encoder, unlike=unlike
    )


def _settings_of_images(experiment: Experiment, images: HeadProblem) -> dict[str, Any]:
    """Return how the images of samples became rows, as settings."""
    return {**views_as_settings(experiment.extractor), **aggregate_settings(images.aggregate)}


def _identity_of(
    experiment: Experiment, table: TableColumns, method: str, name: HeadName, options: HeadConfig
) -> Callable[[str], str]:
    """Return what makes the digest of all that shapes a method of the fingerprint of the features."""
    settings = {**options.resolved(), "head": name, "method": method, "columns digest": table.digest}
    for option in (ENSEMBLE, *DEPTH_OPTIONS):
        del settings[option]
    if method == COLUMNS or not experiment.manifest.images:  # nothing is aggregated
        del settings["aggregate"]
    if method == COLUMNS:
        return lambda _: experiment.fingerprint(settings, "columns alone")
    return partial(experiment.fingerprint, {**settings, **views_as_settings(experiment.extractor)})


def _with_columns(
    experiment: Experiment, images: HeadProblem, table: TableColumns, method: str
) -> tuple[FitProblem, AnyFeatureRows]:
    """Return what a head on columns is fitted to, and the rows that it is tested on."""
    manifest, numbers = experiment.manifest, experiment.manifest.group_numbers
    rows = {
        split: _rows(
            part,
            table.encoded[split].values,
            None if numbers is None else numbers[manifest.indices(split)],
            alone=method == COLUMNS,
        )
        for split, part in zip(SPLITS, (images.problem.train, images.problem.val, images.test_rows), strict=True)
    }
    width = rows["train"].row_shape[0]
    blocks = RowBlocks(width - table.encoder.width, table.encoder.blocks)
    problem = replace(images.problem, train=rows["train"], val=rows["val"], cut=None, blocks=blocks)
    return problem, rows["test"]


def _rows(
    images: AnyFeatureRows, columns: NDArray[np.float32], groups: NDArray[np.int64] | None, *, alone: bool
) -> FeatureRows:
    """Return the rows of a split: columns alone, or behind the features of images."""
    if alone:
        return FeatureRows(columns, images.labels, groups=groups)
    if not isinstance(images, FeatureRows):
        raise UsageError(
            "columns stand beside features in memory, and these are larger than `max_memory_gb` allows: allow more, or "
            "cache vectors (`pool` avg)"
        )
    if len(images.row_shape) != 1:
        raise UsageError(
            f"columns stand beside features that are vectors, and these are of shape {[*images.row_shape]}: cache them "
            "with `pool` avg, max or avgmax"
        )
    views = [_beside(view, columns) for view in images.augmented]
    return FeatureRows(_beside(images.features, columns), images.labels, views, groups)


def _beside(features: NDArray[Any], columns: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([features.astype(np.float32), columns], axis=1)
