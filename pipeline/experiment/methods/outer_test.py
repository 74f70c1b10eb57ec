"""Tests in outer folds: each sample is tested once, by a head that never saw it, where there is no test split.

In each fold the methods are trained and tested as always, and leave what they learned in a folder of the fold. What is
kept for use is then trained on all samples, and its result says what the folds say together: one model for each method,
one prediction for each sample.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import UsageError
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.results import Result
from pipeline.experiment.experiment import Experiment, OuterTest
from pipeline.experiment.methods.column_methods import run_column_methods
from pipeline.experiment.methods.ensemble_methods import run_ensemble
from pipeline.experiment.methods.head_methods import head_dir_name, run_heads
from pipeline.run_layout import MANIFEST, fold_dir
from stages.config.data import EACH_GROUP, DataConfig
from stages.config.heads import HeadConfig, HeadName
from stages.data.outer_folds import OuterFold, outer_folds
from stages.runtime.cost import Cost

_LOG = logging.getLogger("cutonce")


def run_on_features(experiment: Experiment, names: Sequence[HeadName], options: HeadConfig) -> list[Result]:
    """Train heads on cached features, and on columns where there are any, and test each: on the test split or in folds.

    Raises
    ------
    UsageError
        If the run has one of them trained otherwise, and may not overwrite it.
    DataError
        If there are too few samples for folds.
    """
    data = experiment.data
    if data is None or not data.tests_each_sample:
        return _run(experiment, names, options)
    experiment = experiment.readable()
    folds = outer_folds(experiment.manifest, data, experiment.seed)
    directories = []
    for number, fold in enumerate(folds, 1):
        directory = fold_dir(experiment.directory, number)
        directory.mkdir(parents=True, exist_ok=True)
        fold.manifest.save(directory / MANIFEST)
        of_fold = replace(experiment, manifest=fold.manifest, directory=directory, fold=fold.name)
        _run(of_fold, names, options)
        directories.append(directory)
    # with more memory than in a fold there may be room for a head that was left out there
    names = [name for name in names if all((directory / head_dir_name(name)).is_dir() for directory in directories)]
    _LOG.info(f"seed {experiment.seed}: what is kept is trained on all samples")
    tested = partial(_tested_in, folds, directories, _protocol(experiment, folds))
    return _run(replace(experiment, outer=tested), names, options)


def require_no_folds(data: DataConfig, instead: str) -> None:
    """Refuse to fine-tune in outer folds, before anything is computed.

    Parameters
    ----------
    data : DataConfig
    instead : str
        What trains heads alone.

    Raises
    ------
    UsageError
        If each sample is to be tested in a fold.
    """
    if data.tests_each_sample:
        raise UsageError(
            f"`test` {data.test} trains every method once for each fold and once more, and is for heads: fine-tuning "
            f"is tested on a split. Use {instead}, or `test` group=VALUE"
        )


def _run(experiment: Experiment, names: Sequence[HeadName], options: HeadConfig) -> list[Result]:
    heads = run_heads(experiment, names, options)
    return [*heads, *run_ensemble(experiment, heads, options), *run_column_methods(experiment, names, options)]


def _groups_of(parts: Sequence[Predictions], order: NDArray[np.int64]) -> NDArray[np.str_] | None:
    """Return the groups of all samples; none where no sample has one. A fold whose samples have none has no array."""
    if all(part.groups is None for part in parts):
        return None
    groups = [np.full(len(part), "") if part.groups is None else part.groups for part in parts]
    return np.asarray(np.concatenate(groups)[order])


def _protocol(experiment: Experiment, folds: Sequence[OuterFold]) -> str:
    assert experiment.data is not None
    if experiment.data.test == EACH_GROUP:
        return f"each of {len(folds)} groups by what was trained on the others"
    return f"nested cross-validation, {len(folds)} outer folds"


def _tested_in(folds: Sequence[OuterFold], directories: Sequence[Path], protocol: str, name: str) -> OuterTest:
    """Return what the folds left of the method whose folder has the name, in the order of the samples."""
    results = [Result.load(directory / name) for directory in directories]
    parts = [result.predictions for result in results]
    order = np.argsort(np.concatenate([fold.manifest.indices("test") for fold in folds]), kind="stable")
    predictions = Predictions(
        results[0].task,
        np.concatenate([part.keys for part in parts])[order],
        np.concatenate([part.locations for part in parts])[order],
        np.concatenate([part.statistics for part in parts])[order],
        np.repeat([fold.name for fold in folds], [len(part) for part in parts])[order],
        _groups_of(parts, order),
    )
    training, testing = (sum(result.seconds_by_stage[stage] for result in results) for stage in ("train", "evaluate"))
    cpu_seconds = sum(result.cpu_seconds for result in results)
    peak = max(result.peak_memory_bytes for result in results)
    return OuterTest(predictions, Cost(training, cpu_seconds, peak), Cost(testing, 0.0, peak), protocol)
