"""TorchCodec where it is there: quicker than Pillow for JPEG, PNG and WebP, with the same pixels bit for bit."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.data.images.rgb import UnreadableImageError

_LOG = logging.getLogger("cutonce")

INSTALL = "pip install 'torchcodec>=0.16'"


@cache
def torchcodec_decoders() -> Any | None:
    """Return the module of TorchCodec's decoders, None where it does not load; once in a process it is said why."""
    try:
        return import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # what libraries of C++ that do not fit raise
        _LOG.info(f"JPEG and PNG are decoded by Pillow, with the same pixels but slower: {_why_not(error)}")
        return None


def _why_not(error: Exception) -> str:
    try:
        installed = version("torchcodec")
    except PackageNotFoundError:
        return f"TorchCodec is not installed ({INSTALL}; it needs torch 2.11 or newer)"
    return (
        f"TorchCodec {installed} does not load beside torch {torch.__version__} ({first_line(error)}); "
        "their versions have to fit, and beside a torch for CPUs alone it has to be its build for CPUs"
    )


def rgb_decoder(kind: str) -> Callable[[bytes], Tensor] | None:
    """Return what decodes an image of a kind, 'jpeg', 'png' or 'webp', to RGB, uint8 [3, H, W]; None: nothing does."""
    decoders = torchcodec_decoders()
    return None if decoders is None else getattr(decoders, f"decode_{kind}", None)


def decode_deep_png(data: bytes) -> NDArray[np.uint16]:
    """Return the pixels, uint16 [H, W, C], of a PNG of 16 bits and several channels.

    Raises
    ------
    UnreadableImageError
        If TorchCodec is not there.
    """
    decoders = torchcodec_decoders()
    if decoders is None:
        raise UnreadableImageError(f"a PNG of several channels of 16 bits needs TorchCodec: {INSTALL}")
    pixels: Tensor = decoders.decode_png(data, mode="UNCHANGED", output_dtype="auto")
    return pixels.permute(1, 2, 0).numpy()


def first_line(error: BaseException) -> str:
    """Return the first line of a decoder's message without the C++ source position that it opens with."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return re.sub(r"^.*\.(cpp|h):\d+, ", "", line)
