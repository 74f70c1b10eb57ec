"""CSV files as a source: ``path,label[,split][,stratum][,group]`` with a header, and whatever columns else.

Samples with the same word in the column ``group`` (the same patient, product, video) never come into two splits.
Columns of other names go with the samples into the manifest.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from cache.errors import DataError
from stages.config.data import DataConfig
from stages.data.sources.records import SPLIT_NAMES, Progress, SourceRecords, sort_class_names
from stages.data.sources.registry import register_source

_REQUIRED = ("path", "label")
_READ = (*_REQUIRED, "split", "stratum", "group", "key")
"""Columns that are no extra ones. `key` is what a manifest calls the images by; here the files say what they are."""

_COLUMNS = "the first line must name the columns path and label, and may name split, stratum and group"


def is_csv(path: Path) -> bool:
    """Return whether a path is a CSV file."""
    return path.is_file() and path.suffix.lower() == ".csv"


@register_source("csv file", takes_path=is_csv, help_text="a CSV file (path,label[,split][,group])")
def list_csv(options: DataConfig, progress: Progress | None = None) -> SourceRecords:
    """Return the rows of the CSV file `data`. Relative paths start at the file's folder.

    A group need not be filled in: a row without one is on its own. A column without a name is left out, and of two
    columns with one name the last counts.

    Raises
    ------
    DataError
        If columns are missing or a row cannot be used; names the line.
    """
    table = Path(options.data)
    locations, targets, splits, strata, groups = [], [], [], [], []
    extra: dict[str, list[str]] = {}
    for line, row in _rows(table, _REQUIRED, _COLUMNS):
        locations.append(str(table.parent / _required(row, "path", line)))
        targets.append(_required(row, "label", line))
        splits.append(_split(row.get("split", ""), line))
        strata.append(row.get("stratum", "").strip())
        groups.append(row.get("group", "").strip())
        if bool(splits[-1]) != bool(splits[0]):
            raise DataError(f"{line}: some rows have a split and some have none; fill in all or leave all empty")
        for name, value in row.items():
            if name and name not in _READ:
                extra.setdefault(name, []).append(value)
    if not locations:
        raise DataError(f"{table} has no rows; {_COLUMNS}")
    groups = groups if any(groups) else []
    return SourceRecords(locations, targets, sort_class_names(targets), splits, strata, groups=groups, extra=extra)


def read_image_table(table: Path) -> list[tuple[str, dict[str, str]]]:
    """Return the location of each image in a CSV file with the column path, and its other columns by their names.

    What has no name is left out. Of two columns with one name the last counts.

    Raises
    ------
    DataError
        If there is no such column, or a row cannot be used; names the line.
    """
    rows = _rows(table, ("path",), "the first line must name the column path")
    return [
        (
            str(table.parent / _required(row, "path", line)),
            {name: value for name, value in row.items() if name and name != "path"},
        )
        for line, row in rows
    ]


def _rows(table: Path, required: tuple[str, ...], columns: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield where each row stands, in words, and its fields by the names of the columns.

    Raises
    ------
    DataError
        If a column of `required` is missing, which `columns` says in words, or the table cannot be read.
    """
    try:
        # a byte-order mark is what Excel writes; undecodable bytes are file names that are not Unicode
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.DictReader(file, strict=True, restval="")
            rows.fieldnames = [_column_name(name) for name in rows.fieldnames or ()]
            missing = sorted(set(required) - set(rows.fieldnames))
            if missing:
                raise DataError(f"{table} has no column {' and no column '.join(missing)}; {columns}")
            for row in rows:
                line = f"{table}, line {rows.line_num}"
                if None in row:
                    raise DataError(f"{line}: more fields than columns; quote a path or label that has a comma in it")
                yield line, row
    except csv.Error as error:
        raise DataError(f"{table}, line {rows.reader.line_num}: {error}") from error
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}") from error


def _column_name(name: str) -> str:
    """Return what a column is called: the ones that are read in small letters, others as they are written."""
    name = name.strip()
    return name.lower() if name.lower() in _READ else name


def _required(row: dict[str, str], column: str, line: str) -> str:
    value = row[column] if column == "path" else row[column].strip()
    if not value:
        raise DataError(f"{line}: no {column}")
    return value


def _split(word: str, line: str) -> str:
    word = word.strip().lower()
    if word and word not in SPLIT_NAMES:
        raise DataError(f"{line}: {word!r} is not a split; use train, val or test")
    return SPLIT_NAMES.get(word, "")
