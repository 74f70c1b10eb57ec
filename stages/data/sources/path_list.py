"""A text file with a path in each line as a source: images without labels."""

from __future__ import annotations

from pathlib import Path

from cache.errors import DataError
from stages.config.data import DataConfig
from stages.data.sources.csv_file import is_table
from stages.data.sources.records import Progress, SourceRecords, unlabeled_records
from stages.data.sources.registry import register_source
from stages.data.sources.table_file import read_text
from stages.data.sources.table_paths import TablePaths


def is_path_list(path: Path) -> bool:
    """Return whether a path is a list of paths, by its ending, and is no table."""
    return path.is_file() and path.suffix.lower() in (".txt", ".lst") and not is_table(path)


@register_source("path list", takes_path=is_path_list, help_text="a text file with a path in each line (for `extract`)")
def list_paths(options: DataConfig, progress: Progress | None = None) -> SourceRecords:
    """Return the images that the lines of the file `data` name. Relative paths start at the file's folder.

    Empty lines are left out, and an image that stands there again counts once.

    Raises
    ------
    DataError
        If there is no path in it, or a line is no path of this machine; names the line.
    """
    path = Path(options.data)
    text, encoding = read_text(path)
    paths = TablePaths(path.parent)
    lines = enumerate((line.rstrip("\r") for line in text.split("\n")), 1)
    locations = [paths.location(line, f"{path}, line {number}") for number, line in lines if line.strip()]
    if not locations:
        raise DataError(f"{path} has no path in it")
    notes = [f"{path.name} was read as {encoding.upper()}"] if encoding != "utf-8" else []
    reason = f"{path} names images and no labels, for which a table with the columns path and label is taken"
    return unlabeled_records(locations, reason, [*notes, *paths.notes])
