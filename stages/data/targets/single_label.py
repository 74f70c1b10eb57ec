"""One class for each sample: the word in its column, or the folder that it is in."""

from __future__ import annotations

from collections.abc import Iterable

from cache.errors import DataError, UsageError, listed
from stages.config.data import AUTO, DataConfig
from stages.data.sources.records import sort_class_names
from stages.data.targets.columns import TargetColumns
from stages.data.targets.registry import Reading, register_targets
from stages.tasks.multi_label import SEPARATOR
from stages.tasks.single_label import SingleLabel


@register_targets("single_label", help_text="one class a sample")
def read_classes(columns: TargetColumns, options: DataConfig) -> Reading:
    """Return the class of each sample.

    Raises
    ------
    UsageError
        If there are several columns.
    DataError
        If a sample has no class.
    """
    if len(columns.values) > 1:
        raise UsageError(
            f"`task` single_label takes one column, and `target` names {len(columns.values)}: "
            f"{listed([*columns.values])}"
        )
    [(name, texts)] = columns.values.items()
    for index, text in enumerate(texts):
        if not text and columns.in_table:
            raise DataError(f"{columns.data}, {columns.rows([index])}: no {name}")
    class_names = columns.class_names or sort_class_names(texts)
    joined = [text for text in class_names if SEPARATOR in text]
    notes = []
    if joined and columns.in_table and options.task == AUTO:
        notes.append(
            f"{len(joined)} classes look like several labels, as {joined[0]!r}: if they are, say `task` multi_label"
        )
    return Reading(texts, lambda known: SingleLabel(_present(class_names, known)), class_names, notes=notes)


def _present(class_names: tuple[str, ...], texts: Iterable[str]) -> tuple[str, ...]:
    present = set(texts)
    return tuple(name for name in class_names if name in present)
