"""Whether JPEG files are whole and of a kind that a GPU decodes well: by their bytes, many files at once.

nvJPEG decodes a file that is cut off or damaged without an error, and shows something. libjpeg refuses it, and so must
whoever asks nvJPEG. So what libjpeg would mind is looked for before, without decoding: every segment, every table that
a scan refers to, the markers within the coded data and at their end. Not all that is wrong with the coded data is seen
so, nor does libjpeg mind all of it; what is seen here is all that it refuses, tested by damaging files.

Progressive files are left to a CPU. The engines of a card do not decode them, and without those nvJPEG takes one file
after the other, in one thread, and finds the codes of progressive ones on the CPU, as DALI has it do, too: many threads
of libjpeg's are quicker.

Source of the rules: ITU-T Rec. T.81, annexes B, C and G; and, for colors, what libjpeg takes a file without JFIF or
Adobe marker for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SOI, _EOI, _SOS, _DQT, _DHT, _DRI, _COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xFE
_BASELINE = 0xC0
_APP0, _APP14, _APP15 = 0xE0, 0xEE, 0xEF
_RST0, _RST7 = 0xD0, 0xD7
_MOST_BLOCKS = 10
"""Of an MCU."""
_SAMPLINGS = frozenset({(1, 1), (2, 1), (2, 2), (1, 2), (4, 1)})
"""Of luminance, horizontally and vertically, where both chrominances have 1 x 1: 4:4:4, 4:2:2, 4:2:0, 4:4:0, 4:1:1."""


class JpegSize(NamedTuple):
    """Of a JPEG as it is stored, before it is turned upright: pixels."""

    height: int
    width: int


_NO_SIZE = JpegSize(0, 0)


class _NotSoundError(Exception):
    """Something of the file is damaged, or of a kind that only a CPU decodes."""


def whole_jpegs(data: NDArray[np.uint8], spans: Sequence[tuple[int, int]]) -> list[JpegSize | None]:
    """Return the size of each file that nvJPEG decodes as a CPU does; None for any other, which a CPU has to judge.

    Those are baseline JPEGs of 8 bits and one or three components from which nothing is missing. The answer depends on
    the bytes of a file alone. What follows the end of an image is not looked at, as no decoder does.

    Parameters
    ----------
    data : uint8 [n]
        Files one after the other, with anything between them. The interpreter's lock is not held while it is searched.
    spans : sequence of (start, stop)
        Where each file lies.
    """
    markers, restarts = _markers(data)
    buffer = data.data
    return [_size(buffer, start, stop, markers, restarts) for start, stop in spans]


def _markers(data: NDArray[np.uint8]) -> tuple[list[int], list[int]]:
    """Return where a byte of 255 stands before what is no coded data, and where before a restart marker."""
    places = np.flatnonzero(data[:-1] == 0xFF)
    following = data[places + 1]
    restarts = (following >= _RST0) & (following <= _RST7)
    return places[(following != 0) & ~restarts].tolist(), places[restarts].tolist()


def _size(data: memoryview, start: int, stop: int, markers: Sequence[int], restarts: Sequence[int]) -> JpegSize | None:
    if stop - start < 4 or data[start] != 0xFF or data[start + 1] != _SOI:
        return None
    try:
        return _Walk(data, stop, markers, restarts).size_of(start + 2)
    except (_NotSoundError, IndexError):
        return None


def _require(fact: bool) -> None:
    if not fact:
        raise _NotSoundError


@lru_cache(4096)  # most files have the tables of others
def _quantization_tables(segment: bytes) -> frozenset[int]:
    """Return the numbers of the tables of quantization in a segment; all of 8 bits."""
    places = range(0, len(segment), 65)
    tables = frozenset(segment[place] for place in places)
    _require(len(segment) == 65 * len(places) and all(table < 4 for table in tables))
    return tables


@lru_cache(4096)
def _huffman_tables(segment: bytes) -> frozenset[int]:
    """Return the numbers of the Huffman tables in a segment; 16 is added to those of AC coefficients."""
    tables: set[int] = set()
    place = 0
    while place < len(segment):
        _require(place + 17 <= len(segment))
        table = segment[place]
        _require(table & 15 < 4 and table >> 4 < 2)
        code = 0
        for length, count in enumerate(segment[place + 1 : place + 17], 1):
            code += count
            _require(code <= 1 << length)
            code <<= 1
        total = sum(segment[place + 1 : place + 17])
        symbols = segment[place + 17 : place + 17 + total]
        _require(total <= 256 and len(symbols) == total)
        _require(table >= 4 or all(symbol <= 15 for symbol in symbols))
        tables.add(table)
        place += 17 + total
    return frozenset(tables)


@dataclass
class _Component:
    horizontal: int
    vertical: int
    quantization: int
    scanned: bool = False


@dataclass
class _Walk:
    """From segment to segment of one file."""

    data: memoryview
    stop: int
    markers: Sequence[int]
    restarts: Sequence[int]
    size: JpegSize = _NO_SIZE
    components: dict[int, _Component] = field(default_factory=dict)
    quantization: set[int] = field(default_factory=set)
    huffman: set[int] = field(default_factory=set)
    interval: int = 0
    is_jfif: bool = False
    transform: int | None = None

    def size_of(self, place: int) -> JpegSize:
        """Return the size of the image whose segments begin at `place`."""
        data = self.data
        while True:
            _require(data[place] == 0xFF)
            marker = data[place + 1]  # where that is a byte that fills, TorchCodec finds no EXIF behind it
            if marker == _EOI:
                _require(place + 2 <= self.stop and bool(self.components))
                _require(all(component.scanned for component in self.components.values()))
                return self.size
            begin = place + 4
            end = place + 2 + (data[place + 2] << 8 | data[place + 3])
            _require(begin <= end <= self.stop)
            if marker == _SOS:
                place = self._scan(begin, end)
                continue
            self._segment(marker, begin, end)
            place = end

    def _segment(self, marker: int, begin: int, end: int) -> None:
        if marker == _DQT:
            self.quantization |= _quantization_tables(bytes(self.data[begin:end]))
        elif marker == _DHT:
            self.huffman |= _huffman_tables(bytes(self.data[begin:end]))
        elif marker == _BASELINE:
            self._frame(begin, end)
        elif marker == _DRI:
            _require(end - begin == 2)
            self.interval = self.data[begin] << 8 | self.data[begin + 1]
        elif marker == _APP0:
            self.is_jfif |= bytes(self.data[begin : min(begin + 5, end)]) == b"JFIF\0"
        elif marker == _APP14:
            if bytes(self.data[begin : min(begin + 5, end)]) == b"Adobe" and end - begin >= 12:
                self.transform = self.data[begin + 11]
        else:
            _require(marker == _COM or _APP0 < marker <= _APP15)

    def _frame(self, begin: int, end: int) -> None:
        data = self.data
        _require(not self.components and end - begin >= 6 and data[begin] == 8)
        self.size = JpegSize(data[begin + 1] << 8 | data[begin + 2], data[begin + 3] << 8 | data[begin + 4])
        count = data[begin + 5]
        _require(min(self.size) > 0 and count in (1, 3) and end - begin == 6 + 3 * count)
        for number in range(count):
            name, sampling, table = data[begin + 6 + 3 * number : begin + 9 + 3 * number]
            _require(name not in self.components)
            self.components[name] = _Component(sampling >> 4, sampling & 15, table)
        first, *chroma = self.components.values()
        if chroma:
            _require((first.horizontal, first.vertical) in _SAMPLINGS)
            _require(all(part.horizontal == part.vertical == 1 for part in chroma))
        else:
            _require(1 <= first.horizontal <= 4 and 1 <= first.vertical <= 4)

    def _scan(self, begin: int, end: int) -> int:
        """Return where the marker stands that ends the coded data of a scan."""
        data = self.data
        count = data[begin]
        _require(1 <= count <= len(self.components) and end - begin == 4 + 2 * count)
        names = [data[begin + 1 + 2 * number] for number in range(count)]
        _require(len(set(names)) == count and all(name in self.components for name in names))
        _require(tuple(data[end - 3 : end]) == (0, 63, 0))
        for number, name in enumerate(names):
            component, tables = self.components[name], data[begin + 2 + 2 * number]
            _require(component.quantization in self.quantization)
            _require(tables >> 4 in self.huffman and (tables & 15) | 16 in self.huffman)
            component.scanned = True
        self._require_usual_colors()
        where = bisect_left(self.markers, end)
        _require(where < len(self.markers))
        stop = self.markers[where]
        _require(end < stop < self.stop - 1)
        self._require_restarts(names, end, stop)
        return stop

    def _require_usual_colors(self) -> None:
        """Three components have to be luminance and chrominance for everybody."""
        if len(self.components) == 3:
            _require(self.transform in (None, 1))
            _require(self.is_jfif or self.transform == 1 or tuple(self.components) == (1, 2, 3))

    def _require_restarts(self, names: Sequence[int], begin: int, stop: int) -> None:
        """Restart markers in the coded data have to be as many as announced, in their order."""
        first, last = bisect_left(self.restarts, begin), bisect_left(self.restarts, stop)
        expected = -(-self._units(names) // self.interval) - 1 if self.interval else 0
        _require(last - first == expected)
        for number, place in enumerate(self.restarts[first:last]):
            _require(self.data[place + 1] == _RST0 + number % 8)

    def _units(self, names: Sequence[int]) -> int:
        """Return how many MCUs a scan of these components has."""
        parts = self.components.values()
        widest, tallest = max(part.horizontal for part in parts), max(part.vertical for part in parts)
        if len(names) > 1:
            blocks = sum(self.components[name].horizontal * self.components[name].vertical for name in names)
            _require(blocks <= _MOST_BLOCKS)
            return -(-self.size.width // (8 * widest)) * -(-self.size.height // (8 * tallest))
        part = self.components[names[0]]
        width = -(-self.size.width * part.horizontal // widest)
        height = -(-self.size.height * part.vertical // tallest)
        return -(-width // 8) * -(-height // 8)
