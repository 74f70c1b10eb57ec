"""The ways in which the rows may lie in a shard file, and how each is read.

Contiguous rows and chunks that are packed as we pack them are read past HDF5, which would let one thread work at a
time. What other tools have made of a shard is left to HDF5. Whether the bytes are right is not known here.

A way of storing rows is a class under :func:`register_cache_format`, here or in a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from cache.deflate import DecompressionError, compress, crc32, decompress
from cache.errors import BrokenShardError
from cache.formats import CACHE_FORMATS, CacheFormat

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


class Layout(Protocol):
    """A way of storing rows, as a class whose instances are the `Storage` of a shard."""

    @staticmethod
    def store(file: h5py.File, pieces: list[NDArray[Any]], dtype: np.dtype[Any]) -> None:
        """Make the dataset ``features`` of arrays [n, *row_shape]; the list is emptied, to free them."""

    @classmethod
    def detect(cls, dataset: h5py.Dataset, path: Path) -> Storage | None:
        """Return how the elements are stored, if it is in this way and they can be read safely.

        Raises
        ------
        BrokenShardError
            If they are stored in this way, and claim what cannot be.
        """


class ReadableLayout(Protocol):
    """A way of storing rows that other tools use, and that is only read."""

    @classmethod
    def detect(cls, dataset: h5py.Dataset, path: Path) -> Storage | None:
        """See :class:`Layout`."""


LayoutT = TypeVar("LayoutT", bound=type[ReadableLayout])


def register_cache_format(
    name: str, *, writes: bool = True, aligned: bool = False, help_text: str = ""
) -> Callable[[LayoutT], LayoutT]:
    """Make a `Layout`, or with ``writes=False`` a `ReadableLayout`, a way in which shards store their rows.

    Parameters
    ----------
    name, writes, aligned
        As in :class:`~cache.formats.CacheFormat`; `name` is what `compression` is for it. Literals in our own files.
    help_text
        What help says of it; by default the beginning of the docstring.

    Raises
    ------
    UsageError
        If another class is registered under the name.
    """
    return CACHE_FORMATS.decorator(CacheFormat(name, writes, aligned, help_text=help_text))


@register_cache_format("none", aligned=True, help_text="as they are")
@dataclass(frozen=True)
class Contiguous:
    """Row after row, from `offset` in the file."""

    offset: int
    chunk_rows: int = 1

    @staticmethod
    def store(file: h5py.File, pieces: list[NDArray[Any]], dtype: np.dtype[Any]) -> None:
        """See :class:`Layout`."""
        rows = file.create_dataset("features", (sum(map(len, pieces)), *pieces[0].shape[1:]), dtype)
        stop = len(rows)
        while pieces:
            piece = pieces.pop()
            rows[stop - len(piece) : stop] = piece
            stop -= len(piece)

    @classmethod
    def detect(cls, dataset: h5py.Dataset, path: Path) -> Contiguous | None:
        """See :class:`Layout`."""
        if dataset.id.get_create_plist().get_layout() == h5py.h5d.CHUNKED:
            return None
        return cls(contiguous_offset(dataset, path))

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


@register_cache_format(
    "gzip",
    help_text="packs feature maps full of zeros, after a ReLU, about nine times, pooled features twice; slower to read",
)
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

    @staticmethod
    def store(file: h5py.File, pieces: list[NDArray[Any]], dtype: np.dtype[Any]) -> None:
        """Store chunks of whole rows as HDF5's gzip filter would, packed by us, which is much quicker."""
        rows = np.concatenate(pieces).astype(dtype, copy=False)
        pieces.clear()
        step = min(len(rows), chunk_rows(rows[0].nbytes))
        dataset = file.create_dataset(
            "features", rows.shape, dtype, chunks=(step, *rows.shape[1:]), compression="gzip", compression_opts=1
        )
        for start in range(0, len(rows), step):
            chunk = np.zeros((step, *rows.shape[1:]), dtype)  # HDF5 stores whole chunks, at the end as well
            chunk[: len(rows) - start] = rows[start : start + step]
            dataset.id.write_direct_chunk((start, *(0 for _ in rows.shape[1:])), compress(chunk))

    @classmethod
    def detect(cls, dataset: h5py.Dataset, path: Path) -> DeflatedChunks | None:
        """See :class:`Layout`."""
        if chunk_filters(dataset) != [h5py.h5z.FILTER_DEFLATE]:
            return None
        _require_plausible(dataset, path)
        size, chunk = path.stat().st_size, dataset.chunks
        chunks: list[h5py.h5d.StoreInfo] = []
        dataset.id.chunk_iter(chunks.append)
        if chunk[1:] != dataset.shape[1:] or any(stored.filter_mask for stored in chunks):
            return None
        if any(stored.byte_offset + stored.size > size for stored in chunks):
            raise BrokenShardError(f"{path}: features end outside the file")
        offsets, sizes = np.zeros((2, math.ceil(dataset.shape[0] / chunk[0])), np.int64)
        for stored in chunks:
            offsets[stored.chunk_offset[0] // chunk[0]] = stored.byte_offset
            sizes[stored.chunk_offset[0] // chunk[0]] = stored.size
        return cls(chunk[0], offsets, sizes)

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


@register_cache_format("hdf5-filters", writes=False)
@dataclass(frozen=True)
class Hdf5Filtered:
    """Chunks with filters that every HDF5 library has, as other tools make them."""

    chunk_rows: int

    @classmethod
    def detect(cls, dataset: h5py.Dataset, path: Path) -> Hdf5Filtered | None:
        """See :class:`Layout`."""
        filters = chunk_filters(dataset)
        if filters is None or not _FILTERS.issuperset(filters):
            return None
        _require_plausible(dataset, path)
        return cls(dataset.chunks[0])

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
    for layout in _layouts():
        storage = layout.detect(dataset, path)
        if storage is not None:
            return storage
    raise BrokenShardError(f"{path}: features are compressed with a filter that HDF5 does not bring along")


def format_of(storage: Storage) -> str:
    """Return the name of the format in which a shard that is stored in this way is written again."""
    names = {layout: name for name, layout in CACHE_FORMATS.own_things().items()}
    name = names.get(type(storage))
    return name if name is not None and CACHE_FORMATS.known[name].writes else "gzip"


def chunk_filters(dataset: h5py.Dataset) -> list[int] | None:
    """Return the numbers of the filters that a dataset's chunks went through; None if it has no chunks."""
    properties = dataset.id.get_create_plist()
    if properties.get_layout() != h5py.h5d.CHUNKED:
        return None
    return [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]


def _layouts() -> Iterator[type[ReadableLayout]]:
    """Yield all formats: first ours, so that plug-ins are looked for where they are needed; last what only reads."""
    own_formats = CACHE_FORMATS.own_things()
    yield from (layout for name, layout in own_formats.items() if CACHE_FORMATS.known[name].writes)
    every = CACHE_FORMATS.things()
    yield from (layout for name, layout in every.items() if name not in own_formats)
    yield from (layout for name, layout in own_formats.items() if not CACHE_FORMATS.known[name].writes)


def _require_plausible(dataset: h5py.Dataset, path: Path) -> None:
    """Refuse chunks that claim to be much more than the file is big."""
    for subject, shape, most in (
        ("features", dataset.shape, _GREATEST_COMPRESSION * path.stat().st_size),
        ("a chunk", dataset.chunks, _GREATEST_CHUNK_BYTES),
    ):
        if math.prod(shape) * dataset.dtype.itemsize > most:
            raise BrokenShardError(f"{path}: {subject} of the shape {shape} is more than {most:,} bytes")


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
