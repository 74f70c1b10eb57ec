"""Cached rows that stay at hand while an upper part trains: on the GPU, or in memory that the GPU copies from.

A GPU trains on many thousand rows a second; nothing is read from files for each of its batches.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import psutil
import torch
from torch import Tensor

from stages.extraction.extractor import CachedCut
from stages.runtime.device import uploaded
from stages.runtime.progress import progress

_LOG = logging.getLogger("cutonce")

Place = Literal["device", "pinned", "files"]

SHARE_OF_DEVICE = 0.5
"""Of the memory that is free on a GPU; the rest is for what trains."""

SHARE_OF_HOST = 0.5
"""Of the memory that is free beside it: what is pinned is kept from everybody else."""

_BLOCK_BYTES = 64 << 20
"""What is read from the files at a time."""


class ResidentRows:
    """The rows of images, in so many views, in the type in which they are stored.

    Parameters
    ----------
    tap : CachedCut
        Its caches hold them all.
    keys : iterable of str
        Of the images; the same one counts once.
    views : int
        From the evaluation view on.
    device : torch.device
        Where rows are wanted.
    place : {"device", "pinned"}
        Where they lie.
    """

    def __init__(
        self, tap: CachedCut, keys: Iterable[str], views: int, device: torch.device, place: Place = "device"
    ) -> None:
        distinct = list(dict.fromkeys(keys))
        self._number = {key: number for number, key in enumerate(distinct)}
        self._device = device
        dtype = torch.from_numpy(np.empty(0, tap.cache.dtype)).dtype
        self._rows = torch.empty(
            (views * len(distinct), *tap.shape),
            dtype=dtype,
            device=device if place == "device" else "cpu",
            pin_memory=place == "pinned" and device.type == "cuda",
        )
        at_a_time = max(_BLOCK_BYTES // max(row_bytes(tap), 1), 1)
        with progress(label="rows to the GPU", total=views * len(distinct), unit="rows") as bar:
            for view in range(views):
                cache = tap.cache_of_view(view)
                for first in range(0, len(distinct), at_a_time):
                    block = torch.from_numpy(cache.read(distinct[first : first + at_a_time], view))
                    start = view * len(distinct) + first
                    self._rows[start : start + len(block)].copy_(block)
                    bar.update(len(block))

    def rows(self, keys: Sequence[str], views: Sequence[int]) -> Tensor:
        """Return the rows of images, each in one of the views, [b, *shape] on the device, in their stored type."""
        count = len(self._number)
        numbers = [view * count + self._number[key] for key, view in zip(keys, views, strict=True)]
        if self._rows.device.type == self._device.type:
            return self._rows.index_select(0, uploaded(torch.tensor(numbers), self._device))
        return uploaded(self._rows.index_select(0, torch.tensor(numbers)), self._device)


def row_bytes(tap: CachedCut) -> int:
    """Return what a row takes in the type in which it is read."""
    return math.prod(tap.shape) * tap.cache.dtype.itemsize


def find_place(nbytes: int, device: torch.device) -> Place:
    """Return where so many bytes of rows are kept for a device: on it, pinned beside it, or nowhere but in their files.

    A CPU reads its files, which its memory holds anyway where there is room.
    """
    if device.type != "cuda":
        return "files"
    if nbytes <= SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]:
        return "device"
    return "pinned" if nbytes <= SHARE_OF_HOST * psutil.virtual_memory().available else "files"


def note_place(nbytes: int, place: Place, device: torch.device) -> None:
    """Say where rows are kept."""
    words = {
        "device": f"are kept on {device}",
        "pinned": f"are more than half of what is free on {device}, so they are kept in memory beside it",
        "files": f"fit neither on {device} nor in the memory beside it, so each batch is read from the cache",
    }
    if device.type == "cuda":
        _LOG.info(f"note: {nbytes / 1e9:.1f} GB of cached rows {words[place]}")
