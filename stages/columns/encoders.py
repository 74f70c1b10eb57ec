"""One column as numbers. Each encoder holds what scikit-learn has fitted, as plain values that JSON can hold.

A transformer of scikit-learn would have to be pickled, and be read by the version that wrote it; these are arithmetic
on lists, and give its numbers (`tests/stages/columns/test_encoders.py`).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stages.columns.cells import as_numbers, is_missing

BlockKind = Literal["table", "text"]
"""What is weighed together: numbers and categories are one part of a row, each text is one."""


@dataclass(frozen=True)
class EncodedColumn:
    """A column as numbers.

    Attributes
    ----------
    values : ndarray of float32 [n, width]
    missing : int
        Cells that hold nothing.
    unseen : int
        Cells that hold what train never had: a category, or nothing but words that no text of train has.
    """

    values: NDArray[np.float32]
    missing: int
    unseen: int = 0


class ColumnEncoder(Protocol):
    """What makes numbers of the cells of one column."""

    kind: ClassVar[str]
    block: ClassVar[BlockKind]

    @property
    def name(self) -> str:
        """The column."""
        ...

    @property
    def width(self) -> int:
        """How many numbers it makes of a cell."""
        ...

    def encode(self, cells: Sequence[str], rows: Sequence[str]) -> EncodedColumn:
        """Return the cells, [n], as numbers; `rows` is what each row is called in messages."""
        ...

    def describe(self) -> str:
        """Return what it does in words."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return what `encoder_from_json` makes it from again."""
        ...


@dataclass(frozen=True)
class NumberEncoder:
    """A number: where it is missing, filled in; then standardized.

    Attributes
    ----------
    name : str
    fill : float
        What stands in for a number that is missing: median or mean of train.
    mean, scale : float
        Of the filled numbers of train.
    indicator : (mean, scale) or None
        Of the indicator of missing numbers, a second number; None where train misses none.
    log : bool
        Whether the logarithm of a number is what is filled in and standardized.
    """

    kind: ClassVar[str] = "number"
    block: ClassVar[BlockKind] = "table"

    name: str
    fill: float
    mean: float
    scale: float
    indicator: tuple[float, float] | None = None
    log: bool = False

    @property
    def width(self) -> int:
        """One, or two with the indicator."""
        return 1 if self.indicator is None else 2

    def encode(self, cells: Sequence[str], rows: Sequence[str]) -> EncodedColumn:
        """Return the cells as numbers; DataError where they are words."""
        numbers = as_numbers(self.name, cells, rows, log=self.log)
        missing = np.isnan(numbers)
        values = [(np.where(missing, self.fill, numbers) - self.mean) / self.scale]
        if self.indicator is not None:
            mean, scale = self.indicator
            values.append((missing - mean) / scale)
        return EncodedColumn(np.stack(values, axis=1).astype(np.float32), int(missing.sum()))

    def describe(self) -> str:
        """Say what stands in for missing numbers, where train misses some."""
        done = "logarithm, standardized" if self.log else "standardized"
        if self.indicator is None:
            return f"{self.name}: {done}"
        fill = math.exp(self.fill) if self.log else self.fill
        return f"{self.name}: {done}; {fill:g} where missing, and an indicator of that"

    def to_json(self) -> dict[str, Any]:
        """Return its fields with its kind."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class CategoryEncoder:
    """A category: one number for each, 1 for that of the cell; the rare ones have one together.

    An empty cell is a category like any other. One that train never had counts as rare; where there are no rare ones,
    all numbers are 0.

    Attributes
    ----------
    name : str
    categories : tuple of str
        Those with a number of their own, as they are written, leading zeros included.
    rare : tuple of str
        Those that share the last one.
    """

    kind: ClassVar[str] = "category"
    block: ClassVar[BlockKind] = "table"

    name: str
    categories: tuple[str, ...]
    rare: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """One for each category, and one for all rare ones."""
        return len(self.categories) + bool(self.rare)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {category: index for index, category in enumerate(self.categories)} | dict.fromkeys(
            self.rare, len(self.categories)
        )

    def encode(self, cells: Sequence[str], rows: Sequence[str]) -> EncodedColumn:
        """Return the cells as numbers."""
        words = [cell.strip() for cell in cells]
        places = np.array([self._places.get(word, -1) for word in words], dtype=np.int64)
        unseen = int(np.count_nonzero(places < 0))
        if self.rare:
            places[places < 0] = len(self.categories)
        values = np.zeros((len(words), self.width), np.float32)
        known = np.flatnonzero(places >= 0)
        values[known, places[known]] = 1
        return EncodedColumn(values, sum(map(is_missing, cells)), unseen)

    def describe(self) -> str:
        """Say how many categories there are, and what becomes of the rare ones."""
        rare = f", {len(self.rare):,} rare ones joined" if self.rare else ""
        return f"{self.name}: {len(self.categories):,} categories{rare}"

    def to_json(self) -> dict[str, Any]:
        """Return its fields with its kind."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class TextEncoder:
    """A text: how often each word of a vocabulary is in it, the rarer in train the more it counts (TF-IDF).

    The logarithm of the count plus 1, times the inverse document frequency, rows at length 1: scikit-learn's
    `TfidfVectorizer` with ``sublinear_tf`` and ``strip_accents="unicode"``. A text without a known word is all 0.

    Attributes
    ----------
    name : str
    words : tuple of str
        The vocabulary, in the order of the numbers.
    weights : tuple of float
        Inverse document frequencies.
    """

    kind: ClassVar[str] = "text"
    block: ClassVar[BlockKind] = "text"

    name: str
    words: tuple[str, ...]
    weights: tuple[float, ...]

    @property
    def width(self) -> int:
        """One for each word."""
        return len(self.words)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def encode(self, cells: Sequence[str], rows: Sequence[str]) -> EncodedColumn:
        """Return the cells as numbers."""
        weights = np.array(self.weights)
        values = np.zeros((len(cells), self.width))
        for row, cell in zip(values, cells, strict=True):
            for word, count in Counter(words_of(cell)).items():
                place = self._places.get(word)
                if place is not None:
                    row[place] = (1 + np.log(count)) * weights[place]
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        missing = sum(map(is_missing, cells))
        values /= np.where(lengths > 0, lengths, 1)
        return EncodedColumn(values.astype(np.float32), missing, int(np.count_nonzero(lengths == 0)) - missing)

    def describe(self) -> str:
        """Say how many words it knows."""
        return f"{self.name}: {len(self.words):,} words"

    def to_json(self) -> dict[str, Any]:
        """Return its fields with its kind."""
        return {"kind": self.kind, **asdict(self)}


_WORD = re.compile(r"(?u)\b\w\w+\b")


def words_of(text: str) -> list[str]:
    """Return the words of a text, of two letters or more, in small letters without accents."""
    return _WORD.findall(without_accents(text.lower()))


def without_accents(text: str) -> str:
    """Return the letters of a text without the marks on them."""
    if text.isascii():
        return text
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


_ENCODERS: tuple[type[ColumnEncoder], ...] = (NumberEncoder, CategoryEncoder, TextEncoder)


def encoder_from_json(content: Mapping[str, Any]) -> ColumnEncoder:
    """Return the encoder that `to_json` wrote; a missing or unknown entry raises KeyError or TypeError."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
    kind = str(values.pop("kind"))
    make: Callable[..., ColumnEncoder] = {encoder.kind: encoder for encoder in _ENCODERS}[kind]
    return make(**values)
