"""What stands in the file of a mask: numbers or colors, as they are stored, with nothing smoothed or scaled."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from stages.data.images.decode import PIXEL_LIMIT
from stages.data.images.file_kinds import describe_unknown, open_image_format
from stages.data.images.rgb import DECODE_ERRORS, UnreadableImageError, upright

MATLAB = ".mat"
"""The ending of SBD's masks (Hariharan et al. 2011, "Semantic contours from inverse detectors")."""

_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_LOSSY = ("JPEG", "MPO", "JPEG2000")
"""Formats that smear what is stored in them; WebP and AVIF may do so."""

_MOST_COLORS = 4096
"""Different colors up to which they are counted; no set of masks has as many classes."""


@dataclass(frozen=True)
class StoredMask:
    """The values of a mask.

    Attributes
    ----------
    values : int64 [H, W]
        Numbers, or colors as red * 65536 + green * 256 + blue.
    are_colors : bool
    palette : dict of int to int
        The color of each number that occurs, where the file has a palette.
    is_lossy : bool
        Whether the file's format smears values.
    """

    values: NDArray[np.int64]
    are_colors: bool
    palette: dict[int, int] = field(default_factory=dict)
    is_lossy: bool = False


@dataclass(frozen=True)
class MaskFacts:
    """What a survey of masks notes of one.

    Attributes
    ----------
    shape : (int, int)
        Height and width.
    counts : dict of int to int
        How many pixels have which value; of very many colors those that lead.
    are_colors : bool
    palette : dict of int to int
        As `StoredMask` has it.
    is_lossy : bool
    """

    shape: tuple[int, int]
    counts: dict[int, int]
    are_colors: bool
    palette: dict[int, int]
    is_lossy: bool


def stored_mask(location: str) -> StoredMask:
    """Return what the file of a mask holds; a color image of greys alone holds numbers.

    Grey of fewer than 8 bits is as bright as it is shown: 0 and 255 in black and white. Transparency does not count.

    Raises
    ------
    UnreadableImageError
        If it cannot be read; names the file and the reason.
    """
    try:
        if location.lower().endswith(MATLAB):
            return StoredMask(_matlab_values(location), are_colors=False)
        return _of_image(Path(location).read_bytes())
    except UnreadableImageError as error:
        raise UnreadableImageError(error.reason, location) from error
    except FileNotFoundError as error:
        raise UnreadableImageError("no such file", location) from error
    except DECODE_ERRORS as error:
        raise UnreadableImageError(str(error).partition("\n")[0] or type(error).__name__, location) from error


def facts_of_mask(mask: StoredMask) -> MaskFacts:
    """Return what a survey notes of a mask."""
    height, width = mask.values.shape
    if mask.values.size and mask.values.min() >= 0 and mask.values.max() < 1 << 16:
        histogram = np.bincount(mask.values.ravel())
        held = np.flatnonzero(histogram)
        numbers = histogram[held]
    else:
        held, numbers = np.unique(mask.values, return_counts=True)
    leading = np.argsort(-numbers, kind="stable")[:_MOST_COLORS]
    counts = dict(zip(held[leading].tolist(), numbers[leading].tolist(), strict=True))
    return MaskFacts((height, width), counts, mask.are_colors, mask.palette, mask.is_lossy)


def packed(red: int, green: int, blue: int) -> int:
    """Return a color as one number."""
    return red << 16 | green << 8 | blue


def color_name(color: int) -> str:
    """Return a packed color as people write it: ``#8040ff``."""
    return f"#{color:06x}"


def _of_image(data: bytes) -> StoredMask:
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        image = open_image_format(data)
    except UnidentifiedImageError as error:
        raise UnreadableImageError(describe_unknown(data)) from error
    with image:
        if image.width * image.height > PIXEL_LIMIT:
            raise UnreadableImageError(f"{image.width} x {image.height} pixels are more than {PIXEL_LIMIT:,}")
        is_lossy = image.format in _LOSSY
        upright(image)
        if image.mode in ("P", "PA"):
            indices = np.array(image if image.mode == "P" else image.getchannel(0), dtype=np.int64)
            colors = np.array(image.convert("RGB"), dtype=np.int64) @ _PLACES
            found, first = np.unique(indices, return_index=True)
            palette = dict(zip(found.tolist(), colors.ravel()[first].tolist(), strict=True))
            return StoredMask(indices, are_colors=False, palette=palette, is_lossy=is_lossy)
        if image.mode in _DEEP:
            return StoredMask(_whole(np.array(image)), are_colors=False, is_lossy=is_lossy)
        if image.mode in ("1", "L", "LA", "La"):
            return StoredMask(np.array(image.convert("L"), dtype=np.int64), are_colors=False, is_lossy=is_lossy)
        rgb = np.array(_opaque(image))
        if (rgb == rgb[..., :1]).all():
            return StoredMask(rgb[..., 0].astype(np.int64), are_colors=False, is_lossy=is_lossy)
        return StoredMask(rgb.astype(np.int64) @ _PLACES, are_colors=True, is_lossy=is_lossy)


def _opaque(image: Image.Image) -> Image.Image:
    """Return the colors without transparency, which `convert` of RGBA leaves out."""
    return image if image.mode == "RGB" else image.convert("RGB")


def _whole(values: NDArray[np.generic]) -> NDArray[np.int64]:
    whole: NDArray[np.int64] = values.astype(np.int64)
    if (whole != values).any():
        raise UnreadableImageError("it holds numbers that are not whole, which no classes have")
    return whole


def _matlab_values(location: str) -> NDArray[np.int64]:
    from scipy.io import loadmat

    content = loadmat(io.BytesIO(Path(location).read_bytes()))
    if "GTcls" not in content:
        raise UnreadableImageError("it has no GTcls, which the masks of SBD are in")
    return np.asarray(content["GTcls"][0]["Segmentation"][0], dtype=np.int64)


_PLACES = np.array([1 << 16, 1 << 8, 1], dtype=np.int64)
