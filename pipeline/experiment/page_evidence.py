"""What a page shows beside the predictions of a method: found in caches and with the saved model, and only as asked.

Nothing here changes a result, and a page can do without: what is not there any more, the cache, the weights, an image,
leaves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache import FeatureCache
from cache.errors import CutonceError
from cache.inventory import open_cache
from pipeline.evaluation.comparison import Comparison
from pipeline.experiment.heat_maps import heat_maps
from pipeline.experiment.model_card import ModelCard, read_recipe
from pipeline.report.evidence import HeatMaps, Near
from pipeline.run_layout import MANIFEST
from stages.config.feature_map import FeatureMapKind
from stages.data.manifest import Manifest
from stages.inspection.feature_map import FeatureMap, map_features, require_feature_map
from stages.inspection.nearest_neighbors import UnitFeatures, nearest_rows
from stages.network.graph.pooling import SPATIAL_DIMS
from stages.network.heads.base import layout_and_channels

_ROWS_AT_ONCE = 512
"""Rows that are read at a time, where maps become vectors."""


@dataclass(frozen=True)
class _Features:
    """Cached features of some method of the run, and the samples that they are of."""

    store: FeatureCache
    manifest: Manifest

    def vectors(self, keys: Sequence[str]) -> NDArray[Any]:
        """Return the features of images, [n, d]; of maps the mean over their places."""
        shape = self.store.row_shape
        if len(shape) == 1:
            return np.asarray(self.store.read(list(keys)))
        axes = SPATIAL_DIMS[layout_and_channels("of a page", shape)[0]]
        parts = [
            self.store.read(list(keys[start : start + _ROWS_AT_ONCE])).astype(np.float32).mean(axis=axes)
            for start in range(0, len(keys), _ROWS_AT_ONCE)
        ]
        return np.concatenate(parts)


class RunEvidence:
    """What caches and the model say of the test samples of the method to take.

    Parameters
    ----------
    comparison : Comparison
    kind : str
        How features become points: 'pca' or 'umap'.

    Raises
    ------
    UsageError
        If the library that this kind needs is not there.
    """

    def __init__(self, comparison: Comparison, kind: FeatureMapKind = "pca") -> None:
        require_feature_map(kind)
        self.kind = kind
        self.chosen = comparison.choice.chosen.results[0]
        others = [row.results[0] for row in comparison.rows if row.results[0] is not self.chosen]
        self._results = [self.chosen, *others]

    @property
    def features(self) -> str:
        """What the features are of, in words; '' where there are none."""
        if self._features is None:
            return ""
        spec = self._features.store.spec
        return f"{spec.backbone} at {spec.cut}"

    @property
    def heat_of(self) -> str:
        """What heat maps are of, in words."""
        return "Grad-CAM of the last map"

    def nearest(self, keys: Sequence[str], count: int) -> list[list[Near]]:
        """Return the training images nearest to samples; empty where features of any of them are not there."""
        nothing: list[list[Near]] = [[] for _ in keys]
        if self._features is None or self._training is None or not keys:
            return nothing
        samples, directions, texts = self._training
        try:
            queries = self._features.vectors(keys)
        except CutonceError:
            return nothing
        indices, cosines = nearest_rows(queries, directions, count)
        return [
            [
                Near(samples.locations[index], texts[index], cosine)
                for index, cosine in zip(of_query.tolist(), cosines_of_query.tolist(), strict=True)
            ]
            for of_query, cosines_of_query in zip(indices, cosines, strict=True)
        ]

    def feature_map(self, keys: Sequence[str]) -> FeatureMap | None:
        """Return samples as points in a plane; None where features of any of them are not there."""
        if self._features is None:
            return None
        try:
            rows = self._features.vectors(keys)
        except CutonceError:
            return None
        return map_features(rows, self.kind)

    def heat_maps(self, keys: Sequence[str], locations: Sequence[str], classes: Sequence[int]) -> HeatMaps:
        """Return what in images speaks for outputs of the method, and why some have none."""
        return heat_maps(self.chosen.directory, keys, locations, classes)

    @cached_property
    def _features(self) -> _Features | None:
        """The features that the method stands on, or else those of another one; None where none are in a cache."""
        for result in self._results:
            if result.directory is None or result.predictions.folds is not None:
                continue
            try:
                card = read_recipe(result.directory)
                store = None if card is None else _cache_of(card)
                if store is not None:
                    return _Features(store, Manifest.load(result.directory.parent / MANIFEST))
            except CutonceError:
                continue
        return None

    @cached_property
    def _training(self) -> tuple[Manifest, UnitFeatures, list[str]] | None:
        """The training samples, their features as directions, and their targets in words."""
        assert self._features is not None
        manifest, store = self._features.manifest, self._features.store
        samples = manifest.select(manifest.indices("train")).without_images(store.unreadable())
        try:
            rows = self._features.vectors(samples.keys)
        except CutonceError:
            return None
        if len(rows) < 2:
            return None
        return samples, UnitFeatures(rows, torch.device("cpu"), centered=True), samples.target_texts


def _cache_of(card: ModelCard) -> FeatureCache | None:
    """Return the cache of the features that a method stands on; None where it is of several, or is gone."""
    if card.features_fingerprint is None or card.samples is not None:
        return None
    path = Path(card.features["cache"]) / card.features_fingerprint
    if not path.is_dir():
        return None
    store = open_cache(path)
    return store if store.shards else None
