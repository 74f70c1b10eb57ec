"""Photographs and masks as small pictures on a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.errors import DataError
from pipeline.report.page_parts import data_uri
from stages.data.images.reading import reading_from
from stages.data.images.rgb import as_colors
from stages.data.masks.mask_colors import Color
from stages.data.sources.open_image import read_image

PICTURE = 288
"""Pixels on the longer side of a picture of a mask."""


def photograph(location: str, options: Mapping[str, Any], shape: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Return the image in the size of its mask, uint8 [h, w, 3]; None where it is not there any more."""
    try:
        pixels = as_colors(read_image(location, reading_from(options)))
    except DataError:
        return None
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def picture_uri(picture: NDArray[np.uint8], encoding: Literal["JPEG", "PNG"]) -> str:
    """Return a picture, uint8 [h, w, 3], small, as what an ``<img>`` takes for its source."""
    image = Image.fromarray(picture)
    scale = min(PICTURE / max(image.size), 1)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    resampling = Image.Resampling.NEAREST if encoding == "PNG" else Image.Resampling.BILINEAR
    return data_uri(image.resize(size, resampling), encoding)


def css(color: Color) -> str:
    """Return a color as CSS has it."""
    return "#{:02x}{:02x}{:02x}".format(*color)
