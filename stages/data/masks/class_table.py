"""Names of classes that somebody has written beside masks, with their numbers or colors where these are there too."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cache.errors import DataError
from stages.data.masks.stored import packed

FILES = (
    *("classes.csv", "class_dict.csv", "colors.csv", "label_colors.csv", "labels.csv"),
    *("classes.txt", "label_colors.txt", "labelmap.txt", "labels.txt", "codes.txt", "class_names.txt"),
)
"""What such a file may be called, by us, Kaggle, CVAT, CamVid and fastai; of several the first."""

VOID_NAMES = frozenset(
    {"void", "unlabeled", "unlabelled", "unknown", "ignore", "ignored", "ignore_label", "dontcare", "don't care"}
)
"""Names, in small letters, that stand for no class."""

_NAME_COLUMNS = ("name", "class", "class_name", "label", "category")
_VALUE_COLUMNS = ("value", "id", "index", "number", "class_id")
_COLOR_COLUMNS = (("r", "g", "b"), ("red", "green", "blue"))
_ONE_COLOR = ("color", "colour", "rgb", "hex")

_NUMBERED = re.compile(r"(\d+)\s*[:;,\t ]\s*(\S.*)")
_COLORED_FIRST = re.compile(r"(\d+)[ ,]+(\d+)[ ,]+(\d+)[\s,;]+(\S.*)")
_COLORED_LAST = re.compile(r"([^:]+):\s*(\d+),(\d+),(\d+)\s*(?::.*)?")
_HEX = re.compile(r"#?([0-9a-fA-F]{6})")


@dataclass(frozen=True)
class ClassTable:
    """What is said of the classes of masks.

    Attributes
    ----------
    names : tuple of str
        In their order, those that stand for no class included.
    values : tuple of int
        The number in masks of each; empty where their order is all that is said.
    colors : tuple of int
        The packed color of each; empty where none is said.
    origin : str
        Where that is said, in words.
    void_values : tuple of int
        Numbers in masks that stand for no class, and have no name.
    """

    names: tuple[str, ...]
    values: tuple[int, ...] = ()
    colors: tuple[int, ...] = ()
    origin: str = ""
    void_values: tuple[int, ...] = ()

    @property
    def void(self) -> tuple[int, ...]:
        """The places of names that stand for no class."""
        return tuple(place for place, name in enumerate(self.names) if name.lower() in VOID_NAMES)


def find_class_table(folders: Sequence[Path]) -> ClassTable | None:
    """Return what the first file of classes in these folders says; None where there is none.

    A table of images may be called so too, as labels.csv: by its column path it is told to be none of classes.

    Raises
    ------
    DataError
        If such a file cannot be read as one.
    """
    for folder in dict.fromkeys(folders):
        for name in FILES:
            path = folder / name
            if path.is_file() and not _lists_images(path):
                return read_class_table(path)
    return None


def _lists_images(path: Path) -> bool:
    """Return whether a CSV file has the column that tables of images have."""
    if path.suffix.lower() != ".csv":
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        columns = re.split(r"[,;\t]", file.readline().strip())
    return "path" in [column.strip("\"' ") for column in columns]


def read_class_table(path: Path) -> ClassTable:
    """Return the classes that a file names, one a line.

    A CSV has a column name, and may have r, g and b, or color, as #8040ff, and value. A text file has a name a line,
    after a number or a color where there are such, or as CVAT writes it: ``road:128,64,128::``.

    Raises
    ------
    DataError
        If it names no classes, or one twice; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    table = _of_csv(path, text) if path.suffix.lower() == ".csv" else _of_lines(path, text)
    if not table.names:
        raise DataError(f"{path} names no classes")
    for kind, entries in (("name", table.names), ("value", table.values), ("color", table.colors)):
        if twice := [entry for entry in dict.fromkeys(entries) if entries.count(entry) > 1]:
            shown = f"#{twice[0]:06x}" if kind == "color" else twice[0]
            raise DataError(f"{path} has the {kind} {shown} more than once")
    return replace(table, origin=path.name)


def color_of(text: str) -> int | None:
    """Return the packed color that a word names, as ``#8040ff`` or ``128,64,255``; None if it is none."""
    if match := _HEX.fullmatch(text.strip()):
        return int(match[1], 16)
    parts = re.split(r"[\s,;/]+", text.strip(" ()[]\t"))
    if len(parts) == 3 and all(part.isdecimal() and int(part) < 256 for part in parts):
        red, green, blue = map(int, parts)
        return packed(red, green, blue)
    return None


def _of_csv(path: Path, text: str) -> ClassTable:
    try:
        dialect: type[csv.Dialect] | csv.Dialect = csv.Sniffer().sniff(text.split("\n", 1)[0], ",;\t")
    except csv.Error:
        dialect = csv.excel
    rows = csv.DictReader(io.StringIO(text), dialect=dialect, restval="")
    columns = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
    name_column = next((columns[name] for name in _NAME_COLUMNS if name in columns), None)
    if name_column is None:
        raise DataError(f"{path} has no column {' or '.join(_NAME_COLUMNS[:2])}: the first line names the columns")
    value_column = next((columns[name] for name in _VALUE_COLUMNS if name in columns), None)
    names, values, colors = [], [], []
    for row in rows:
        line = f"{path}, line {rows.line_num}"
        if not (name := (row[name_column] or "").strip()):
            raise DataError(f"{line}: a class without a name")
        names.append(name)
        if value_column is not None:
            values.append(_number(row[value_column], line))
        if (color := _color_of_row(row, columns, line)) is not None:
            colors.append(color)
    return ClassTable(tuple(names), tuple(values), tuple(colors))


def _color_of_row(row: Mapping[str, str], columns: Mapping[str, str], line: str) -> int | None:
    for triple in _COLOR_COLUMNS:
        if all(name in columns for name in triple):
            text = ",".join(row[columns[name]] for name in triple)
            break
    else:
        single = next((columns[name] for name in _ONE_COLOR if name in columns), None)
        if single is None:
            return None
        text = row[single]
    if (color := color_of(text)) is None:
        raise DataError(f"{line}: {text!r} is no color; write #8040ff, or r, g and b from 0 to 255")
    return color


def _number(text: str, line: str) -> int:
    if not text.strip().isdecimal():
        raise DataError(f"{line}: {text!r} is no number of a class")
    return int(text)


def _of_lines(path: Path, text: str) -> ClassTable:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if lines and all(match := [_COLORED_FIRST.fullmatch(line) for line in lines]):
        return _colored([(found[4], found[1], found[2], found[3]) for found in match if found], path)
    if lines and all(match := [_COLORED_LAST.fullmatch(line) for line in lines]):
        return _colored([(found[1], found[2], found[3], found[4]) for found in match if found], path)
    if lines and all(match := [_NUMBERED.fullmatch(line) for line in lines]):
        numbered = [(int(found[1]), found[2].strip()) for found in match if found]
        return ClassTable(tuple(name for _, name in numbered), tuple(number for number, _ in numbered))
    return ClassTable(tuple(lines))


def _colored(rows: Sequence[tuple[str, str, str, str]], path: Path) -> ClassTable:
    colors = [color_of(",".join(row[1:])) for row in rows]
    if wrong := [row[0] for row, color in zip(rows, colors, strict=True) if color is None]:
        raise DataError(f"{path}: the color of {wrong[0].strip()} is none: r, g and b lie from 0 to 255")
    known = tuple(color for color in colors if color is not None)
    return ClassTable(tuple(row[0].strip() for row in rows), colors=known)
