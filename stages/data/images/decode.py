"""From a location to pixels: ``read_image`` opens files and the samples of packaged sets alike.

torchvision's quick decoders are used where they show what a photograph viewer shows and survive damaged files; the
header says when that is: JPEG, and WebP without transparency, animation and metadata. Everything else (PNG, GIF, TIFF,
BMP, other WebP, ...) goes through Pillow. Nothing here resizes, but who says to what size an image will be resized
gets a large JPEG decoded at a fraction of its size, by Pillow, which takes less time and memory.
"""

from __future__ import annotations

import re

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from stages.data.images.file_kinds import describe_unknown, open_image_format
from stages.data.images.rgb import DECODE_ERRORS, UnreadableImageError, as_rgb

PIXEL_LIMIT = 178_956_970
"""Most pixels an image may have: Pillow's own limit, half a gigabyte as RGB."""


def decoder_name(reduced: bool) -> str:
    """Return name and version of what turns bytes into pixels here; part of the spec of every cached feature.

    Parameters
    ----------
    reduced : bool
        Whether images are read with a `shorter_side`.
    """
    return "torchvision+pillow+reduced/1" if reduced else "torchvision+pillow/1"


def decode(data: bytes, shorter_side: int | None = None) -> Tensor:
    """Return the pixels, uint8 [3, H, W], of an encoded image.

    Parameters
    ----------
    data : bytes
    shorter_side : int, optional
        To how many pixels the shorter side will be resized. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its size
        (fewer coefficients of each block are transformed back), the smallest that leaves the shorter side at least
        twice as long as that, so that the resize still has pixels to average. Every other image, and by default each,
        is decoded in full.

    Raises
    ------
    UnreadableImageError
        If the bytes are not an intact image, or one of more than `PIXEL_LIMIT` pixels (refused before decoding).
    """
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        with open_image_format(data) as header:
            width, height = header.size
            if not 0 < width * height <= PIXEL_LIMIT:
                raise UnreadableImageError(f"{width} x {height} pixels; 1 to {PIXEL_LIMIT:,} are allowed")
            if shorter_side is not None:
                header.draft(None, (2 * shorter_side, 2 * shorter_side))  # does nothing but to a large JPEG
            if header.width < width:
                header.info.pop("xmp", None)  # as in full decoding, the orientation in EXIF alone counts
                return as_rgb(header)
            return _decode_with_torchvision(data) if _torchvision_decodes_faithfully(header) else as_rgb(header)
    except UnidentifiedImageError as error:
        raise UnreadableImageError(describe_unknown(data)) from error
    except DECODE_ERRORS as error:
        raise UnreadableImageError(_short(error)) from error


def _torchvision_decodes_faithfully(header: Image.Image) -> bool:
    """Tell whether torchvision decodes this image as a viewer shows it, whatever its bytes are.

    It turns JPEG upright but not WebP, drops alpha instead of laying it on white, and reads no animated WebP. PNG is
    left to Pillow, although that takes a fifth longer: torchvision's decoder ends the process on damaged image data
    (a segmentation fault in torchvision 0.29; a flipped bit is enough).
    """
    if header.format in ("JPEG", "MPO"):
        return True
    return (
        header.format == "WEBP"
        and header.mode == "RGB"
        and not header.info.keys() & {"exif", "xmp"}
        and not getattr(header, "is_animated", False)
    )


def _decode_with_torchvision(data: bytes) -> Tensor:
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # a copy: torch wants memory it may write to
    image: Tensor = decode_image(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    return image


def _short(error: BaseException) -> str:
    """Return the first line of a decoder's message without the C++ source position torchvision opens it with."""
    first_line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return re.sub(r"^.*\.(cpp|h):\d+, ", "", first_line)
