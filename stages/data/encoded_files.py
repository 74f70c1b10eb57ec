"""Files as they lie on the disk, many at once in one piece of memory, with little work for the interpreter.

Where a GPU decodes, whoever reads the files has to be quick: nothing is done for each of them but to open, read and
close it. What is wrong with a file that cannot be read so is told by who reads it alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.data.images.jpeg_structure import JpegSize, whole_jpegs

_LARGEST = 1 << 28
"""Bytes of a file that are read so."""

_LOOKED_AT = 10_000
"""Files whose sizes say what the others take: on a slow disk each takes a millisecond."""


@dataclass(frozen=True)
class EncodedFiles:
    """Files in one piece of memory.

    Attributes
    ----------
    data : uint8 [n]
    spans : list of (start, stop)
        Where each lies; empty where it could not be read, or not so.
    jpegs : list of JpegSize or None
        The size of those that a GPU decodes, see `whole_jpegs`.
    """

    data: NDArray[np.uint8]
    spans: list[tuple[int, int]]
    jpegs: list[JpegSize | None]


def read_encoded(locations: Sequence[str], before: Callable[[int], None] | None = None) -> EncodedFiles:
    """Read files whole. Nothing is raised for one that is not there, is no file, or changes while it is read.

    Parameters
    ----------
    locations : sequence of str
    before : callable, optional
        Told how many bytes they take, before memory is taken for them.
    """
    sizes = [_size(location) for location in locations]
    stops = np.cumsum(sizes, dtype=np.int64).tolist()
    if before is not None:
        before(stops[-1] if stops else 0)
    data = np.empty(stops[-1] if stops else 0, np.uint8)
    memory = data.data
    spans = [
        (stop - size, stop) if size and _read_into(location, memory[stop - size : stop]) else (stop, stop)
        for location, size, stop in zip(locations, sizes, stops, strict=True)
    ]
    return EncodedFiles(data, spans, whole_jpegs(data, spans))


def bytes_of_largest(locations: Sequence[str], count: int) -> int:
    """Return how many bytes as many files take together at most, by an even sample of where there are many."""
    step = max(-(-len(locations) // _LOOKED_AT), 1)
    return sum(sorted(map(_size, locations[::step]))[-count:])


def _size(location: str) -> int:
    """Return the bytes of a file; 0 where it is none, or too large."""
    try:
        found = os.stat(location)  # noqa: PTH116 - a Path would take as long as all the rest
    except (OSError, ValueError):
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) and found.st_size <= _LARGEST else 0


def _read_into(location: str, memory: memoryview) -> bool:
    """Fill memory with a file; return whether the file is just as long."""
    try:
        file = os.open(location, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError):
        return False
    try:
        with os.fdopen(file, "rb", buffering=0) as opened:
            return opened.readinto(memory) == len(memory) and not opened.read(1)
    except OSError:
        return False
