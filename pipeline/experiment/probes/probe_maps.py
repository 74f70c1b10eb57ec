"""A quick linear head on the maps of each depth, and on sets of depths: which maps a class for each pixel needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.experiment.methods.head_methods import masks_for
from pipeline.experiment.methods.sample_rows import allowed_memory
from stages.config.heads import HeadConfig
from stages.data.manifest import Manifest
from stages.extraction.extractor import CachedCut, Extractor
from stages.extraction.read_features import drop_unreadable, read_features, require_cached
from stages.fitting.epochs.map_probe import probe_maps
from stages.fitting.feature_rows import AnyFeatureRows, FeatureRows, StreamedFeatureRows
from stages.fitting.problem import FitProblem, PixelTargets
from stages.inspection.layer_probe import CutScore, LayerProbe, groups_of
from stages.inspection.sample_scores import require_rising
from stages.network.graph.cuts import Cut
from stages.network.graph.hooked import HookedGraph
from stages.network.graph.map_cuts import default_map_cuts
from stages.runtime.progress import progress
from stages.tasks.base import Metric, Statistics

MOST_JOINED = 4
"""Depths that a set may have: each costs its bytes in the cache, and the fourth brings little."""


def probe_map_cuts(extractor: Extractor, manifests: Sequence[tuple[int, Manifest]]) -> LayerProbe:
    """Train a linear head on the maps of each cut, and on sets of cuts, and score all on the validation split.

    The sets: from the best cut on, each time the one that adds most, as long as one adds anything; and what `cut` maps
    takes by itself.

    Parameters
    ----------
    extractor : Extractor
        Its taps are the maps to probe.
    manifests : sequence of (seed, Manifest)
        The same images under each seed's splits.

    Raises
    ------
    UsageError
        If a cut is no map, or the primary metric is better the lower it is.
    CacheError
        If an image of one of the two splits is not in the cache.
    CutonceError
        If a training diverges.
    """
    whole = extractor.map_layout
    metric = require_rising(manifests[0][1].task, on_maps=True)
    seeds = [_Seed.of(extractor, seed, manifest, whole.label_size()) for seed, manifest in manifests]
    order = {cut.name: number for number, cut in enumerate(extractor.graph.cuts, 1)}
    taps = sorted(extractor.taps, key=lambda tap: order[tap.name])
    scores: dict[tuple[str, ...], CutScore] = {}

    def score_of(chosen: Sequence[CachedCut]) -> CutScore:
        chosen = sorted(chosen, key=lambda tap: order[tap.name])
        names = tuple(tap.name for tap in chosen)
        if names not in scores:
            samples = tuple(seed.probed(chosen) for seed in seeds)
            scores[names] = _scored(extractor, chosen, order[names[-1]], samples, metric)
        return scores[names]

    single = [score_of([tap]) for tap in progress(taps, label="probe", unit="cuts")]
    best = taps[max(range(len(taps)), key=lambda place: single[place].score)]
    chosen, sets = [best], list[CutScore]()
    while len(chosen) < min(MOST_JOINED, len(taps)):
        others = [tap for tap in taps if tap not in chosen]
        wider = [score_of([*chosen, tap]) for tap in progress(others, label=f"sets of {len(chosen) + 1}", unit="sets")]
        place = max(range(len(wider)), key=lambda index: wider[index].score)
        if wider[place].score <= score_of(chosen).score:
            break
        chosen.append(others[place])
        sets.append(wider[place])
    usual = _usual(extractor, taps)
    if len(usual) > 1 and (of_usual := score_of(usual)) not in sets:
        sets.append(of_usual)
    groups = tuple(groups_of(seed.val.groups, seed.val.keys) for seed in seeds)
    return LayerProbe(
        (*single, *sorted(sets, key=lambda score: score.cost)), tuple(seed.seed for seed in seeds), groups
    )


def require_map_cuts(extractor: Extractor) -> None:
    """Raise UsageError unless the rows of all cuts are maps."""
    _ = extractor.map_layout


@dataclass(frozen=True)
class _Seed:
    """The readable images under the splits of a seed, with their masks."""

    extractor: Extractor
    seed: int
    manifest: Manifest
    masks: PixelTargets
    label_size: tuple[int, int]

    @classmethod
    def of(cls, extractor: Extractor, seed: int, manifest: Manifest, label_size: tuple[int, int]) -> _Seed:
        readable = drop_unreadable(extractor, manifest)
        masks = masks_for(extractor, readable, HeadConfig())
        assert masks is not None
        return cls(extractor, seed, readable, masks, label_size)

    @property
    def val(self) -> Manifest:
        """The images of the validation split."""
        return self.manifest.select(self.manifest.indices("val"))

    def probed(self, taps: Sequence[CachedCut]) -> Statistics:
        """Return what the task keeps of the validation images under a head on some of the maps."""
        extractor = replace(self.extractor, taps=tuple(taps))
        train, val = (self._rows(extractor, self.manifest.indices(split)) for split in ("train", "val"))
        return probe_maps(
            FitProblem(
                *(train, val, self.manifest.task, HeadConfig(), self.seed, extractor.device),
                maps=extractor.map_layout,
                targets=self.masks,
            ),
            self.label_size,
        )

    def _rows(self, extractor: Extractor, places: NDArray[np.int64]) -> AnyFeatureRows:
        """Return the maps of samples, in memory where they fit, whose labels are the places of the masks."""
        part, allowed = self.manifest.select(places), allowed_memory(HeadConfig()) / 2
        if len(part) * extractor.row_numbers * extractor.taps[0].cache.dtype.itemsize > allowed:
            return StreamedFeatureRows(require_cached(extractor, part), part.keys, places, int(allowed))
        return FeatureRows(read_features(extractor, part), places)


def _usual(extractor: Extractor, taps: Sequence[CachedCut]) -> list[CachedCut]:
    """Return those of the maps that are taken where no cut is named; none where some of these are not probed."""
    if isinstance(extractor.graph, HookedGraph):
        return []
    names = [cut.name for cut in default_map_cuts(extractor.graph)]
    found = [tap for tap in taps if tap.name in names]
    return found if len(found) == len(names) else []


def _scored(
    extractor: Extractor, taps: Sequence[CachedCut], depth: int, samples: tuple[Statistics, ...], metric: Metric
) -> CutScore:
    """Return one or several maps with what they cost: together as much as the deepest, and the bytes of all."""
    cuts = [tap.cut for tap in taps if tap.cut is not None]
    deepest: Cut = cuts[-1]
    numbers = replace(extractor, taps=tuple(taps)).row_numbers
    return CutScore(
        name=",".join(cut.alias or cut.name for cut in cuts),
        operation=",".join(cut.name for cut in cuts),
        depth=depth,
        width=numbers,
        bytes_per_image=numbers * np.dtype(extractor.options.storage_dtype).itemsize,
        multiply_adds_below=deepest.multiply_adds_below,
        multiply_adds_above=deepest.multiply_adds_above,
        samples=samples,
        metric=metric,
    )
