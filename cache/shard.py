"""One shard: an immutable HDF5 file of feature rows, and the distrust with which it is opened.

What is in the file is told in ``docs/cache-format.md``. Not here: which shards there are, and where a key is found.
"""

from __future__ import annotations

import errno
import math
import os
import secrets
import stat
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from cache.checksum import joined_checksum, row_checksums
from cache.errors import BrokenShardError, CacheError
from cache.keys import KEY_LENGTH
from cache.lookup import pack_keys
from cache.spec import Spec

MEMBERS = {"features": "feature-rows", "keys": "keys", "views": "views", "checksums": "row-checksums"}
KEY_TYPE = np.dtype(f"S{KEY_LENGTH}")
VIEW_TYPE = np.dtype("<i4")
CHECKSUM_TYPE = np.dtype("<u4")

_PAGE_BYTES = 4096
_BLOCK_BYTES = 1 << 18
_STRETCH_BYTES = 1 << 23
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
_GREATEST_COMPRESSION = 1100
"""Above deflate's theoretical limit of 1032: what claims to hold more per byte on disk is a bomb."""
_GREATEST_CHUNK_BYTES = 1 << 28
_MOST_ROWS = 1 << 26
"""More than fit into a shard as the writer makes them; a sparse file may say anything."""

_HDF5_ERRORS = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError, OverflowError)
"""What h5py raises on files that are not what they say."""

_NOT_THE_FILES_FAULT = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class Rows(NamedTuple):
    """Rows on their way into a shard."""

    keys: Sequence[str]
    view: int
    features: NDArray[Any]
    """[n, *row_shape], storage type."""


class Table(NamedTuple):
    """Which rows a shard holds."""

    keys: NDArray[np.uint64]
    """[n, 2], as :func:`cache.lookup.pack_keys` makes them."""
    views: NDArray[np.int32]
    """[n]."""


def feature_type(dtype: str) -> np.dtype[Any]:
    """Return the type of features on disk: little-endian, whatever the machine."""
    return np.dtype(dtype).newbyteorder("<")


def file_in_memory() -> h5py.File:
    """Return a new HDF5 file that never touches the disk; big arrays in it begin at a page boundary."""
    return h5py.File(
        secrets.token_hex(8),  # HDF5 takes two open files of one name for the same, in two threads as well
        "w",
        driver="core",
        backing_store=False,
        libver=("v110", "v110"),
        alignment_threshold=_PAGE_BYTES,
        alignment_interval=_PAGE_BYTES,
    )


