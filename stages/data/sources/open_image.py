"""A location becomes pixels, whichever source it is of."""

from __future__ import annotations

import stat
from pathlib import Path

from torch import Tensor

from stages.data.images.decode import decode
from stages.data.images.reading import PLAIN, Reading
from stages.data.images.rgb import UnreadableImageError
from stages.data.sources.in_memory import InMemoryImage
from stages.data.sources.registry import opener_of
from stages.data.sources.tiles import read_tile
from stages.tasks.tiles import split_name


def read_image(location: str, reading: Reading = PLAIN, remarks: list[str] | None = None) -> Tensor:
    """Return the image at `location`, uint8 [3, H, W] or as many channels as `reading` names, upright.

    Parameters
    ----------
    location : str
        Path of a file, a location of a source without files (``digits:17``, ``torchvision:FashionMNIST/test/17``), or
        an `InMemoryImage`; or a tile of one of these, see ``tiles``.
    reading : Reading
        How files are read; by default as a photograph viewer shows them, in full.
    remarks : list of str, optional
        Gets what there is to say of the file; see `remarks_in_words`.

    Raises
    ------
    UnreadableImageError
        A DataError with the reason: no such file, not an image, cut off, too many pixels.
    """
    if isinstance(location, InMemoryImage):
        if reading.channels:
            raise UnreadableImageError("`channels` are those of files, and this is in memory", location)
        return location.read()
    tile = read_tile(location, reading, remarks, read_image)
    if tile is not None:
        return tile
    open_image = opener_of(location)
    if open_image is not None:
        return open_image(location, reading.shorter_side)
    try:
        return decode(read_file(location), reading, remarks)
    except UnreadableImageError as error:
        raise UnreadableImageError(error.reason, location) from error


def is_file(location: str) -> bool:
    """Return whether a location is a path of a file, and not of another source, a tile, or in memory."""
    return not isinstance(location, InMemoryImage) and split_name(location) is None and opener_of(location) is None


def read_file(location: str) -> bytes:
    """Return the bytes of a file; UnreadableImageError, with the reason alone, if there is none or it stays closed."""
    path = Path(location)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            raise UnreadableImageError("a folder, not a file" if path.is_dir() else "not a regular file")
        return path.read_bytes()
    except FileNotFoundError as error:
        reason = "a link to a file that does not exist" if path.is_symlink() else "no such file"
        raise UnreadableImageError(reason) from error
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
