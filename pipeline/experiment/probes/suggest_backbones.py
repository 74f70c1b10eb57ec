"""Candidate networks compared on some of the images: what their features say, and what they cost. Never by the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import CutonceError, DataError
from pipeline.experiment.setup.run_setup import take_features
from stages.config.features import FeatureConfig
from stages.data.manifest import Manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import Extractor, build_extractor
from stages.extraction.read_features import drop_unreadable, read_features
from stages.fitting.feature_rows import FeatureRows
from stages.inspection.backbone_ranking import (
    CandidateCost,
    Suggestion,
    cross_validated,
    rank_backbones,
    survivors,
)
from stages.inspection.logme import logme
from stages.runtime.progress import progress
from stages.tasks.base import Statistics, find_metric
from stages.tasks.strata import interleave

SIEVED_FROM = 9
"""From so many candidates on, LogME on a third of the images leaves the better half for the rest."""


def choose_samples(manifest: Manifest, count: int, seed: int) -> Manifest:
    """Return up to so many samples that are not of the test split, drawn at random, with their shares of each class."""
    indices = np.sort(np.concatenate([manifest.indices("train"), manifest.indices("val")]))
    if len(indices) > count:
        strata = manifest.task.strata(manifest.targets[indices])
        order = np.random.default_rng(seed).permutation(len(indices))
        if strata is not None and strata.ndim == 1:
            order = interleave(strata, order, first=2)
        indices = np.sort(indices[order[:count]])
    return manifest.select(indices)


def suggest_backbones(
    candidates: Sequence[str], samples: Manifest, features: FeatureConfig, seed: int, all_images: int
) -> Suggestion:
    """Rank candidate networks by a cross-validated ridge head on their features of some samples.

    Features go to the cache, where a later extraction finds them. Of nine candidates or more, all see a third of the
    samples first, and the half with the lower LogME sees no more.

    Parameters
    ----------
    candidates
        Names of networks.
    samples
        None of the test split.
    features
        Options of stage 1, whatever their backbone.
    seed
        Of the folds.
    all_images
        How many images the data hold.

    Raises
    ------
    DataError
        If not one candidate can be looked at, or the samples are too few.
    """
    looked_at = _Looked(features)
    names = list(dict.fromkeys(candidates))
    sieved_out: list[str] = []
    if len(names) >= SIEVED_FROM:
        third = choose_samples(samples, max(len(samples) // 3, 2), seed)
        for name in progress(names, label="sieve", unit="networks"):
            looked_at.look(name, third, keep=False)
        kept = survivors({name: looked_at.costs[name].evidence for name in looked_at.costs})
        sieved_out, names = [name for name in looked_at.costs if name not in kept], kept
    for name in progress(names, label="compare", unit="networks"):
        looked_at.look(name, samples, keep=True)
    names = [name for name in names if name in looked_at.costs]
    if not names:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in looked_at.failed.items())
        raise DataError(f"none of the candidate networks could be looked at ({reasons})")
    common = looked_at.common(samples)
    statistics: dict[str, Statistics] = {}
    for name in names:
        rows = FeatureRows(looked_at.rows_of(name, common), common.targets, groups=common.group_numbers)
        statistics[name] = cross_validated(rows, common.task, seed, torch.device("cpu"))
    ranked = rank_backbones(statistics, common.task, common.group_numbers)
    return Suggestion(
        ranked, looked_at.costs, sieved_out, looked_at.failed, len(common), all_images, find_metric(common.task)
    )


class _Looked:
    """The features of candidates, by the images' keys; one network is in memory at a time."""

    def __init__(self, features: FeatureConfig) -> None:
        self.costs: dict[str, CandidateCost] = {}
        self.failed: dict[str, str] = {}
        self._features = features
        self._rows: dict[str, dict[str, NDArray[np.floating]]] = {}

    def look(self, name: str, samples: Manifest, *, keep: bool) -> None:
        """Extract what is missing of a candidate, and note its cost; or why that cannot be. Rows may be kept."""
        try:
            extractor = take_features(build_extractor(replace(self._features, backbone=name)), samples, say=True)
            if len(extractor.row_shape) != 1:
                raise DataError(f"its row is {list(extractor.row_shape)}, and vectors are compared; choose a `pool`")
            extract(extractor, samples)
            rows = self._judge(name, extractor, samples)
            if keep:
                self._rows[name] = rows
        except CutonceError as error:
            self.costs.pop(name, None)
            self.failed[name] = str(error)

    def _judge(self, name: str, extractor: Extractor, samples: Manifest) -> dict[str, NDArray[np.floating]]:
        readable = drop_unreadable(extractor, samples)
        rows = read_features(extractor, readable)
        targets = readable.task.soft_target(torch.from_numpy(readable.targets))
        keys = readable.distinct_images.keys
        seconds = extractor.seconds(keys)
        self.costs[name] = CandidateCost(
            rows.shape[1], len(keys) / seconds if seconds else float("nan"), logme(rows, targets.double().numpy())
        )
        return dict(zip(readable.keys, rows, strict=True))

    def common(self, samples: Manifest) -> Manifest:
        """Return the samples that every candidate could see."""
        seen = self._rows.values()
        return samples.select([index for index, key in enumerate(samples.keys) if all(key in rows for rows in seen)])

    def rows_of(self, name: str, samples: Manifest) -> NDArray[np.floating]:
        """Return the features of a candidate, [n, d]."""
        return np.stack([self._rows[name][key] for key in samples.keys])
