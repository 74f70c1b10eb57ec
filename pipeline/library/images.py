"""What a caller may give as images, in one form: locations, keys, and what could not be read.

Files are told by the digest of their bytes, everything else by the digest of its pixels, as in the commands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import IOBase
from itertools import chain
from os import PathLike, fsdecode
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from cache import DigestCache, key_of_bytes
from cache.errors import DataError, UsageError, listed
from stages.data.images.pixel_keys import key_of_pixels
from stages.data.images.rgb import UnreadableImageError
from stages.data.sources.in_memory import InMemoryImage

Images: TypeAlias = Any
"""A sequence of paths, of Pillow's images, of uint8 arrays [h, w, 3] or [h, w] or of uint8 tensors [3, h, w], of any
sizes; one array [n, h, w, 3] or [n, h, w]; a torch ``Dataset`` of images or of (image, label); or a data frame with a
column ``path`` or ``image``."""

_TAKEN = (
    "images has to be a sequence of paths, of PIL images or of uint8 arrays [h, w, 3] or [h, w], one array "
    "[n, h, w, 3], a torch Dataset, or a data frame with a column 'path' or 'image'"
)
_COLUMNS = ("path", "image")
_CHUNK_BYTES = 256 << 20
"""Pixels of a Dataset that are held at a time."""


@dataclass
class ImageList:
    """Images in the order given.

    Attributes
    ----------
    locations : list of str
        What `read_image` takes.
    keys : list of str
        Identity of each image in the cache; '' of what could not be read.
    labels : list
        What a Dataset gave beside each image; empty where it gave none.
    unreadable : dict of int to str
        Reasons, by place.
    keyed_ns : int
        When files had these keys, in nanoseconds of the clock.
    """

    locations: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    keyed_ns: int = 0

    def __len__(self) -> int:
        return len(self.locations)

    def require_readable(self) -> None:
        """Refuse images that cannot be read.

        Raises
        ------
        DataError
            That names the first few with their reasons.
        """
        if self.unreadable:
            raise unreadable_error([(self.locations[index], reason) for index, reason in self.unreadable.items()])


def unreadable_error(failures: Sequence[tuple[str, str]]) -> DataError:
    """Return the error that names the first few of the images that cannot be read."""
    descriptions = listed([f"{location}: {reason}" for location, reason in failures], 3, "; ")
    return DataError(f"{len(failures)} of the images cannot be read: {descriptions}")


def count_images(images: Images) -> int:
    """Return how many images were given.

    Raises
    ------
    UsageError
        If that is not known, or it is one image or something else altogether.
    """
    if isinstance(images, (str, PathLike)) and Path(images).is_dir():
        raise UsageError(
            f"{_TAKEN}; this is a folder: give the files in it, as sorted(Path({str(images)!r}).rglob('*.jpg'))"
        )
    if isinstance(images, (str, bytes, PathLike, Image.Image)):
        raise UsageError(f"{_TAKEN}; this is one {type(images).__name__}: put it into a list")
    if isinstance(images, IterableDataset) or not hasattr(images, "__len__") or getattr(images, "ndim", 1) == 0:
        raise UsageError(f"{_TAKEN}; a {type(images).__name__} has no length")
    if isinstance(images, (dict, set, frozenset)) or not hasattr(_column(images), "__getitem__"):
        raise UsageError(f"{_TAKEN}, not a {type(images).__name__}")
    if getattr(images, "ndim", None) == 3 and images.shape[2] == 3:
        raise UsageError(f"{_TAKEN}; an array of shape {tuple(images.shape)} is one image: put it into a list")
    return len(images)


def image_chunks(images: Images, memo: DigestCache | None = None) -> Iterator[ImageList]:
    """Yield all images in order; those of a Dataset a few hundred megabytes at a time, all others at once.

    Parameters
    ----------
    images : Images
    memo : DigestCache, optional
        Remembers the keys of files.

    Raises
    ------
    UsageError
        If something else than images is among them; names its place.
    """
    number = count_images(images)
    items = _column(images)
    memo = memo or DigestCache(None)
    if not isinstance(items, Dataset):
        locations = [_location(items[index], index) for index in range(number)]
        yield _with_keys(ImageList(locations), memo)
        return
    chunk, size = ImageList(), 0
    for index in range(number):
        item = items[index]
        if isinstance(item, (tuple, list)) and len(item) > 1:
            chunk.labels.append(item[1])
        location = _location(item, index)
        chunk.locations.append(location)
        size += _pixel_bytes(location)
        if size >= _CHUNK_BYTES:
            yield _with_keys(chunk, memo)
            chunk, size = ImageList(), 0
    if len(chunk) or not number:
        yield _with_keys(chunk, memo)


def all_images(images: Images, memo: DigestCache | None = None) -> ImageList:
    """Return all images at once, those of a Dataset in memory."""
    chunks = list(image_chunks(images, memo))
    combined = ImageList(
        list(chain.from_iterable(chunk.locations for chunk in chunks)),
        list(chain.from_iterable(chunk.keys for chunk in chunks)),
        list(chain.from_iterable(chunk.labels for chunk in chunks)),
        keyed_ns=min((chunk.keyed_ns for chunk in chunks), default=0),
    )
    start = 0
    for chunk in chunks:
        combined.unreadable |= {start + index: reason for index, reason in chunk.unreadable.items()}
        start += len(chunk)
    return combined


def require_some(images: ImageList) -> None:
    """Refuse no images at all, where there is to be learned from them.

    Raises
    ------
    UsageError
    """
    if not len(images):
        raise UsageError("images holds none, and there is nothing to learn from")


def _column(images: Images) -> Any:
    """Return what can be indexed by place: the column of a data frame as a list, all else as it is."""
    if hasattr(images, "columns"):
        names = [name for name in _COLUMNS if name in images.columns]
        if not names:
            columns = ", ".join(map(repr, images.columns))
            raise UsageError(f"{_TAKEN}; this data frame has the columns {columns}")
        column = images[names[0]].to_numpy()
        if column.ndim != 1:
            raise UsageError(f"{_TAKEN}; this data frame has several columns {names[0]!r}")
        return column
    return images.to_numpy() if hasattr(images, "to_numpy") else images


def _location(item: Any, index: int) -> str:
    """Return where an image is; a label beside it is left aside, and so is that a ``TensorDataset`` gives a tuple."""
    if (isinstance(item, (tuple, list)) and len(item) > 1) or (isinstance(item, tuple) and len(item) == 1):
        item = item[0]
    if isinstance(item, (str, PathLike)):
        return fsdecode(item.item() if isinstance(item, np.str_) else item)  # whose `shape` would be the image's
    name = f"images[{index}]"
    if isinstance(item, Image.Image):
        return InMemoryImage(name, item)
    if isinstance(item, (np.ndarray, Tensor)):
        pixels = item if isinstance(item, Tensor) else np.asarray(item)  # a matrix or a masked array as its pixels
        _require_pixels(pixels, name)
        return InMemoryImage(name, pixels)
    if isinstance(item, (bytes, bytearray, memoryview, IOBase)):
        raise UsageError(
            f"{name} is a {type(item).__name__}: open it with PIL.Image.open, bytes by io.BytesIO; {_TAKEN}"
        )
    raise UsageError(f"{name} is a {type(item).__name__}; {_TAKEN}")


def _require_pixels(item: NDArray[Any] | Tensor, name: str) -> None:
    if isinstance(item, Tensor):
        is_valid, expected = (
            item.ndim == 3 and item.shape[0] in (1, 3),
            "[3, h, w] or [1, h, w], as torchvision's tensors are",
        )
    else:
        is_valid = item.ndim == 2 or (item.ndim == 3 and item.shape[2] in (1, 3))
        expected = "[h, w, 3] or [h, w]"
    if not is_valid or 0 in item.shape:
        kind = "a tensor" if isinstance(item, Tensor) else "an array"
        raise UsageError(f"{name} has the shape {list(item.shape)}; pixels have to be {kind} {expected}")
    if str(item.dtype).removeprefix("torch.") != "uint8":
        raise UsageError(
            f"{name} is of {item.dtype}; pixels have to be uint8, from 0 to 255: neither scaled nor normalized, which "
            "each network does in its own way"
        )


def _pixel_bytes(location: str) -> int:
    if not isinstance(location, InMemoryImage):
        return 0
    pixels = location.pixels
    return 3 * pixels.width * pixels.height if isinstance(pixels, Image.Image) else int(pixels.nbytes)


def _with_keys(images: ImageList, memo: DigestCache) -> ImageList:
    """Fill in the keys, and what cannot be read."""
    files = list(dict.fromkeys(location for location in images.locations if not isinstance(location, InMemoryImage)))
    keys, reasons = memo.keys(files) if files else ({}, {})
    images.keyed_ns = memo.asked_ns
    empty_key = key_of_bytes(b"")
    reasons |= {location: "the file is empty" for location, key in keys.items() if key == empty_key}
    for index, location in enumerate(images.locations):
        if isinstance(location, InMemoryImage):
            try:
                key, reason = key_of_pixels(location.read()), None
            except UnreadableImageError as error:
                key, reason = "", error.reason
        else:
            reason = reasons.get(location)
            key = "" if reason else keys[location]
        images.keys.append(key)
        if reason:
            images.unreadable[index] = reason
    return images
