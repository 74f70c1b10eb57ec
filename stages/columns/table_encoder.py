"""Several columns as one row of numbers, and what was met on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.atomic_write import write_atomically
from cache.errors import DataError, listed, suggestion
from stages.columns.encoders import ColumnEncoder, encoder_from_json

FORMAT = "cutonce-columns"
VERSION = 1


@dataclass(frozen=True)
class EncodedTable:
    """Columns as numbers.

    Attributes
    ----------
    values : ndarray of float32 [n, width]
    missing, unseen : dict of str to int
        By column: cells that hold nothing, and cells that hold what train never had; columns without any left out.
    """

    values: NDArray[np.float32]
    missing: dict[str, int]
    unseen: dict[str, int]


@dataclass(frozen=True)
class TableEncoder:
    """What makes one row of numbers of the cells of a sample.

    Attributes
    ----------
    encoders : tuple of ColumnEncoder
        In the order of the numbers: numbers and categories first, then texts.
    """

    encoders: tuple[ColumnEncoder, ...]

    @property
    def names(self) -> list[str]:
        """The columns."""
        return [encoder.name for encoder in self.encoders]

    @property
    def blocks(self) -> tuple[tuple[str, int], ...]:
        """Names and widths of the parts of a row that have a weight of their own.

        Numbers and categories together, as ``columns``, then each text: its words are many, and each says little.
        """
        table = sum(encoder.width for encoder in self.encoders if encoder.block == "table")
        texts = [(encoder.name, encoder.width) for encoder in self.encoders if encoder.block == "text"]
        return (*([("columns", table)] if table else []), *texts)

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return sum(encoder.width for encoder in self.encoders)

    def encode(self, columns: Mapping[str, Sequence[str]], rows: Sequence[str]) -> EncodedTable:
        """Return the cells of samples as numbers.

        Parameters
        ----------
        columns : mapping of str to sequence of str [n]
            By the names of the columns; more of them do not matter.
        rows : sequence of str [n]
            What each sample is called in messages.

        Raises
        ------
        DataError
            If a column is missing, or one of numbers holds words.
        """
        absent = [name for name in self.names if name not in columns]
        if absent:
            near = reduce(lambda text, name: text or suggestion(name, columns), absent, "")
            raise DataError(
                f"there is no column {listed(absent)}, and what was trained with columns needs them all: "
                f"{', '.join(self.names)}.{near}"
            )
        encoded = [encoder.encode(columns[encoder.name], rows) for encoder in self.encoders]
        return EncodedTable(
            np.concatenate([column.values for column in encoded], axis=1),
            {name: column.missing for name, column in zip(self.names, encoded, strict=True) if column.missing},
            {name: column.unseen for name, column in zip(self.names, encoded, strict=True) if column.unseen},
        )

    def describe(self) -> str:
        """Return what is done with each column, in words."""
        return "; ".join(encoder.describe() for encoder in self.encoders)

    def save(self, path: Path) -> None:
        """Write the encoder as JSON; the file appears whole or not at all."""
        columns = [encoder.to_json() for encoder in self.encoders]
        content = {"format": FORMAT, "version": VERSION, "columns": columns}
        write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> TableEncoder:
        """Return the encoder that `save` wrote.

        Raises
        ------
        DataError
            If the file is missing, damaged, or of another version.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT or content["version"] != VERSION:
                raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
            return cls(tuple(map(encoder_from_json, content["columns"])))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} does not say how columns become numbers ({error}); train the method again"
            ) from error


def counted(counts: Mapping[str, int]) -> str:
    """Return counts by column in words: ``area 3, zipcode 12``."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
