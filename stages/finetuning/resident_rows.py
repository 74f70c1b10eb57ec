"""Cached rows that stay at hand while an upper part trains: on the GPU, or in the memory beside it.

A GPU trains on many thousand rows a second; nothing is read from files for each of its batches.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stages.extraction.extractor import CachedCut
from stages.runtime.device import free_memory, uploaded
from stages.runtime.progress import progress

_LOG = logging.getLogger("cutonce")

Place = Literal["device", "host", "files"]

SHARE_OF_DEVICE = 0.5
"""Of the memory that is free on a GPU; the rest is for what trains."""

SHARE_OF_HOST = 0.5
"""Of the memory that is free beside it, of all processes of the machine together."""

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
    place : {"device", "host"}
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
        numbers = torch.tensor([view * count + self._number[key] for key, view in zip(keys, views, strict=True)])
        if self._rows.device.type == self._device.type:
            return self._rows.index_select(0, uploaded(numbers, self._device))
        # what is copied is pinned, and not all rows: torch takes pinned memory by powers of two
        batch = torch.empty((len(numbers), *self._rows.shape[1:]), dtype=self._rows.dtype, pin_memory=True)
        return uploaded(torch.index_select(self._rows, 0, numbers, out=batch), self._device)


def row_bytes(tap: CachedCut) -> int:
    """Return what a row takes in the type in which it is read."""
    return math.prod(tap.shape) * tap.cache.dtype.itemsize


def find_place(nbytes: int, device: torch.device, sharing: int = 1) -> Place:
    """Return where so many bytes of rows are kept for a device: on it, in the memory beside it, or in their files.

    A CPU reads its files, which its memory holds anyway where there is room.

    Parameters
    ----------
    nbytes : int
    device : torch.device
    sharing : int
        Processes on this machine that each want as many, for a device of their own.
    """
    if device.type != "cuda":
        return "files"
    if nbytes <= SHARE_OF_DEVICE * free_memory(device):
        return "device"
    return "host" if nbytes * sharing <= SHARE_OF_HOST * free_memory(torch.device("cpu")) else "files"


def note_place(nbytes: int, place: Place, device: torch.device) -> None:
    """Say where rows are kept."""
    words = {
        "device": f"are kept on {device}",
        "host": f"are more than half of what is free on {device}, so they are kept in memory beside it",
        "files": f"fit neither on {device} nor in the memory beside it, so each batch is read from the cache",
    }
    if device.type == "cuda":
        _LOG.info(f"note: {nbytes / 1e9:.1f} GB of cached rows {words[place]}")
