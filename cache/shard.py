"""One shard: an immutable HDF5 file of feature rows, and the distrust with which it is opened.

What is in the file is told in ``docs/cache-format.md``. Not here: which shards there are, and where a key is found.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from cache.checksum import row_checksums, running_checksums, stretch_checksum
from cache.deflate import crc32
from cache.errors import BrokenShardError, CacheError
from cache.formats import CACHE_FORMATS
from cache.keys import KEY_LENGTH
from cache.row_index import pack_keys
from cache.shard_layout import Layout, Storage, contiguous_offset, detect_layout, format_of
from cache.spec import Spec

Compression = str
"""The name of a cache format, such as ``none``, or ``gzip``, as HDF5 calls deflate."""

MEMBERS = {"features": "feature-rows", "keys": "keys", "views": "views", "checksums": "row-checksums"}
KEY_TYPE = np.dtype(f"S{KEY_LENGTH}")
VIEW_TYPE = np.dtype("<i4")
CHECKSUM_TYPE = np.dtype("<u4")

_PAGE_BYTES = 4096
_STRETCH_BYTES = 1 << 23
_MOST_ROWS = 1 << 26
"""More than fit into a shard as the writer makes them; a sparse file may say anything."""

_HDF5_ERRORS = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError, OverflowError)
"""What h5py raises on files that are not what they say."""

_NOT_THE_FILES_FAULT = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class RowBatch(NamedTuple):
    """Rows on their way into a shard."""

    keys: Sequence[str]
    view: int
    features: NDArray[Any]
    """[n, *row_shape], storage type."""


class KeyTable(NamedTuple):
    """Which rows a shard holds."""

    keys: NDArray[np.uint64]
    """[n, 2], as :func:`cache.row_index.pack_keys` makes them."""
    views: NDArray[np.int32]
    """[n]."""


def feature_type(dtype: str) -> np.dtype[Any]:
    """Return the type of features on disk: little-endian, whatever the machine."""
    return np.dtype(dtype).newbyteorder("<")


def new_h5(image: BytesIO, alignment: int = 1) -> h5py.File:
    """Return a new HDF5 file that never touches the disk; all of it is in `image` when it is closed.

    HDF5's own files in memory are no way to its bytes: before 2.0 it leaves a wrong checksum in what it hands out.

    Parameters
    ----------
    image : BytesIO
        Empty.
    alignment : int
        Where arrays of at least as many bytes may begin: at multiples of this.
    """
    return h5py.File(image, "w", libver=("v110", "v110"), alignment_threshold=alignment, alignment_interval=alignment)


def encode_shard(spec: Spec, pieces: list[RowBatch], seconds: float, compression: Compression = "none") -> bytes:
    """Return the bytes of a shard file.

    The file is made in memory so that all that touches the disk is one plain write, whose errors (a full disk above
    all) are plain too.

    Parameters
    ----------
    spec : Spec
    pieces : list of RowBatch
        At least one row together; all of one shape. Emptied, so that no row is in memory for longer than it must.
    seconds : float
        What computing these rows cost.
    compression : str
        The cache format of the rows; nothing is lost either way, and one cache may hold several.

    Raises
    ------
    UsageError
        If there is no such format.
    """
    features = [piece.features for piece in pieces]
    keys = np.concatenate([np.array(piece.keys, dtype=KEY_TYPE) for piece in pieces])
    views = np.concatenate([np.full(len(piece.keys), piece.view, dtype=VIEW_TYPE) for piece in pieces])
    checksums = np.concatenate([row_checksums(_as_bytes(rows)) for rows in features]).astype(CHECKSUM_TYPE)
    layout: type[Layout] = CACHE_FORMATS.get(compression)
    aligned = CACHE_FORMATS.known[compression].aligned
    pieces.clear()
    image = BytesIO()
    with new_h5(image, _PAGE_BYTES if aligned else 1) as file:
        write_encoding(file, "feature-shard")
        file.attrs["fingerprint"] = spec.fingerprint
        file.attrs["spec"] = spec.canonical
        file.attrs["seconds"] = float(seconds)
        file.attrs["table-crc32"] = _table_checksum(keys, views, checksums)
        layout.store(file, features, feature_type(spec.dtype))
        file["keys"], file["views"], file["checksums"] = keys, views, checksums
        for name, encoding in MEMBERS.items():
            write_encoding(file[name], encoding)
    return image.getvalue()


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard that was opened once and found sound; holds no open file.

    Attributes
    ----------
    path : Path
    rows : int
    row_shape : tuple of int
    dtype : np.dtype
    storage : Storage
        How the rows lie in the file.
    checksums : uint32 array [rows]
        CRC-32 of each row.
    seconds : float
        What computing the rows cost.
    """

    path: Path
    rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    storage: Storage
    checksums: NDArray[np.uint32]
    seconds: float

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.row_shape) * self.dtype.itemsize

    @property
    def compression(self) -> Compression:
        """How the rows are stored; what other tools have packed counts as packed by us."""
        return format_of(self.storage)

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
        try:
            reading = self.storage.read(self.path, start, into)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CacheError(f"{self.path} cannot be read: {error.strerror or error}") from error
        stop = start + len(into)
        expected = stretch_checksum(self._running, start, stop, self.row_bytes)
        if not reading.unreadable and reading.checksum == expected:
            return np.empty(0, dtype=np.intp)
        damaged = row_checksums(into) != self.checksums[start:stop]
        damaged[reading.unreadable] = True
        return np.flatnonzero(damaged)

    @cached_property
    def _running(self) -> NDArray[np.uint32]:
        return running_checksums(self.checksums, self.row_bytes)

    def stretches(self) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.intp]]]:
        """Yield all rows, a few megabytes at a time: first row, bytes [n, row_bytes], which of them are damaged."""
        step = max(1, _STRETCH_BYTES // self.row_bytes)
        for start in range(0, self.rows, step):
            into = np.empty((min(step, self.rows - start), self.row_bytes), dtype=np.uint8)
            yield start, into, self.read(start, into)


def open_shard(path: Path, spec: Spec) -> tuple[Shard, KeyTable]:
    """Open a shard of the cache of `spec`, believing nothing it says about itself without looking.

    Raises
    ------
    BrokenShardError
        If it is damaged, incomplete, of another spec, or holds what a shard may not; says which.
    FileNotFoundError
        If it is not there.
    CacheError
        If it was made by another version of Cutonce, or the system does not let it be read: nothing is wrong with it.
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
        if not os.path.lexists(path):  # removed while it was opened, for which HDF5 has several words
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
        raise BrokenShardError(f"{path} is damaged or not a shard: {error}") from error


def _open_version_1(file: h5py.File, path: Path, spec: Spec) -> tuple[Shard, KeyTable]:
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
        contiguous_offset(members[name], path)
    storage = detect_layout(members["features"], path)

    keys, views, checksums = members["keys"][()], members["views"][()], members["checksums"][()]
    if _table_checksum(keys, views, checksums) != _attribute(file, path, "table-crc32", int):
        raise BrokenShardError(f"{path}: the table of keys, views and checksums is damaged")
    if views.min() < 0:
        raise BrokenShardError(f"{path}: view {views.min()} does not exist")
    seconds = _attribute(file, path, "seconds", float)
    if not 0 <= seconds < math.inf:
        raise BrokenShardError(f"{path}: it cannot have taken {seconds} seconds")
    shard = Shard(path, rows, row_shape, feature_type(spec.dtype), storage, checksums, seconds)
    return shard, KeyTable(pack_keys(keys.tobytes()), views)


_SHARD_READERS: dict[int, Callable[[h5py.File, Path, Spec], tuple[Shard, KeyTable]]] = {1: _open_version_1}


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


def write_encoding(element: h5py.File | h5py.Dataset, encoding: str) -> None:
    """Say on an element of a file what it is, and in which version of that."""
    element.attrs["encoding-type"] = encoding
    element.attrs["encoding-version"] = 1


def _version(element: Any, path: Path, encoding: str, known: Collection[int]) -> int:
    """Return the version of an element's encoding, if it is one of the known."""
    encoding_type = _attribute(element, path, "encoding-type", str)
    if encoding_type != encoding:
        raise BrokenShardError(f"{path}: {element.name} says it is {encoding_type!r} instead of {encoding!r}")
    version: int = _attribute(element, path, "encoding-version", int)
    if version not in known:
        raise CacheError(
            f"{path} was made by another version of Cutonce: {element.name} is {encoding!r} version {version}, and "
            f"this one reads version {', '.join(map(str, known))}; read it with the version that wrote it, or choose "
            "another `cache`"
        )
    return version


def _attribute(element: Any, path: Path, name: str, kind: type) -> Any:
    """Return the value of an attribute, if it is a single value of this kind."""
    attribute = h5py.h5a.open(element.id, name.encode())
    dtype = attribute.dtype
    is_kind = {
        str: h5py.check_string_dtype(dtype) is not None,
        int: dtype.kind in "iu",
        float: dtype.kind == "f",
    }
    if attribute.shape != () or not is_kind[kind]:
        raise BrokenShardError(f"{path}: the attribute {name} of {element.name} is not a single {kind.__name__}")
    value = np.empty((), dtype)
    attribute.read(value)
    return value.item().decode() if kind is str else kind(value.item())


def _table_checksum(*columns: NDArray[Any]) -> int:
    checksum = 0
    for column in columns:
        checksum = crc32(column.tobytes(), checksum)
    return checksum


def _as_bytes(rows: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
