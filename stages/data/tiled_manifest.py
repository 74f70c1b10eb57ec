"""Samples cut into tiles: what is trained and validated on are tiles, what is tested stays whole images.

A test sample is an image: its tiles are predicted one by one and put together again before anything is scored.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cache.errors import DataError, listed
from stages.data.manifest import Manifest
from stages.data.masks.survey import image_shape
from stages.data.sources.tiles import tile_key, tile_location, tiles_of
from stages.tasks.tiles import Box, Tiling

_NAMED = 3
"""Most masks that a message names."""


def tiled_manifest(manifest: Manifest, tiling: Tiling) -> Manifest:
    """Return a manifest whose training and validation samples are the tiles of its own, each with its part of the mask.

    Raises
    ------
    DataError
        If masks are of another size than their images: then a tile of one is no tile of the other.
    """
    sources: list[int] = []
    locations: list[str] = []
    keys: list[str] = []
    masks: list[str] = []
    mask_keys: list[str] = []
    texts, other, cut = manifest.target_texts, list[str](), 0
    for index, (location, key, split) in enumerate(
        zip(manifest.locations, manifest.keys, manifest.splits, strict=True)
    ):
        shape = None if split == "test" else image_shape(location)
        if shape is None:  # what cannot be read is said when it is to be read
            tiles: list[tuple[str, str, Box | None]] = [(location, key, None)]
        else:
            if image_shape(texts[index]) not in (None, shape):
                other.append(texts[index])
            cut += 1
            tiles = [*tiles_of(tiling, location, key, shape)]
        for tile, key_of_tile, box in tiles:
            part = None if tile == location else box
            sources.append(index)
            locations.append(tile)
            keys.append(key_of_tile)
            masks.append(texts[index] if part is None else tile_location(texts[index], part))
            mask_keys.append(
                manifest.target_keys[index] if part is None else tile_key(manifest.target_keys[index], part)
            )
    if other:
        raise DataError(
            f"`tile` {tiling.height} needs masks of the size of their images, and {len(other):,} are of another: "
            f"{listed(other, _NAMED)}. Resize them, or leave out `tile`"
        )
    count = sum(manifest.splits[index] != "test" for index in sources)
    note = (
        f"{cut:,} images are trained and validated on as {count:,} tiles of {tiling.height} x {tiling.width} pixels, "
        f"which overlap by {tiling.overlap} or more; test images are put together of theirs"
    )
    return replace(
        manifest.select(sources),
        locations=locations,
        keys=keys,
        targets=np.array(masks, dtype=np.str_),
        target_keys=mask_keys,
        notes=[*manifest.notes, note],
    )
