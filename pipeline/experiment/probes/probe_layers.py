"""A quick head on the features of each candidate cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cache.errors import DataError, UsageError
from stages.config.heads import HeadConfig
from stages.data.manifest import Manifest
from stages.extraction.extractor import CachedCut, Extractor
from stages.extraction.read_features import drop_unreadable, read_features
from stages.fitting.fit_head import FeatureRows, FitProblem, head_probabilities, train_head
from stages.inspection.layer_probe import CutScore, LayerProbe, groups_of
from stages.inspection.sample_scores import require_rising, scored_samples
from stages.runtime.progress import progress
from stages.tasks.base import Statistics


def probe_cuts(extractor: Extractor, manifests: Sequence[tuple[int, Manifest]]) -> LayerProbe:
    """Train a ridge head on the cached train split of each cut and score it on the validation split.

    Parameters
    ----------
    extractor : Extractor
        Its taps are the cuts to probe.
    manifests : sequence of (seed, Manifest)
        The same images under each seed's splits.

    Raises
    ------
    UsageError
        If features are not vectors, or the primary metric is better the lower it is.
    CacheError
        If an image of one of the two splits is not in the cache.
    DataError
        If a split is empty, or the metric is not defined on the validation split of any seed.
    """
    require_vector_cuts(extractor)
    metric = require_rising(manifests[0][1].task)
    readable = [(seed, drop_unreadable(extractor, manifest)) for seed, manifest in manifests]
    order = {cut.name: number for number, cut in enumerate(extractor.graph.cuts, 1)}
    taps = sorted(zip(extractor.cuts, extractor.taps, strict=True), key=lambda pair: order[pair[0].name])
    automatic = extractor.graph.resolve("auto")
    scores = []
    for cut, tap in progress(taps, label="probe", unit="cuts"):
        scores.append(
            CutScore(
                name="auto" if cut == automatic else cut.alias or cut.name,
                operation=cut.name,
                depth=order[cut.name],
                width=tap.shape[0],
                bytes_per_image=tap.shape[0] * np.dtype(extractor.options.storage_dtype).itemsize,
                multiply_adds_below=cut.multiply_adds_below,
                multiply_adds_above=cut.multiply_adds_above,
                samples=tuple(_validated(extractor, tap, manifest, seed) for seed, manifest in readable),
                metric=metric,
            )
        )
        if math.isnan(scores[-1].score):
            raise DataError(
                f"{metric.label} is not defined on the validation images, {sum(scores[-1].images)} of them; give more "
                "images, or a larger `val_size`"
            )
    validated = [manifest.select(manifest.indices("val")) for _, manifest in readable]
    groups = tuple(groups_of(val.groups, val.keys) for val in validated)
    return LayerProbe(tuple(scores), tuple(seed for seed, _ in manifests), groups)


def require_vector_cuts(extractor: Extractor) -> None:
    """Raise UsageError unless the row of every cut is a vector."""
    for tap in extractor.taps:
        if len(tap.shape) > 1:
            raise UsageError(
                f"a probe is trained on vectors, and the row of {tap.name} is {list(tap.shape)}; choose a `pool`: "
                "avg, max or avgmax"
            )


def _validated(extractor: Extractor, tap: CachedCut, manifest: Manifest, seed: int) -> Statistics:
    """Return what the score of the validation images is made of under a ridge head on one cut."""
    single_tap = replace(extractor, taps=(tap,))
    train, val = (
        FeatureRows(read_features(single_tap, part), part.targets, groups=part.group_numbers)
        for part in (manifest.select(manifest.indices(split)) for split in ("train", "val"))
    )
    task = manifest.task
    head = train_head("ridge", FitProblem(train, val, task, HeadConfig(), seed, extractor.device)).module_train_only
    return scored_samples(task, head_probabilities(head, val.features, task), val.labels)
