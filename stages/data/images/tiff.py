"""TIFF: what its tags say of its values, and a reader for what Pillow cannot read as it is meant.

Pillow reads TIFF of 8 bits, and one channel of more, whatever its compression; tifffile reads all else that has few
kinds of compression, and with imagecodecs every kind.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from stages.data.images.reading import Reading
from stages.data.images.rgb import DECODE_ERRORS, UnreadableImageError
from stages.data.images.samples import Samples, without_value

VALUE_LIMIT = 1 << 30
"""Most values a page may have: two gigabytes of 16 bits."""

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _PHOTOMETRIC, _SAMPLES, _LEAST, _MOST, _PLANAR = 258, 262, 277, 280, 281, 284
_EXTRA, _FORMAT, _NO_DATA, _ORIENTATION = 338, 339, 42113, 274
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _IS_RGB = 0, 1, 2
_UNSIGNED, _SIGNED = 1, 2
_MOST_SAMPLES = 4
_ALPHA = (1, 2)
_MOST_TAGS, _MOST_PAGES = 1000, 100_000
_LONG = 4
_SUBFILE, _IS_REDUCED, _IS_MASK = 254, 1, 4
_OLD_SUBFILE, _OLD_REDUCED = 255, 2


def is_tiff(data: bytes) -> bool:
    """Return whether the bytes begin as TIFF does."""
    return data.startswith(_MAGIC)


def pillow_reads_tiff(data: bytes, reading: Reading) -> bool:
    """Return whether Pillow gives all that `reading` asks for, as it is meant.

    It does not read more than four channels and unsigned numbers of 32 bits, mixes up channels of 16 bits that stand
    one after another, and cuts such that stand side by side to 8 bits.
    """
    if _samples_per_pixel(data) > _MOST_SAMPLES:  # Pillow would write an error into the terminal for each such file
        return False
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            tags = tags_of(image)
            bits, samples = max(_numbers(tags.get(_BITS, 1))), int(tags.get(_SAMPLES, 1))
            if samples > _MOST_SAMPLES or (reading.channels and samples > 1 and not image.mode.startswith("RGB")):
                return False
            if bits <= 8:
                return not (reading.channels and max(reading.channels) > 2) and not _is_signed(tags)
            if samples == 1:
                return bits != 32 or max(_numbers(tags.get(_FORMAT, _UNSIGNED))) != _UNSIGNED
            return tags.get(_PLANAR, 1) == 1 and reading.is_plain and bits == 16
    except UnidentifiedImageError:
        return False
    except DECODE_ERRORS:
        return True  # and says what is wrong


def tags_of(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags of the page of a TIFF that Pillow has opened."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    return tags


def has_eight_bits(file: BinaryIO) -> bool:
    """Return whether no channel of an opened TIFF has more than 8 bits, and Pillow shows all there are."""
    with Image.open(file, formats=("TIFF",)) as image:
        tags = tags_of(image)
        return (
            max(_numbers(tags.get(_BITS, 1))) <= 8 and int(tags.get(_SAMPLES, 1)) <= _MOST_SAMPLES
        ) and not _is_signed(tags)


def tiff_samples(values: NDArray[Any], tags: Mapping[int, Any]) -> Samples:
    """Return the values [H, W, C] of a page with what its tags say of them.

    Of more than 8 bits white is what MaxSampleValue says, or the most that BitsPerSample can hold; a file of floats or
    of 32 bits says neither, nor does one of signed numbers in which some are below zero.
    """
    if values.dtype == np.uint8:  # Pillow has seen to the rest
        return Samples(values)
    bits = max(_numbers(tags.get(_BITS, 1)))
    most, least = tags.get(_MOST), tags.get(_LEAST)
    white = float(2**bits - 1) if _is_unsigned(tags) and bits <= 16 else None
    if most is not None and max(_numbers(most)) > 0:
        white = float(max(_numbers(most)))
    black = float(min(_numbers(least))) if least is not None and white is not None else 0.0
    if white is not None and black >= white:
        black = 0.0
    no_data = _no_data(tags.get(_NO_DATA))
    if white is None and _is_signed(tags) and bits <= 16:
        measured = values[~without_value(Samples(values, no_data=no_data))]
        white = float(2 ** (bits - 1) - 1) if measured.min(initial=0) >= 0 else None
    inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    has_alpha = values.shape[2] in (2, 4) and _numbers(tags.get(_EXTRA) or 0)[-1] in _ALPHA
    return Samples(values, black, white, inverted, no_data, has_alpha)


class OwnTiff:
    """A TIFF that tifffile reads.

    Attributes
    ----------
    count : int
        Pages.
    size : (width, height)
        Of the first.

    Raises
    ------
    UnreadableImageError
        If it is none.
    """

    def __init__(self, data: bytes) -> None:
        import tifffile  # takes a fifth of a second, and few people have such files

        try:
            self._file = tifffile.TiffFile(io.BytesIO(data))
            first = self._file.pages.first
            self._numbers = full_pages(data) if len(self._file.pages) > 1 else [0]
            self.count = len(self._numbers)
        except Exception as error:  # its errors, and whatever its parsers raise on damaged tags
            raise UnreadableImageError(f"a damaged TIFF: {error}") from error
        self.size = (int(first.imagewidth), int(first.imagelength))

    def __enter__(self) -> OwnTiff:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def samples(self, number: int) -> Samples:
        """Return the samples of a page.

        Raises
        ------
        UnreadableImageError
            If they cannot be decoded, or are colors of another kind than RGB.
        """
        page: Any = self._file.pages[self._numbers[number]]
        if page.imagewidth * page.imagelength * max(page.samplesperpixel, 1) > VALUE_LIMIT:
            raise UnreadableImageError(f"more than {VALUE_LIMIT:,} values")
        tags = {code: tag.value for code, tag in ((tag.code, tag) for tag in page.tags)}
        if tags.get(_PHOTOMETRIC) not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _IS_RGB, None):
            kind = getattr(page.photometric, "name", page.photometric)
            raise UnreadableImageError(f"a TIFF of {kind} with more than 8 bits or 4 channels; convert it to RGB")
        try:
            values = np.asarray(page.asarray())
        except Exception as error:
            if "imagecodecs" in str(error):
                name = getattr(page.compression, "name", page.compression)
                raise UnreadableImageError(
                    f"a TIFF of such pixels with the compression {name} needs imagecodecs: "
                    "pip install 'imagecodecs>=2023.1'"
                ) from error
            raise UnreadableImageError(f"a damaged TIFF: {error}") from error
        if values.ndim == 3 and page.planarconfig == 2:
            values = np.moveaxis(values, 0, -1)
        if values.ndim == 2:
            values = values[..., None]
        if values.ndim != 3 or values.dtype.kind not in "buif":
            raise UnreadableImageError(f"a TIFF of {values.dtype} in {values.ndim} dimensions")
        if values.dtype.kind == "b":
            values = values.astype(np.uint8) * np.uint8(255)
        values = values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))
        values = _turned(values, tags.get(_ORIENTATION, 1))
        if values.dtype == np.uint8:
            return Samples(values, inverted=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)
        return tiff_samples(values, tags)


def full_pages(data: bytes) -> list[int]:
    """Return the numbers of the pages of a TIFF that are images of their own: overviews and masks of one are none.

    GeoTIFF for the cloud has smaller copies of its one image behind it.
    """
    pages = [
        number
        for number, tags in enumerate(_directories(data))
        if not tags.get(_SUBFILE, 0) & (_IS_REDUCED | _IS_MASK) and tags.get(_OLD_SUBFILE, 0) != _OLD_REDUCED
    ]
    return pages or [0]


def _samples_per_pixel(data: bytes) -> int:
    """Return the tag SamplesPerPixel of the first page; 1 where it does not stand there."""
    return next(_directories(data), {}).get(_SAMPLES, 1)


def _directories(data: bytes) -> Iterator[dict[int, int]]:
    """Yield, page after page, the tags that are one whole number; those of other kinds mean nothing here."""
    order = "<" if data.startswith(b"II") else ">"
    big = 0x2B in data[2:4]
    offset, number = f"{order}{'Q' if big else 'I'}", f"{order}{'Q' if big else 'H'}"
    size = 20 if big else 12
    seen: set[int] = set()
    try:
        [directory] = struct.unpack_from(offset, data, 8 if big else 4)
        while directory and directory not in seen and len(seen) < _MOST_PAGES:
            seen.add(directory)
            [count] = struct.unpack_from(number, data, directory)
            start = directory + struct.calcsize(number)
            tags = {}
            for position in range(start, start + size * min(count, _MOST_TAGS), size):
                code, kind = struct.unpack_from(f"{order}HH", data, position)
                tags[code] = int(
                    struct.unpack_from(
                        f"{order}{'I' if kind == _LONG else 'H'}", data, position + size - (8 if big else 4)
                    )[0]
                )
            yield tags
            [directory] = struct.unpack_from(offset, data, start + size * count)
    except struct.error:  # a directory that is cut off, which the readers name
        return


def _is_unsigned(tags: Mapping[int, Any]) -> bool:
    return set(_numbers(tags.get(_FORMAT, _UNSIGNED))) <= {_UNSIGNED, 4}


def _is_signed(tags: Mapping[int, Any]) -> bool:
    return _SIGNED in _numbers(tags.get(_FORMAT, _UNSIGNED))


def _numbers(value: Any) -> tuple[int, ...]:
    """Return the numbers of a tag that has one or several."""
    return tuple(int(number) for number in value) if isinstance(value, (tuple, list)) else (int(value),)


def _no_data(text: Any) -> float | None:
    """Return the value of pixels without one, which GDAL writes as text."""
    try:
        return float(str(text).strip("\0 ")) if text is not None else None
    except ValueError:
        return None


def _turned(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return values [H, W, C] upright, as the tag Orientation says, of which there are eight."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values
