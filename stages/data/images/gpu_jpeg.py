"""JPEG decoded on a GPU, by nvJPEG through TorchCodec: many files a call."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from functools import cache

import torch
from PIL import Image
from torch import Tensor

from stages.data.images.codecs import INSTALL, first_line, torchcodec_decoders
from stages.data.images.jpeg_structure import JpegSize
from stages.runtime.device import is_lost
from stages.runtime.memory import free_cached, is_out_of_memory

_LOG = logging.getLogger("cutonce")

_PIXELS_AT_A_TIME = 1 << 28
"""Of one call: 0.8 GB of decoded images, beside what nvJPEG needs itself."""


@cache
def why_no_gpu_decoder(device: torch.device) -> str:
    """Return why JPEG cannot be decoded on a device, in words; '' where it can. It is tried, once in a process."""
    decoders = torchcodec_decoders()
    if decoders is None:
        return f"TorchCodec is not there or does not load ({INSTALL})"
    encoded = io.BytesIO()
    Image.new("RGB", (16, 16)).save(encoded, "JPEG")
    try:
        decoders.decode_jpeg([encoded.getvalue()], device=device)
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        return (
            f"TorchCodec does not decode on {device} ({first_line(error)}); its build has to fit: "
            "https://github.com/meta-pytorch/torchcodec says how to install the one for CUDA"
        )
    return ""


@cache
def say_once(message: str) -> None:
    """Say something of how images are decoded, once in a process."""
    _LOG.info(message)


def decode_jpegs(encoded: Sequence[Tensor], sizes: Sequence[JpegSize], device: torch.device) -> list[Tensor | None]:
    """Return each image, uint8 [3, H, W] on the device, upright; None for one that the decoder does not take alone.

    A call of which one image fails is halved until the one is found: the others are not lost with it.

    Parameters
    ----------
    encoded : sequence of uint8 Tensor [n]
        The bytes of each file, in the memory of the CPU.
    sizes : sequence of JpegSize
    device : torch.device

    Raises
    ------
    torch.OutOfMemoryError
        If there is no room for a single image.
    """
    images: list[Tensor | None] = []
    for part in _parts(sizes):
        images += _decoded_or_halved(encoded[part.start : part.stop], device)
    return images


def _parts(sizes: Sequence[JpegSize]) -> list[range]:
    parts: list[range] = []
    start = pixels = 0
    for index, size in enumerate(sizes):
        if index > start and pixels + size.height * size.width > _PIXELS_AT_A_TIME:
            parts.append(range(start, index))
            start, pixels = index, 0
        pixels += size.height * size.width
    return [*parts, range(start, len(sizes))] if sizes else []


def _decoded_or_halved(encoded: Sequence[Tensor], device: torch.device) -> list[Tensor | None]:
    decoders = torchcodec_decoders()
    assert decoders is not None  # as `why_no_gpu_decoder` found
    try:
        decoded: list[Tensor | None] = decoders.decode_jpeg(list(encoded), device=device)
    except (RuntimeError, ValueError) as error:  # the second of a file without bytes
        if len(encoded) == 1:
            if is_out_of_memory(error) or is_lost(error):
                raise
            _LOG.debug("the decoder of %s did not take an image: %s", device, first_line(error))
            return [None]
        if is_lost(error):
            raise
        is_short = is_out_of_memory(error)
    else:
        return decoded
    if is_short:
        free_cached(device)
    half = len(encoded) // 2
    return _decoded_or_halved(encoded[:half], device) + _decoded_or_halved(encoded[half:], device)
