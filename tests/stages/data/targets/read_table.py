"""Targets as a table gives them, from its text."""

from stages.config.data import DataConfig
from stages.data.sources.csv_file import list_csv
from stages.data.targets.registry import read_targets


def read_table(tmp_path, text, **options):
    """Return the samples, and what was read of their targets; the images need not be there."""
    path = tmp_path / "table.csv"
    path.write_text(text)
    chosen = DataConfig(str(path), **options)
    return read_targets(list_csv(chosen), chosen)


def table_of(cells, column="label"):
    """Return the text of a table with a column of these cells."""
    return f"path,{column}\n" + "".join(f"{index}.jpg,{cell}\n" for index, cell in enumerate(cells))
