"""Numbers for each sample: a column of them, several, or ordered classes that count as numbers."""

from __future__ import annotations

from collections.abc import Sequence

from cache.errors import DataError, UsageError, listed
from stages.config.data import AUTO, DataConfig
from stages.data.targets.columns import TargetColumns, is_missing, is_quantity, number_of
from stages.data.targets.registry import Reading, register_targets
from stages.tasks.regression import SEPARATOR, Regression

_FEW = 20
"""Different whole numbers up to which they are rather classes."""

_SHARE = 0.1
"""Share of the samples up to which more different ones than that may still be classes."""

_MOSTLY = 0.9
"""Share of the cells that are numbers in a column of numbers: the others are mistakes, which are named then."""


def recognizes_numbers(columns: TargetColumns, options: DataConfig) -> str:
    """Return by what the columns are plainly numbers.

    Raises
    ------
    DataError
        If a column that nobody named holds what may be numbers, or classes that are called by numbers.
    """
    if options.ordinal or options.log_target:
        return "`ordinal` makes numbers of classes" if options.ordinal else "`log_target` is for numbers"
    if not columns.in_table:
        return ""
    if len(columns.values) > 1:
        only_numbers = all(
            number_of(text) is not None or is_missing(text) for cells in columns.values.values() for text in cells
        )
        return f"the columns {listed([*columns.values], 3)} hold numbers" if only_numbers else ""
    [(name, cells)] = columns.values.items()
    reason = _why_numbers(cells)
    if reason and not columns.is_named:
        raise DataError(
            f"{columns.data}: the column {name} holds {reason}. If they are quantities to be predicted, say `task` "
            "regression; if they are names of classes, say `task` single_label"
        )
    return f"the column {name} holds {reason} (`task` single_label takes them for classes)" if reason else ""


@register_targets(
    "regression",
    help_text="a number a sample, or several",
    recognizes=recognizes_numbers,
    options=("log_target", "ordinal"),
)
def read_numbers(columns: TargetColumns, options: DataConfig) -> Reading:
    """Return the numbers of each sample.

    Raises
    ------
    UsageError
        If the order of the classes cannot be that of these.
    DataError
        If a cell holds no number, or one without a logarithm where that is predicted, or all are the same; names rows.
    """
    names = tuple(columns.values)
    levels = _levels(columns, options.ordinal) if options.ordinal else ()
    if not levels:
        for name in names:
            _require_numbers(columns, name, log=options.log_target)
    rows = list(zip(*columns.values.values(), strict=True))
    texts = [SEPARATOR.join("" if is_missing(text) else text for text in row) for row in rows]
    left_out = [index for index, row in enumerate(rows) if all(map(is_missing, row))]
    notes = []
    if left_out:
        notes.append(f"rows without {' and '.join(names)}: {len(left_out):,}, left out ({columns.rows(left_out)})")
    task = Regression(names, (0.0,) * len(names), (1.0,) * len(names), options.log_target, levels)
    return Reading(texts, lambda _: task, left_out=left_out, notes=notes)


def _why_numbers(cells: Sequence[str]) -> str:
    """Return what is unlike classes in a column; '' where it may be classes."""
    known = [text for text in cells if not is_missing(text)]
    texts = [text for text in known if is_quantity(text)]
    if len(texts) < max(_MOSTLY * len(known), 1):
        return ""
    numbers = {float(text) for text in texts}
    if fraction := next((text for text in texts if not float(text).is_integer()), ""):
        return f"numbers that are not whole, as {fraction}"
    if len(numbers) > max(_FEW, _SHARE * len(texts)):
        return f"{len(numbers):,} different numbers"
    return ""


def _require_numbers(columns: TargetColumns, name: str, *, log: bool) -> None:
    cells = columns.values[name]
    wrong = [index for index, text in enumerate(cells) if number_of(text) is None and not is_missing(text)]
    if wrong:
        decimal = ". Decimals are written with a point" if all("," in cells[index] for index in wrong) else ""
        raise DataError(
            f"{columns.data}: {name} is not a number in {len(wrong):,} of {len(cells):,} rows: "
            f"{columns.rows(wrong, name)}{decimal}"
        )
    numbers = {index: float(text) for index, text in enumerate(cells) if not is_missing(text)}
    below = [index for index, number in numbers.items() if number <= 0]
    if log and below:
        raise DataError(
            f"{columns.data}: {name} has no logarithm, which `log_target` predicts, in {len(below):,} rows, where it "
            f"is not above 0: {columns.rows(below, name)}"
        )
    values = set(numbers.values())
    if len(values) < 2:
        held = f"{next(iter(values)):g} in all rows" if values else "empty in all rows"
        raise DataError(f"{columns.data}: the target {name} is {held}: there is nothing to learn")


def _levels(columns: TargetColumns, order: Sequence[str]) -> tuple[str, ...]:
    """Return the classes, lowest first."""
    if len(columns.values) > 1:
        raise UsageError(f"`ordinal` is for one column, and `target` names {len(columns.values)}")
    [(name, cells)] = columns.values.items()
    known = {index: text for index, text in enumerate(cells) if not is_missing(text)}
    if tuple(order) == (AUTO,):
        wrong = [index for index, text in known.items() if number_of(text) is None]
        if wrong:
            raise DataError(
                f"{columns.data}: `ordinal` {AUTO} orders numbers, and {name} is none in {len(wrong):,} rows: "
                f"{columns.rows(wrong, name)}. Name the classes in their order, lowest first"
            )
        by_value = {float(text): text for text in reversed(known.values())}
        levels = tuple(by_value[value] for value in sorted(by_value))
    else:
        levels = tuple(order)
        values = {number_of(level) for level in levels}
        only_numbers = None not in values
        wrong = [
            index
            for index, text in known.items()
            if text not in levels and not (only_numbers and number_of(text) in values)
        ]
        if wrong:
            raise DataError(
                f"{columns.data}: {name} is none of the classes that `ordinal` orders ({', '.join(levels)}) in "
                f"{len(wrong):,} rows: {columns.rows(wrong, name)}"
            )
    if len(levels) < 2 or len(set(levels)) < len(levels):
        raise UsageError(f"`ordinal` {', '.join(levels)}: at least two classes are ordered, each once")
    return levels
