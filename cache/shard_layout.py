"""The ways in which the rows may lie in a shard file, and how each is read.

Contiguous rows and chunks that are packed as we pack them are read past HDF5, which would let one thread work at a
time. What other tools have made of a shard is left to HDF5. Whether the bytes are right is not known here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from cache.deflate import DecompressionError, crc32, decompress
from cache.errors import BrokenShardError

_BLOCK_BYTES = 1 << 18
_CHUNK_BYTES = 1 << 18
_GREATEST_COMPRESSION = 1100
"""Above deflate's theoretical limit of 1032: what claims to hold more per byte on disk is a bomb."""
_GREATEST_CHUNK_BYTES = 1 << 28
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}


class ReadResult(NamedTuple):
    """What came of reading a stretch of rows."""

    checksum: int
    """CRC-32 of all bytes of the stretch, as far as they could be read."""
    unreadable: list[int]
    """Rows of the stretch that could not be unpacked."""


class Storage(Protocol):
    """How the rows of one shard lie in its file."""

    @property
    def chunk_rows(self) -> int:
        """Rows that can only be read together."""

    def read(self, path: Path, start: int, into: NDArray[np.uint8]) -> ReadResult:
        """Fill `into`, contiguous [n, row_bytes], with rows ``start`` to ``start + n``.

        Raises
        ------
        OSError
            If the file cannot be read, or has got shorter.
        """


@dataclass(frozen=True)
class Contiguous:
    """Row after row, from `offset` in the file."""

    offset: int
    chunk_rows: int = 1

    def read(self, path: Path, start: int, into: NDArray[np.uint8]) -> ReadResult:
        """See :class:`Storage`. In blocks that stay in the processor's cache until they are checked."""
        data = into.data.cast("B")
        checksum = 0
        with path.open("rb", buffering=0) as file:
            file.seek(self.offset + start * into.shape[1])
            for begin in range(0, len(data), _BLOCK_BYTES):
                block = data[begin : begin + _BLOCK_BYTES]
                _fill(file, block)
                checksum = crc32(block, checksum)
        return ReadResult(checksum, [])


@dataclass(frozen=True, eq=False)
class DeflatedChunks:
    """Chunks of equally many whole rows, the last one filled up, each compressed by deflate alone.

    Attributes
    ----------
    chunk_rows : int
    offsets, sizes : int64 arrays [chunks]
        Where each chunk is in the file, and how long; inside the file.
    """

    chunk_rows: int
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def read(self, path: Path, start: int, into: NDArray[np.uint8]) -> ReadResult:
        """See :class:`Storage`."""
        stop, row_bytes = start + len(into), into.shape[1]
        checksum = 0
        unreadable: list[int] = []
        with path.open("rb", buffering=0) as file:
            for index in range(start // self.chunk_rows, math.ceil(stop / self.chunk_rows)):
                first = index * self.chunk_rows
                begin, end = max(start, first), min(stop, first + self.chunk_rows)
                target = into[begin - start : end - start]
                packed = bytearray(int(self.sizes[index]))
                file.seek(int(self.offsets[index]))
                _fill(file, memoryview(packed))
                try:
                    rows = decompress(packed, self.chunk_rows * row_bytes)
                except DecompressionError:
                    unreadable += range(begin - start, end - start)
                    continue
                target[:] = np.frombuffer(rows, np.uint8).reshape(-1, row_bytes)[begin - first : end - first]
                checksum = crc32(target, checksum)
        return ReadResult(checksum, unreadable)


@dataclass(frozen=True)
class Hdf5Filtered:
    """Chunks with filters that every HDF5 library has, as other tools make them."""

    chunk_rows: int

    def read(self, path: Path, start: int, into: NDArray[np.uint8]) -> ReadResult:
        """See :class:`Storage`."""
        unreadable = []
        with h5py.File(path, "r", locking=False) as file:
            features = file["features"]
            rows = into.view(features.dtype).reshape(len(into), *features.shape[1:])
            try:
                features.read_direct(rows, np.s_[start : start + len(into)])
            except OSError:
                for index in range(len(into)):
                    try:
                        features.read_direct(rows, np.s_[start + index], np.s_[index])
                    except OSError:
                        unreadable.append(index)
        return ReadResult(crc32(into), unreadable)


def chunk_rows(row_bytes: int) -> int:
    """Return how many rows are packed together: larger chunks do not pack better, and a row costs unpacking its own."""
    return max(1, _CHUNK_BYTES // row_bytes)


def detect_layout(dataset: h5py.Dataset, path: Path) -> Storage:
    """Return how the elements of a dataset are stored, having seen to it that they can be read safely.

    Raises
    ------
    BrokenShardError
        If they are not all in this file, need a plug-in, or claim to be much more than the file is big.
    """
    properties = dataset.id.get_create_plist()
    if properties.get_layout() != h5py.h5d.CHUNKED:
        return Contiguous(contiguous_offset(dataset, path))
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    if not _FILTERS.issuperset(filters):
        raise BrokenShardError(f"{path}: features are compressed with a filter that HDF5 does not bring along")
    chunk = properties.get_chunk()
    size = path.stat().st_size
    for what, shape, most in (
        ("features", dataset.shape, _GREATEST_COMPRESSION * size),
        ("a chunk", chunk, _GREATEST_CHUNK_BYTES),
    ):
        if math.prod(shape) * dataset.dtype.itemsize > most:
            raise BrokenShardError(f"{path}: {what} of the shape {shape} is more than {most:,} bytes")
    chunks: list[h5py.h5d.StoreInfo] = []
    dataset.id.chunk_iter(chunks.append)
    if filters != [h5py.h5z.FILTER_DEFLATE] or chunk[1:] != dataset.shape[1:] or any(one.filter_mask for one in chunks):
        return Hdf5Filtered(chunk[0])
    if any(one.byte_offset + one.size > size for one in chunks):
        raise BrokenShardError(f"{path}: features end outside the file")
    offsets, sizes = np.zeros((2, math.ceil(dataset.shape[0] / chunk[0])), np.int64)
    for one in chunks:
        offsets[one.chunk_offset[0] // chunk[0]] = one.byte_offset
        sizes[one.chunk_offset[0] // chunk[0]] = one.size
    return DeflatedChunks(chunk[0], offsets, sizes)


def contiguous_offset(dataset: h5py.Dataset, path: Path) -> int:
    """Return where in the file the elements stand, all of them, one after the other.

    Raises
    ------
    BrokenShardError
        If they are stored in another way, or not in this file.
    """
    properties = dataset.id.get_create_plist()
    if properties.get_layout() != h5py.h5d.CONTIGUOUS or properties.get_external_count():
        raise BrokenShardError(f"{path}: {dataset.name} are not stored contiguously in the shard itself")
    offset = dataset.id.get_offset()  # HDF5 has seen to it that they end inside the file when it opened the dataset
    if offset is None:
        raise BrokenShardError(f"{path}: {dataset.name} were never written")
    return int(offset)


def _fill(file: FileIO, data: memoryview) -> None:
    """Read until `data` is full: one call may bring less, on some systems never more than 2 GiB."""
    while data:
        count = file.readinto(data)
        if not count:
            raise OSError("it is shorter than when it was opened")
        data = data[count:]
