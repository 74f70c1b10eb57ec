"""A tile of an image is an image: it has a location, which says where it lies in which, and a key of its own.

So it is read, cached, trained on and predicted like any other. Where tiles lie is ``stages.tasks.tiles``'s business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor
from torchvision.transforms.v2 import functional as F

from cache import key_of_bytes
from stages.config.features import FeatureConfig
from stages.data.images.reading import Reading
from stages.data.sources.in_memory import InMemoryImage
from stages.tasks.tiles import Box, Tiling, name_of_tile, split_name

_LATEST = threading.local()
"""The image that a thread has read last: tiles of one image are asked for one after the other."""


def tiling_of(options: FeatureConfig) -> Tiling | None:
    """Return how images are cut into tiles with these options; None where they are seen as a whole."""
    if options.tile is None:
        return None
    return Tiling(options.tile, options.tile, options.tile // 8 if options.overlap is None else options.overlap)


def tile_location(location: str, box: Box) -> str:
    """Return the location of a tile of the image at `location`; of one that is in memory with the tile's pixels."""
    name = name_of_tile(location, box)
    return InMemoryImage(name, cut_tile(location.read(), box)) if isinstance(location, InMemoryImage) else name


def tile_key(key: str, box: Box) -> str:
    """Return the key of a tile of the image with this key: 32 hex digits."""
    return key_of_bytes(f"tile {box.top},{box.left},{box.height},{box.width} of {key}".encode())


def tiles_of(tiling: Tiling, location: str, key: str, shape: tuple[int, int]) -> list[tuple[str, str, Box]]:
    """Return location, key and place of the tiles of an image of a shape (H, W).

    An image that is as large as a tile stands for itself, so that it shares its features with all who use it whole.
    """
    boxes = tiling.boxes(*shape)
    if boxes == [Box(0, 0, *shape)]:
        return [(location, key, boxes[0])]
    return [(tile_location(location, box), tile_key(key, box), box) for box in boxes]


def read_tile(
    location: str,
    reading: Reading,
    remarks: list[str] | None,
    read: Callable[[str, Reading, list[str] | None], Tensor],
) -> Tensor | None:
    """Return the pixels of a tile, uint8 [C, height, width]; None where a location is none.

    Parameters
    ----------
    location, reading, remarks
        As of `read_image`.
    read : callable
        Reads the image that it is a tile of.
    """
    if (found := split_name(location)) is None:
        return None
    whole, box = found
    latest = getattr(_LATEST, "image", None)
    if latest is None or latest[:2] != (whole, reading):
        _LATEST.image = None  # one image at a time is held, and not two while the next is read
        said: list[str] = []
        # places in a tile are those of the image in full, so it is not decoded at a reduced scale
        latest = (whole, reading, read(whole, replace(reading, shorter_side=None), said), said)
        _LATEST.image = latest
    if remarks is not None:
        remarks += latest[3]
    return cut_tile(latest[2], box)


def cut_tile(pixels: Tensor, box: Box) -> Tensor:
    """Return a rectangle of an image, uint8 [C, height, width]; beyond it, the pixels of its edge go on."""
    part = pixels[..., box.top : box.top + box.height, box.left : box.left + box.width]
    below, right = box.height - part.shape[-2], box.width - part.shape[-1]
    padded: Tensor = F.pad(part, [0, 0, right, below], padding_mode="edge") if below or right else part
    return padded
