"""What the options of stage 1 are where each pixel has a class: maps of several depths, of the whole of an image."""

from __future__ import annotations

import csv
import logging
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

from cache.errors import CutonceError, UsageError
from stages.config.data import AUTO, DENSE, DataConfig
from stages.config.features import FeatureConfig
from stages.config.image_size import ImageSize, size_in_words, size_of_shape
from stages.data.manifest import Manifest
from stages.data.masks.survey import image_shape
from stages.data.sources.csv_file import is_table
from stages.data.sources.folder_masks import find_mask_folders
from stages.data.sources.manifest_table import labels_are_masks
from stages.data.sources.target_columns import MASK
from stages.data.sources.torchvision_datasets import PREFIX
from stages.data.sources.torchvision_masks import is_asked_for_masks
from stages.network.backbones.registry import load_backbone
from stages.network.graph.map_cuts import MAPS

_LOG = logging.getLogger("cutonce")

_LOOKED_AT = 500
"""Most training images whose size is looked at."""

_LONGEST, _AREA, _STEP = 640, 512 * 512, 8
"""The longest side up to which images are seen at their own size; the area of what larger ones become, and of what its
sides are multiples, so that maps do not round."""


_PATCHES = (16, 14, 32)
"""Sides of the patches of vision transformers, and of the windows of some."""


def may_have_masks(data: DataConfig) -> bool:
    """Return whether the targets of a data set may be masks, by a look at the folder, or at the head of a table."""
    if data.task != AUTO:
        return data.task == DENSE
    if data.data.startswith(PREFIX):
        return is_asked_for_masks(data.data.removeprefix(PREFIX), data)
    path = Path(data.data)
    if path.is_dir():
        return bool(find_mask_folders(path, data))
    if not path.is_file() or not is_table(path):
        return False
    if data.target:
        return MASK in data.target
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        columns = [name.strip() for name in next(csv.reader(file, delimiter=_delimiter(path)), [])]
    return MASK in columns or labels_are_masks(columns)


def dense_features(features: FeatureConfig, manifest: Manifest | None = None) -> FeatureConfig:
    """Return the options of stage 1 for a class for each pixel, where they are as for a class of an image.

    The cut is several, unpooled; nothing of an image is cut off, since its mask is there to its borders; and images are
    seen at their own size, as far as that is not large, and in their own proportions.

    Parameters
    ----------
    features : FeatureConfig
    manifest : Manifest, optional
        Whose training images say how large images are. Without it, the network says that.

    Raises
    ------
    UsageError
        If features are asked for that are vectors.
    """
    if features.taps:
        raise UsageError(
            f"`taps` {features.taps} are statistics of an image as a whole, and each pixel has a class: leave them "
            "out; maps of several depths are several `cut`"
        )
    if features.mirror:
        raise UsageError(
            "`mirror` takes the mean of what is said of an image as a whole, and each pixel has a class: leave it out"
        )
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
    if changed.image_size is None and manifest is not None and (shape := _commonest_shape(manifest)) is not None:
        own = f"the commonest size of the training images is {shape[0]} x {shape[1]}"
        size, reason = _taken_size(changed.backbone, _seen_shape(*shape))
        seen = f"{size_in_words(size)} pixels (height first)" if size is not None else "the network's own size"
        _LOG.info(f"note: images are seen at {seen}: {own}{reason}; `image_size` says another")
        changed = replace(changed, image_size=size)
    return changed


def _taken_size(backbone: str, shape: tuple[int, int]) -> tuple[ImageSize | None, str]:
    """Return the size nearest to a shape that a network takes, None for its own, and why it is not the shape itself.

    A vision transformer cuts images into patches, of 16 or 14 pixels a side in most, or has positions for one size
    alone.
    """
    wanted = size_of_shape(*shape)
    if _takes(backbone, wanted):
        return wanted, ""
    for step in _PATCHES:
        size = size_of_shape(*(max(step * round(side / step), step) for side in shape))
        if _takes(backbone, size):
            return size, f", and {backbone} takes multiples of {step}"
    # one that cannot be loaded at all is refused with its own reason when it is
    return (None, f", and {backbone} takes its own size alone") if _takes(backbone, None) else (wanted, "")


def _takes(backbone: str, size: ImageSize | None) -> bool:
    """Return whether a network can be had for images of a size; which hangs on no weights."""
    try:
        load_backbone(backbone, "none", size)
    except UsageError:
        return False
    except CutonceError:  # it is not the size that it is refused for
        return True
    return True


def _commonest_shape(manifest: Manifest) -> tuple[int, int] | None:
    """Return the commonest height and width of the training images, of up to 500; None where they are no files."""
    training = sorted((manifest.keys[index], manifest.locations[index]) for index in manifest.indices("train"))
    shapes = Counter(image_shape(location) for _, location in training[:_LOOKED_AT])
    del shapes[None]
    # of several that are as common, the same whatever the order of the images
    return max(shapes, key=lambda shape: (shapes[shape], shape or (0, 0)), default=None)


def _seen_shape(height: int, width: int) -> tuple[int, int]:
    """Return the height and width at which images of a size are seen: their own, or as large as costs no more."""
    if max(height, width) <= _LONGEST:
        return height, width
    scale = math.sqrt(_AREA / (height * width))
    rows, columns = (max(_STEP * round(side * scale / _STEP), _STEP) for side in (height, width))
    return rows, columns


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","
