"""A table of images as a text file: its encoding and its separator are found out, and its columns by their names.

Spreadsheets write what the country they are set to has: commas, semicolons or tabs, UTF-8 with a mark, UTF-16, or code
page 1252. What is read otherwise than as UTF-8 with commas is said in a note. What the columns mean is not known here.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cache.errors import DataError, listed
from stages.data.images.file_kinds import describe_known

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORKBOOK = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""How the files of spreadsheets begin, new ones and old ones."""

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}
"""What stands between fields, the usual one first, and what it is called."""

_SEPARATOR_LINE = re.compile(r'"?sep=([^\r\n])"?[\r\n]')
"""What may stand in the first line for Excel, which shows it to nobody."""


class TableFile:
    """The rows of a table by the names of its columns.

    Parameters
    ----------
    path : Path
    known_names : sequence of str
        Columns that are read, in small letters: a table may write them otherwise. By them its separator is told.

    Attributes
    ----------
    columns : list of str
        As they are written, without blanks at the ends; the known ones in small letters.
    line_number : int
        Where the row ends that `rows` yielded last; 0 before the first.

    Raises
    ------
    DataError
        If the file cannot be read, is no text, or has two columns of the same known name.
    """

    def __init__(self, path: Path, known_names: Sequence[str]) -> None:
        self.path = path
        self._text, self._encoding = read_text(path)
        self._has_other_bytes = self._encoding == "utf-8" and not _is_unicode(self._text)
        self.line_number = 0
        self._fields_in_code_page: list[str] = []
        separator_line = _SEPARATOR_LINE.match(self._text)
        self._lines_before = 1 if separator_line else 0
        candidates = [separator_line[1]] if separator_line else list(_SEPARATORS)
        headers, errors = {}, []
        for separator in candidates:
            try:
                headers[separator] = self._header(separator, known_names)
            except DataError as error:  # names in quotes, with another separator between them
                errors.append(error)
        if errors and not any(set(known_names) & set(names) for names in headers.values()):
            raise errors[0]
        # of several that name as many, the usual one: max takes the first
        self._separator = max(headers, key=lambda separator: len(set(known_names) & set(headers[separator])))
        self.columns = headers[self._separator]
        twice = [name for name in known_names if self.columns.count(name) > 1]
        if twice:
            raise DataError(
                f"{path} has several columns called {' and several called '.join(twice)}: leave one, and call the "
                "others otherwise"
            )

    @property
    def first_line(self) -> str:
        """The first line that is not about the separator."""
        lines = self._text.split("\n", self._lines_before + 1)
        return lines[self._lines_before].rstrip("\r") if len(lines) > self._lines_before else ""

    @property
    def notes(self) -> list[str]:
        """What is unusual about the table, in words; of its fields, as far as rows were read."""
        found = [self._encoding.upper()] if self._encoding != "utf-8" else []
        if self._separator != ",":
            found.append(f"columns separated by {_SEPARATORS.get(self._separator, self._separator)}")
        notes = [f"{self.path.name} was read as {' with '.join(found)}"] if found else []
        twice = sorted({name for name in self.columns if name and self.columns.count(name) > 1})
        if twice:
            notes.append(f"{self.path.name} has several columns called {listed(twice)}: the last of each counts")
        if count := len(self._fields_in_code_page):
            examples = listed(list(dict.fromkeys(self._fields_in_code_page)), 3)
            notes.append(
                f"{self.path.name}: what is not UTF-8 was read as code page 1252, which Excel writes as plain CSV in "
                f"the west, in {count:,} of the fields: {examples}. If that is wrong, save the table as 'CSV UTF-8'"
            )
        return notes

    def rows(self, verbatim: Collection[str] = ()) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield where each row stands, in words, and its fields by the names of the columns.

        Of two columns with one name the last counts.

        Parameters
        ----------
        verbatim : collection of str
            Columns that keep bytes that are not UTF-8 as ``surrogateescape`` has them: names of files may have any.

        Raises
        ------
        DataError
            If a row has more fields than there are columns, or quotes that do not end; names the line.
        """
        self._fields_in_code_page.clear()
        rows = csv.DictReader(
            io.StringIO(self._text, newline=""), self.columns, strict=True, restval="", delimiter=self._separator
        )
        try:
            for _ in range(self._lines_before + 1):  # the names of the columns are one
                next(rows.reader, None)
            for row in rows:
                self.line_number = rows.line_num
                line = f"{self.path}, line {rows.line_num}"
                if None in row:
                    raise DataError(f"{line}: more fields than columns; quote a path or label that has a comma in it")
                if self._has_other_bytes:
                    row |= {name: self._as_text(value) for name, value in row.items() if name not in verbatim}
                yield line, row
        except csv.Error as error:
            raise DataError(f"{self.path}, line {rows.reader.line_num}: {error}") from error

    def _header(self, separator: str, known_names: Sequence[str]) -> list[str]:
        rows = csv.reader(io.StringIO(self._text, newline=""), delimiter=separator, strict=True)
        try:
            for _ in range(self._lines_before):
                next(rows, None)
            names = [from_code_page(name).strip() for name in next(rows, [])]
        except csv.Error as error:
            raise DataError(f"{self.path}, line {rows.line_num}: {error}") from error
        return [name.lower() if name.lower() in known_names else name for name in names]

    def _as_text(self, field: str) -> str:
        text = from_code_page(field)
        if text != field:
            self._fields_in_code_page.append(text)
        return text


def from_code_page(text: str) -> str:
    """Return what bytes that are not UTF-8, as ``surrogateescape`` has them, say in code page 1252, if anything."""
    if _is_unicode(text):
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("cp1252")
    except UnicodeDecodeError:
        return text


def read_text(path: Path) -> tuple[str, str]:
    """Return the text of a file and its encoding; bytes that are not UTF-8 as ``surrogateescape`` has them."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if (kind := describe_other(path, data)) is not None:
        raise DataError(f"{path} is {kind}")
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            data = data.removeprefix(mark) if encoding == "utf-8" else data
            break
    else:
        # the first character of a table is ASCII, and in UTF-16 the other half of it is zero
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be" if data[:1] == b"\0" else "utf-8"
    try:
        return data.decode(encoding, "surrogateescape" if encoding == "utf-8" else "strict"), encoding[:6].rstrip("-")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} begins as {encoding.upper()} and goes on as something else: {error.reason}") from error


def describe_other(path: Path, data: bytes) -> str | None:
    """Return what a file is that is no text of a table or list, and what helps; None where nothing tells.

    Parameters
    ----------
    path : Path
        By its name a workbook is told from other archives.
    data : bytes
        Its beginning.
    """
    if data.startswith(_WORKBOOK) and path.suffix.lower() != ".zip":
        return "the workbook of a spreadsheet, and no text: save the sheet as 'CSV UTF-8'"
    return describe_known(data)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
