"""What the options of stage 1 are where each pixel has a class: maps of several depths, of the whole of an image."""

from __future__ import annotations

import csv
import logging
from dataclasses import replace
from pathlib import Path

from stages.config.data import AUTO, DENSE, DataConfig
from stages.config.features import FeatureConfig
from stages.data.sources.csv_file import is_table
from stages.data.sources.folder_masks import find_mask_folders
from stages.data.sources.target_columns import MASK
from stages.network.graph.map_cuts import MAPS

_LOG = logging.getLogger("cutonce")


def may_have_masks(data: DataConfig) -> bool:
    """Return whether the targets of a data set may be masks, by a look at the folder, or at the head of a table."""
    if data.task != AUTO:
        return data.task == DENSE
    path = Path(data.data)
    if path.is_dir():
        return bool(find_mask_folders(path, data))
    if not path.is_file() or not is_table(path):
        return False
    if data.target:
        return MASK in data.target
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return MASK in [name.strip() for name in next(csv.reader(file, delimiter=_delimiter(path)), [])]


def dense_features(features: FeatureConfig) -> FeatureConfig:
    """Return the options of stage 1 for a class for each pixel, where they are as for a class of an image.

    The cut is several, unpooled; and nothing of an image is cut off, since its mask is there to its borders.
    """
    changed = replace(
        features,
        cut=MAPS if features.cut == AUTO else features.cut,
        pool="none" if features.pool == "avg" else features.pool,
        crop_mode="squash" if features.crop_mode == "center" else features.crop_mode,
    )
    said = [
        f"`{name}` {getattr(changed, name)}"
        for name in ("cut", "pool", "crop_mode")
        if getattr(changed, name) != getattr(features, name)
    ]
    if said:
        _LOG.info(f"note: each pixel has a class, so features are maps of whole images: {', '.join(said)}")
    return changed


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","
