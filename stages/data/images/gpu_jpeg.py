"""JPEG decoded on a GPU, by nvJPEG through TorchCodec: many files a call."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from functools import cache

import torch
from PIL import Image
from torch import Tensor

from cache.errors import CutonceError
from stages.data.images.codecs import INSTALL, first_line, torchcodec_decoders
from stages.data.images.jpeg_structure import JpegSize
from stages.runtime.device import RECORDING, is_lost
from stages.runtime.memory import free_cached, is_out_of_memory
from stages.runtime.said_once import say_once

_LOG = logging.getLogger("cutonce")

_PIXELS_AT_A_TIME = 1 << 28
"""Of one call: 0.8 GB of decoded images, beside what nvJPEG needs itself."""


_ALLOCATOR_FAILURE = re.compile(r"(?i)\b(?:nvjpeg|decode batch|batch decoding|image info|jpeg stream)[^:\n]*: 5\b")
"""In errors of TorchCodec: nvJPEG's status for no memory. That is no fault of an image: it is not for the CPU."""

_TENSOR_REFUSED = "API call failed"
"""In errors of TorchCodec: torch did not give it a tensor. Before torch 2.13 it says no more of memory that did not
suffice (torch/headeronly/util/shim_utils.h)."""


@cache
def why_no_gpu_decoder(device: torch.device) -> str:
    """Return why JPEG cannot be decoded on a device, in words; '' where it can. It is tried, once in a process.

    Raises
    ------
    CutonceError
        If that says nothing of the decoder: the memory of the device is taken, or the device is lost.
    """
    if torchcodec_decoders() is None:
        return f"TorchCodec is not there or does not load ({INSTALL})"
    encoded = io.BytesIO()
    Image.new("RGB", (16, 16)).save(encoded, "JPEG")
    try:
        _decoded([torch.frombuffer(bytearray(encoded.getvalue()), dtype=torch.uint8)], device)
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        if _is_short(error) or is_lost(error):
            raise CutonceError(f"{device} does not decode a single image ({_told(error)}): free its memory") from error
        return (
            f"TorchCodec does not decode on {device} ({first_line(error)}); its build has to fit: "
            "https://github.com/meta-pytorch/torchcodec says how to install the one for CUDA"
        )
    return ""


def decode_jpegs(encoded: Sequence[Tensor], sizes: Sequence[JpegSize], device: torch.device) -> list[Tensor | None]:
    """Return each image, uint8 [3, H, W] on the device, upright; None for one that the decoder does not take alone.

    A call of which one image fails is halved until the one is found: the others are not lost with it. Each waits for
    what the stream of this thread was told before, and returns when the images are there.

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
    for part in parts_with_room(sizes):
        images += _decoded_or_halved(encoded[part.start : part.stop], device)
    return images


def parts_with_room(sizes: Sequence[JpegSize]) -> list[range]:
    """Return which images are decoded at once: so many that they find room while they are whole, as photographs are."""
    parts: list[range] = []
    start = pixels = 0
    for index, size in enumerate(sizes):
        if index > start and pixels + size.height * size.width > _PIXELS_AT_A_TIME:
            parts.append(range(start, index))
            start, pixels = index, 0
        pixels += size.height * size.width
    return [*parts, range(start, len(sizes))] if sizes else []


def _decoded_or_halved(encoded: Sequence[Tensor], device: torch.device) -> list[Tensor | None]:
    try:
        return _decoded(encoded, device)
    except (RuntimeError, ValueError) as error:  # the second of a file without bytes
        if is_lost(error):
            raise
        is_short = _is_short(error)
        if len(encoded) == 1:
            if is_short:
                raise torch.OutOfMemoryError(f"no memory to decode on {device}: {_told(error)}") from error
            _LOG.debug("the decoder of %s did not take an image: %s", device, first_line(error))
            return [None]
    if is_short:
        say_once(f"{device} has not enough memory to decode {len(encoded)} images at once: fewer are decoded at a time")
        free_cached(device)
    half = len(encoded) // 2
    return _decoded_or_halved(encoded[:half], device) + _decoded_or_halved(encoded[half:], device)


def _is_short(error: BaseException) -> bool:
    """Return whether a decoder failed for want of memory."""
    told = str(error)
    return is_out_of_memory(error) or _ALLOCATOR_FAILURE.search(told) is not None or _TENSOR_REFUSED in told


def _told(error: BaseException) -> str:
    line = first_line(error)
    return "there is none for a tensor" if line.partition("(")[0] == "torch_call_dispatcher" else line


def _decoded(encoded: Sequence[Tensor], device: torch.device) -> list[Tensor | None]:
    """Return the images of one call of the decoder, which waits for what this thread has launched.

    nvJPEG does not: the decoding engines of a card (seen on the H100) do not keep to the order of the stream that they
    are given. They would write into memory that torch has given on to them while what was launched before still reads
    it. TorchCodec waits by itself from 0.17 on; pull request 9606 of torchvision has figures for 0.16: wrong numbers in
    134 of 200 trials.
    """
    decoders = torchcodec_decoders()
    assert decoders is not None  # as `why_no_gpu_decoder` found
    if device.type != "cuda":
        return list(decoders.decode_jpeg(list(encoded), device=device))
    torch.cuda.current_stream(device).synchronize()
    with RECORDING:
        return list(decoders.decode_jpeg(list(encoded), device=device))
