"""What a page shows beside the predictions of a method: found in caches and with the saved model, and only as asked.

Nothing here changes a result, and a page can do without: where the cache, the weights or an image is not there any
more, it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from cache.errors import CutonceError
from pipeline.evaluation.comparison import Comparison
from pipeline.experiment.models.model_card import read_recipe
from pipeline.experiment.pages.heat_maps import heat_maps
from pipeline.experiment.pages.page_features import PageFeatures, find_features
from pipeline.report.evidence import HeatMaps, Near
from pipeline.run_layout import MANIFEST, MEMBERS, SAMPLE_IMAGES
from stages.config.feature_map import FeatureMapKind
from stages.data.manifest import Manifest
from stages.inspection.feature_map import FeatureMap, map_features, require_feature_map
from stages.inspection.nearest_neighbors import UnitFeatures, nearest_rows


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
        return "" if self._found is None else self._found[1]

    @property
    def near_of(self) -> str:
        """What the nearest training images are told by, in words."""
        if self._features is None or self._features.every == 1:
            return self.features
        return f"{self.features}, among every {self._features.every}th training image"

    @property
    def features_note(self) -> str:
        """Why there are neither nearest images nor points; '' where there are."""
        if self._features is not None:
            return ""
        directory = self.chosen.directory
        if self.chosen.predictions.folds is not None:
            reason = "each sample was tested in an outer fold"
        elif directory is not None and (directory.parent / SAMPLE_IMAGES).exists():
            reason = "features are of one image, and a sample has several"
        else:
            reason = "the features are in no cache any more"
        return f"There are neither nearest training images nor features in a plane: {reason}."

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

    @property
    def _features(self) -> PageFeatures | None:
        return None if self._found is None else self._found[0]

    @cached_property
    def _found(self) -> tuple[PageFeatures, str] | None:
        """The features that the method stands on, or else those of another one, in words too; None without a cache."""
        for result in self._results:
            if result.directory is None or result.predictions.folds is not None:
                continue
            try:
                card = read_recipe(result.directory)
                found = None if card is None else find_features(card, result.directory.parent / MANIFEST)
            except CutonceError:
                continue
            if found is not None:
                of_member = (
                    " (of its members the one that counts most)" if (result.directory / MEMBERS).exists() else ""
                )
                return found, f"{found.words}{of_member}"
        return None

    @cached_property
    def _training(self) -> tuple[Manifest, UnitFeatures, list[str]] | None:
        """The training samples, their features as directions, and their targets in words."""
        assert self._features is not None
        samples = self._features.train
        samples = samples.select(list(range(0, len(samples), self._features.every)))
        try:
            rows = self._features.vectors(samples.keys)
        except CutonceError:
            return None
        if len(rows) < 2:
            return None
        return samples, UnitFeatures(rows, torch.device("cpu"), centered=True), samples.target_texts
