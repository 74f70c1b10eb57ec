"""Which columns of a table say what is to be predicted: those that the option names, or one called as such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from cache.errors import UsageError, suggestion
from stages.config.data import DataConfig
from stages.data.sources.records import SourceRecords

LABEL, LABELS, NUMBER, MASK = "label", "labels", "target", "mask"
"""Names of columns that are targets, without a word, where they are there: the first of them."""

_WILD = frozenset("*?[")


def named_columns(names: Sequence[str], columns: Sequence[str], data: str) -> list[str]:
    """Return the columns that the option `target` names, in the order of the table; a pattern may name several.

    Raises
    ------
    UsageError
        If there is no such column; names the nearest.
    """
    found: set[str] = set()
    for name in names:
        matching = [name] if name in columns else [column for column in columns if fnmatchcase(column, name)]
        if not matching:
            kind = "no column of that pattern" if _WILD.intersection(name) else "no such column"
            known = f"there are {', '.join(columns)}" if columns else "it has none besides those of the images"
            raise UsageError(f"`target` {name}: {data} has {kind}; {known}.{suggestion(name, columns)}")
        found.update(matching)
    return [column for column in columns if column in found]


def with_target_columns(records: SourceRecords, options: DataConfig) -> SourceRecords:
    """Return the samples with the columns that `options` name as their targets, which are then no extra ones.

    Raises
    ------
    UsageError
        If the source has no such column, or none at all.
    """
    if not options.target or records.target_columns:
        return records
    if not records.extra:
        raise UsageError(
            f"`target` {','.join(options.target)} is a column of a table, and `data` {options.data} has no columns"
        )
    names = named_columns(options.target, list(records.extra), options.data)
    return replace(
        records,
        targets=[""] * len(records.locations),
        class_names=(),
        extra={name: column for name, column in records.extra.items() if name not in names},
        target_columns={name: records.extra[name] for name in names},
        unlabeled="",
    )