def shard_image(spec: Spec, pieces: Sequence[Rows], seconds: float) -> bytes:
    """Return the bytes of a shard file.

    The file is made in memory so that all that touches the disk is one plain write, whose errors (a full disk above
    all) are plain too.

    Parameters
    ----------
    spec : Spec
    pieces : sequence of Rows
        At least one row together; all of one shape.
    seconds : float
        What computing these rows cost.
    """
    features = [piece.features for piece in pieces]
    keys = np.concatenate([np.array(piece.keys, dtype=KEY_TYPE) for piece in pieces])
    views = np.concatenate([np.full(len(piece.keys), piece.view, dtype=VIEW_TYPE) for piece in pieces])
    checksums = np.concatenate([row_checksums(_as_bytes(rows)) for rows in features]).astype(CHECKSUM_TYPE)
    with file_in_memory() as file:
        describe(file, "feature-shard")
        file.attrs["fingerprint"] = spec.fingerprint
        file.attrs["spec"] = spec.canonical
        file.attrs["seconds"] = float(seconds)
        file.attrs["table-crc32"] = _table_checksum(keys, views, checksums)
        rows = file.create_dataset("features", (len(keys), *features[0].shape[1:]), feature_type(spec.dtype))
        start = 0
        for piece in features:
            rows[start : start + len(piece)] = piece
            start += len(piece)
        file["keys"], file["views"], file["checksums"] = keys, views, checksums
        for name, encoding in MEMBERS.items():
            describe(file[name], encoding)
        file.flush()
        return bytes(file.id.get_file_image())


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard that was opened once and found sound; holds no open file.

    Attributes
    ----------
    path : Path
    rows : int
    row_shape : tuple of int
    dtype : np.dtype
    offset : int or None
        Where the features begin in the file; None where they are stored in (compressed) chunks.
    checksums : uint32 array [rows]
        CRC-32 of each row.
    seconds : float
        What computing the rows cost.
    """

    path: Path
    rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int | None
    checksums: NDArray[np.uint32]
    seconds: float

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.row_shape) * self.dtype.itemsize

    def read(self, start: int, into: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Read consecutive rows and check them.

        Parameters
        ----------
        start : int
            First row.
        into : uint8 array [n, row_bytes]
            Contiguous; receives rows ``start`` to ``start + n``.

        Returns
        -------
        array of int
            Which of the n rows are damaged: what is in `into` there must not be used.

        Raises
        ------
        FileNotFoundError
            If the shard is no longer there.
        CacheError
            If the file cannot be read.
        """
        unreadable: list[int] = []
        try:
            if self.offset is not None:
                checksum = self._read_plain(self.offset, start, into)
            else:
                unreadable = self._read_chunked(start, into)
                checksum = zlib.crc32(into.data.cast("B"))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CacheError(f"{self.path} cannot be read: {error.strerror or error}") from error
        expected = self.checksums[start : start + len(into)]
        if not unreadable and checksum == joined_checksum(expected, self.row_bytes):
            return np.empty(0, dtype=np.intp)
        wrong = row_checksums(into) != expected
        wrong[unreadable] = True
        return np.flatnonzero(wrong)

    def _read_plain(self, offset: int, start: int, into: NDArray[np.uint8]) -> int:
        """Read past HDF5, which would let one thread read at a time; return the CRC-32 of all bytes read.

        In blocks that stay in the processor's cache until they are checked.
        """
        remaining = into.data.cast("B")
        checksum = 0
        with self.path.open("rb", buffering=0) as file:
            file.seek(offset + start * self.row_bytes)
            while remaining:
                count = file.readinto(remaining[:_BLOCK_BYTES])
                if not count:
                    raise OSError("it is shorter than when it was opened")
                checksum = zlib.crc32(remaining[:count], checksum)
                remaining = remaining[count:]
        return checksum

    def _read_chunked(self, start: int, into: NDArray[np.uint8]) -> list[int]:
        """Read through HDF5, which unpacks the chunks; return the rows of chunks that cannot be unpacked."""
        unreadable = []
        rows = into.view(self.dtype).reshape(len(into), *self.row_shape)
        with h5py.File(self.path, "r", locking=False) as file:
            features = file["features"]
            try:
                features.read_direct(rows, np.s_[start : start + len(into)])
            except OSError:
                for index in range(len(into)):
                    try:
                        features.read_direct(rows, np.s_[start + index], np.s_[index])
                    except OSError:
                        unreadable.append(index)
        return unreadable

    def stretches(self) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.intp]]]:
        """Yield all rows, a few megabytes at a time: first row, bytes [n, row_bytes], which of them are damaged."""
        step = max(1, _STRETCH_BYTES // self.row_bytes)
        for start in range(0, self.rows, step):
            into = np.empty((min(step, self.rows - start), self.row_bytes), dtype=np.uint8)
            yield start, into, self.read(start, into)


def open_shard(path: Path, spec: Spec) -> tuple[Shard, Table]:
    """Open a shard of the cache of `spec`, believing nothing it says about itself without looking.

    Raises
    ------
    BrokenShardError
        If it is damaged, incomplete, of another spec, or holds what a shard may not; says which.
    FileNotFoundError
        If it is not there.
    CacheError
        If it was made by another version of Cutpoint, or the system does not let it be read: nothing is wrong with it.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BrokenShardError(f"{path} is not a regular file")
        with h5py.File(path, "r", locking=False) as file:
            return _SHARD_READERS[_version(file, path, "feature-shard", _SHARD_READERS)](file, path, spec)
    except FileNotFoundError:
        raise
    except _HDF5_ERRORS as error:
        if isinstance(error, OSError) and error.errno in _NOT_THE_FILES_FAULT:
            raise CacheError(f"{path} cannot be read: {os.strerror(error.errno)}") from error
        raise BrokenShardError(f"{path} is damaged or not a shard: {error}") from error


def _open_version_1(file: h5py.File, path: Path, spec: Spec) -> tuple[Shard, Table]:
    """Check everything reading relies on, before any of it is read."""
    if _attribute(file, path, "fingerprint", str) != spec.fingerprint:
        raise BrokenShardError(f"{path} belongs to another spec")
    members = _members(file, path)
    rows = members["keys"].shape[0] if members["keys"].ndim == 1 else 0
    if not 0 < rows <= _MOST_ROWS:
        raise BrokenShardError(f"{path}: keys have the shape {members['keys'].shape}")
    _check_type(members["keys"], path, KEY_TYPE, (rows,))
    _check_type(members["views"], path, VIEW_TYPE, (rows,))
    _check_type(members["checksums"], path, CHECKSUM_TYPE, (rows,))
    row_shape = members["features"].shape[1:]
    if not row_shape or 0 in row_shape:
        raise BrokenShardError(f"{path}: features have the shape {members['features'].shape}")
    _check_type(members["features"], path, feature_type(spec.dtype), (rows, *row_shape))
    for name in ("keys", "views", "checksums"):
        _plain_offset(members[name], path)
    offset = None
    if members["features"].id.get_create_plist().get_layout() == h5py.h5d.CHUNKED:
        _check_chunks(members["features"], path)
    else:
        offset = _plain_offset(members["features"], path)

    keys, views, checksums = members["keys"][()], members["views"][()], members["checksums"][()]
    if _table_checksum(keys, views, checksums) != _attribute(file, path, "table-crc32", int):
        raise BrokenShardError(f"{path}: the table of keys, views and checksums is damaged")
    if views.min() < 0:
        raise BrokenShardError(f"{path}: view {views.min()} does not exist")
    seconds = _attribute(file, path, "seconds", float)
    if not 0 <= seconds < math.inf:
        raise BrokenShardError(f"{path}: it cannot have taken {seconds} seconds")
    shard = Shard(path, rows, row_shape, feature_type(spec.dtype), offset, checksums, seconds)
    return shard, Table(pack_keys(keys.tobytes()), views)


_SHARD_READERS: dict[int, Callable[[h5py.File, Path, Spec], tuple[Shard, Table]]] = {1: _open_version_1}


def _members(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """Return the datasets of the file, which has these and nothing else: no links out of it, no virtual data sets."""
    if len(file) != len(MEMBERS) or set(file) != set(MEMBERS):
        raise BrokenShardError(f"{path} does not hold {', '.join(MEMBERS)} and nothing else")
    for name in MEMBERS:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise BrokenShardError(f"{path}: {name} is a link out of the shard")
        if file.get(name, getclass=True) is not h5py.Dataset:
            raise BrokenShardError(f"{path}: {name} is not a dataset")
    members = {name: file[name] for name in MEMBERS}
    for name, encoding in MEMBERS.items():
        _version(members[name], path, encoding, (1,))
    return members


def _check_type(dataset: h5py.Dataset, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    # The types of HDF5 are compared: NumPy has no equivalent of some, and the same one for different others.
    if dataset.shape != shape or dataset.id.get_type() != h5py.h5t.py_create(dtype):
        raise BrokenShardError(f"{path}: {dataset.name} are not an array of {dtype} of the shape {shape}")


def _plain_offset(dataset: h5py.Dataset, path: Path) -> int:
    """Return where in the file the elements stand, all of them, one after the other."""
    properties = dataset.id.get_create_plist()
    if properties.get_layout() != h5py.h5d.CONTIGUOUS or properties.get_external_count():
        raise BrokenShardError(f"{path}: {dataset.name} are not stored contiguously in the shard itself")
    offset = dataset.id.get_offset()  # HDF5 has seen to it that they end inside the file when it opened the dataset
    if offset is None:
        raise BrokenShardError(f"{path}: {dataset.name} were never written")
    return int(offset)


def _check_chunks(dataset: h5py.Dataset, path: Path) -> None:
    """Check that features in (compressed) chunks need no plug-in, and not much more memory than the file is big."""
    properties = dataset.id.get_create_plist()
    filters = {properties.get_filter(index)[0] for index in range(properties.get_nfilters())}
    if filters - _FILTERS:
        raise BrokenShardError(f"{path}: features are compressed with a filter that HDF5 does not bring along")
    believable = _GREATEST_COMPRESSION * path.stat().st_size
    chunk = properties.get_chunk()
    for what, shape, most in (("features", dataset.shape, believable), ("a chunk", chunk, _GREATEST_CHUNK_BYTES)):
        if math.prod(shape) * dataset.dtype.itemsize > most:
            raise BrokenShardError(f"{path}: {what} of the shape {shape} is more than {most:,} bytes")


def describe(element: h5py.File | h5py.Dataset, encoding: str) -> None:
    """Say on an element of a file what it is, and in which version of that."""
    element.attrs["encoding-type"] = encoding
    element.attrs["encoding-version"] = 1


def _version(element: Any, path: Path, encoding: str, known: Collection[int]) -> int:
    """Return the version of an element's encoding, if it is one of the known."""
    found = _attribute(element, path, "encoding-type", str)
    if found != encoding:
        raise BrokenShardError(f"{path}: {element.name} says it is {found!r} instead of {encoding!r}")
    version: int = _attribute(element, path, "encoding-version", int)
    if version not in known:
        raise CacheError(
            f"{path} was made by another version of Cutpoint: {element.name} is {encoding!r} version {version}, and "
            f"this one reads version {', '.join(map(str, known))}; read it with the version that wrote it, or choose "
            "another --cache"
        )
    return version


def _attribute(element: Any, path: Path, name: str, kind: type) -> Any:
    """Return the value of an attribute, if it is a single value of this kind."""
    attribute = h5py.h5a.open(element.id, name.encode())
    is_kind = {
        str: h5py.check_string_dtype(attribute.dtype) is not None,
        int: attribute.dtype.kind in "iu",
        float: attribute.dtype.kind == "f",
    }
    if attribute.shape != () or not is_kind[kind]:
        raise BrokenShardError(f"{path}: the attribute {name} of {element.name} is not a single {kind.__name__}")
    value = element.attrs[name]
    return value.decode() if isinstance(value, bytes) else kind(value)


def _table_checksum(*columns: NDArray[Any]) -> int:
    checksum = 0
    for column in columns:
        checksum = zlib.crc32(column.tobytes(), checksum)
    return checksum


def _as_bytes(rows: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
