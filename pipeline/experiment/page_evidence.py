"""What a page shows beside the predictions of a method: found in caches and with the saved model, and only as asked.

Nothing here changes a result, and a page can do without: what is not there any more, the cache, the weights, an image,
leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache import FeatureCache
from cache.errors import CutonceError
from cache.inventory import open_cache
from pipeline.evaluation.comparison import Comparison
from pipeline.experiment.model_card import ModelCard, read_recipe
from pipeline.experiment.model_store import open_model
from pipeline.report.evidence import HeatMap, Near
from pipeline.run_layout import COLUMNS, HEAD, MANIFEST, MEMBERS, TOP
from stages.config.feature_map import FeatureMapKind
from stages.data.images.preprocessing import Preprocessing
from stages.data.images.reading import reading_from
from stages.data.images.rgb import as_colors
from stages.data.manifest import Manifest
from stages.data.sources.open_image import read_image
from stages.inspection.feature_map import FeatureMap, map_features, require_feature_map
from stages.inspection.grad_cam import grad_cam
from stages.inspection.nearest_neighbors import UnitFeatures, nearest_rows
from stages.network.graph.cuts import CutGraph
from stages.network.graph.pooling import SPATIAL_DIMS, Pool
from stages.network.heads.base import layout_and_channels
from stages.network.heads.registry import saved_class
from stages.network.heads.serialization import load_head, read_head
from stages.runtime.tensor_files import load_tensors
from stages.training.losses import logits_of

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

    def heat_maps(self, keys: Sequence[str], locations: Sequence[str], classes: Sequence[int]) -> list[HeatMap | None]:
        """Return what in images speaks for classes; None of images that are gone, and of methods that read no map."""
        try:
            return self._heat_maps(keys, locations, classes)
        except CutonceError:
            return [None] * len(keys)

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

    def _heat_maps(self, keys: Sequence[str], locations: Sequence[str], classes: Sequence[int]) -> list[HeatMap | None]:
        directory = self.chosen.directory
        card = None if directory is None else read_recipe(directory)
        nothing: list[HeatMap | None] = [None] * len(keys)
        if card is None or directory is None or card.samples is not None or not keys:
            return nothing
        if (directory / MEMBERS).exists() or (directory / COLUMNS).exists():
            return nothing
        explained = _cached_maps(directory, card, keys) or _opened_maps(directory)
        if explained is None:
            return nothing
        views = _views(locations, card, explained.preprocessing)
        there = [number for number, view in enumerate(views) if view is not None]
        if not there:
            return nothing
        images = torch.stack([view for view in views if view is not None])
        classes_of_there = [classes[number] for number in there]
        strengths = grad_cam(explained.maps(images, there), explained.answers, classes_of_there, explained.layout)
        for number, strength in zip(there, strengths, strict=True):
            if strength is not None:
                nothing[number] = HeatMap(_pixels(images[there.index(number)]), strength)
        return nothing


@dataclass(frozen=True)
class _Explained:
    """A method as a map and what is made of it.

    Attributes
    ----------
    preprocessing : Preprocessing
    layout : str
        Of the map.
    maps : callable
        Rendered images, uint8 [b, C, S, S], and their places among those that were asked for -> their maps.
    answers : callable
        Maps -> what the head answers, [b, classes].
    """

    preprocessing: Preprocessing
    layout: str
    maps: Callable[[Tensor, list[int]], Tensor]
    answers: Callable[[Tensor], Tensor]


def _cache_of(card: ModelCard) -> FeatureCache | None:
    """Return the cache of the features that a method stands on; None where it is of several, or is gone."""
    if card.features_fingerprint is None or card.samples is not None:
        return None
    path = Path(card.features["cache"]) / card.features_fingerprint
    if not path.is_dir():
        return None
    store = open_cache(path)
    return store if store.shards else None


def _cached_maps(directory: Path, card: ModelCard, keys: Sequence[str]) -> _Explained | None:
    """Return a method whose head reads maps that are cached; None of one on vectors, or on the network's own blocks."""
    store = _cache_of(card)
    if card.unfreeze is not None or store is None or len(store.row_shape) < 2 or store.missing(list(keys)):
        return None
    name = str(read_head(directory / HEAD)[0]["head"])
    if ":" not in name and saved_class(name).needs_graph:
        return None
    head = load_head(directory / HEAD)[0].requires_grad_(requires_grad=False)
    rows = torch.from_numpy(store.read(list(keys)).astype(np.float32))
    return _Explained(
        Preprocessing.from_json(store.spec.preprocessing),
        layout_and_channels(name, store.row_shape)[0],
        lambda _, places: rows[places],
        lambda maps: logits_of(head(maps)),
    )


def _opened_maps(directory: Path) -> _Explained | None:
    """Return a method on a network, from whose last map on it is explained.

    None where its head sees several depths or mirror images, the network could not be traced, or it reads no map.
    """
    card, extractor, upper = open_model(directory, "cpu")
    if not isinstance(extractor.graph, CutGraph) or len(extractor.taps) != 1 or extractor.tap_layout is not None:
        return None
    if extractor.options.mirror:  # what is predicted comes from two images
        return None
    graph, end = extractor.graph, extractor.cut
    names = [cut.name for cut in graph.cuts]
    maps = [cut for cut in graph.cuts[: names.index(end.name) + 1] if cut.layout != "vector" and cut.places > 1]
    if not maps:
        return None
    last, tuned = maps[-1], load_tensors(directory / TOP) if card.unfreeze is not None else {}
    below = _with_tensors(graph.section(None, last), tuned)
    above = nn.Identity() if last is end else _with_tensors(graph.section(last, end), tuned)
    pool, head = Pool(extractor.options.pool, end), upper.model.head.requires_grad_(requires_grad=False)

    def maps_of(images: Tensor, _: list[int]) -> Tensor:
        with torch.no_grad():
            made: Tensor = below(extractor.preprocess(images))
        return made

    return _Explained(
        extractor.backbone.preprocessing, last.layout, maps_of, lambda rows: logits_of(head(pool(above(rows))))
    )


def _with_tensors(section: nn.Module, tuned: dict[str, Tensor]) -> nn.Module:
    """Return a copy of a part of a network, with what was fine-tuned of it."""
    part = deepcopy(section).eval().requires_grad_(requires_grad=False)
    part.load_state_dict({name: value for name, value in tuned.items() if name in part.state_dict()}, strict=False)
    return part


def _views(locations: Iterable[str], card: ModelCard, preprocessing: Preprocessing) -> list[Tensor | None]:
    """Return images as the network sees them, uint8 [C, S, S]; None of those that cannot be read any more."""
    views: list[Tensor | None] = []
    for location in locations:
        try:
            views.append(preprocessing.render(read_image(location, reading_from(card.features))))
        except CutonceError:
            views.append(None)
    return views


def _pixels(view: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(as_colors(view).permute(1, 2, 0).numpy())
