"""Masks that disagree with a model: maps of the images cached, and linear heads on them out of folds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.experiment.methods.head_methods import masks_for
from pipeline.experiment.setup.run_setup import extract_features, take_features
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import Manifest
from stages.extraction.extractor import build_extractor
from stages.extraction.read_features import drop_unreadable, require_cached
from stages.fitting.feature_rows import StreamedFeatureRows
from stages.fitting.problem import FitProblem
from stages.inspection.inspect import LARGEST_GROUP, Inspection
from stages.inspection.mask_errors import MaskErrors, find_mask_errors
from stages.inspection.near_duplicates import REFERENCE_NEIGHBOR
from stages.inspection.nearest_neighbors import equal_pairs, merge_groups

_BUFFER = 256 << 20
"""Bytes of maps that are in memory while they are shuffled."""


def inspect_masks(features: FeatureConfig, manifest: Manifest, found: Inspection, seed: int) -> MaskErrors | None:
    """Return which masks disagree with a model that saw neither them nor copies of their images.

    Parameters
    ----------
    features : FeatureConfig
        Of maps, see :func:`~pipeline.experiment.setup.dense_defaults.dense_features`. They are extracted where the
        cache lacks them, and any later training finds them there.
    manifest : Manifest
        Images that can be read, with masks.
    found : Inspection
        Whose near-duplicates stay in one fold.
    seed : int
        Of the folds.

    Raises
    ------
    UsageError
        If a cut is no map.
    """
    extractor = take_features(build_extractor(features), manifest)
    maps = extractor.map_layout
    extract_features(extractor, manifest, None)
    assert len(drop_unreadable(extractor, manifest)) == len(manifest), "the same files were read a moment ago"
    rows = StreamedFeatureRows(require_cached(extractor, manifest), manifest.keys, np.arange(len(manifest)), _BUFFER)
    problem = FitProblem(
        *(rows, rows, manifest.task, HeadConfig(), seed, extractor.device),
        maps=maps,
        targets=masks_for(extractor, manifest, HeadConfig()),
    )
    return find_mask_errors(problem, _kept_together(manifest, found))


def _kept_together(manifest: Manifest, found: Inspection) -> NDArray[np.int64]:
    """Return a number for each image, the same for copies, near-duplicates and images of one group."""
    same = np.concatenate([equal_pairs(manifest.keys), equal_pairs(manifest.groups)])
    groups = merge_groups(np.arange(len(manifest)), same)
    copies = np.array([(copy.index, copy.other_index) for copy in found.copies], dtype=np.int64).reshape(-1, 2)
    merged = merge_groups(groups, copies)
    # where most images are one group of near-duplicates the features tell nothing apart
    is_poor = np.bincount(merged).max() > max(LARGEST_GROUP * len(manifest), REFERENCE_NEIGHBOR)
    return groups if is_poor else merged
