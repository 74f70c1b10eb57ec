"""Several labels for each sample: joined in one cell, in a column of 0 and 1 for each label, or by several folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from cache.errors import DataError, listed
from stages.config.data import DataConfig
from stages.data.sources.records import sort_class_names
from stages.data.sources.target_columns import LABELS
from stages.data.targets.columns import TargetColumns, is_missing, truth_of
from stages.data.targets.registry import Reading, register_targets
from stages.tasks.multi_label import SEPARATOR, UNKNOWN, MultiLabel

_OTHER_SEPARATORS = (";", ",")


def recognizes_labels(columns: TargetColumns, options: DataConfig) -> str:
    """Return by what the columns are plainly labels, of which a sample may have several."""
    if not columns.in_table:
        return ""
    if len(columns.values) > 1:
        only_truth = all(truth_of(text) is not None or is_missing(text) for text in _cells(columns))
        return f"the columns {listed([*columns.values], 3)} hold 0 and 1" if only_truth else ""
    [(name, texts)] = columns.values.items()
    if name == LABELS:
        return f"the column is called {LABELS} (`task` single_label takes its words for classes)"
    joined = _shares_parts(texts, SEPARATOR)
    return (
        f"the column {name} joins labels, as {joined!r} (`task` single_label takes them as one word)" if joined else ""
    )


@register_targets(
    "multi_label",
    help_text="any number of labels, as a|b or a column of 0 and 1 for each",
    recognizes=recognizes_labels,
)
def read_labels(columns: TargetColumns, options: DataConfig) -> Reading:
    """Return the labels of each sample.

    Several columns, or one of 0 and 1 that is called otherwise than label, are a label each; an empty cell there is not
    known. One column has the names of the labels, with | between; blanks, order and repetitions mean nothing, and an
    empty cell is a sample without any.

    Raises
    ------
    DataError
        If a cell is neither, or there is no sample with a label.
    """
    if len(columns.values) > 1 or (columns.is_named and _is_one_label(columns)):
        return _from_columns(columns)
    [(name, texts)] = columns.values.items()
    has_separator = any(SEPARATOR in text for text in texts)
    for separator in _OTHER_SEPARATORS if columns.in_table and not has_separator else ():
        if example := _shares_parts(texts, separator):
            raise DataError(
                f"{columns.data}: the column {name} joins labels with {separator!r}, as {example!r}; write "
                f"{SEPARATOR!r} between them"
            )
    known = [_names(text) for text in texts]
    unknown = [_names(text, unknown=True) for text in texts]
    found = {label for labels in (*known, *unknown) for label in labels}
    order = (
        sort_class_names(found) if columns.in_table else tuple(name for name in columns.class_names if name in found)
    )
    if not any(known):
        raise DataError(f"{columns.data}: no sample has a label in the column {name}")
    _require_positive(order, Counter(label for labels in known for label in labels), columns)
    joined = [_text(order, *both) for both in zip(known, unknown, strict=True)]
    return _reading(joined, order, [])


def _from_columns(columns: TargetColumns) -> Reading:
    """Return the labels that are columns."""
    order = tuple(columns.values)
    for name, cells in columns.values.items():
        wrong = [index for index, text in enumerate(cells) if truth_of(text) is None and not is_missing(text)]
        if wrong:
            raise DataError(
                f"{columns.data}: the column {name} of a label holds something else than 0 and 1 (true and false, yes "
                f"and no, or nothing) in {len(wrong):,} rows: {columns.rows(wrong, name)}"
            )
    truths = {name: [truth_of(text) for text in cells] for name, cells in columns.values.items()}
    _require_positive(order, Counter({name: sum(map(bool, cells)) for name, cells in truths.items()}), columns)
    texts, left_out = [], []
    for index, row in enumerate(zip(*truths.values(), strict=True)):
        unknown = {name for name, truth in zip(order, row, strict=True) if truth is None}
        texts.append(_text(order, {name for name, truth in zip(order, row, strict=True) if truth}, unknown))
        if len(unknown) == len(order):
            left_out.append(index)
    notes = []
    if left_out:
        notes.append(
            f"rows with nothing in the columns of the labels: {len(left_out):,}, left out ({columns.rows(left_out)})"
        )
    return _reading(texts, order, left_out, notes)


def _reading(texts: list[str], order: tuple[str, ...], left_out: list[int], notes: Sequence[str] = ()) -> Reading:
    task = MultiLabel(order)  # names that cannot be labels are refused before images are read

    def join(said: Sequence[str]) -> str:
        known = set().union(*map(_names, said))
        unknown = set.intersection(*(_names(text, unknown=True) for text in said))
        return _text(order, known, unknown)

    return Reading(texts, lambda _: task, join=join, left_out=left_out, notes=list(notes))


def _require_positive(order: Sequence[str], counts: Counter[str], columns: TargetColumns) -> None:
    never = [name for name in order if not counts[name]]
    if never:
        raise DataError(
            f"{columns.data}: no sample has the label{'s' * (len(never) > 1)} {listed(never)}: there is nothing to "
            "learn it from; leave it out of the table or of `target`"
        )


def _is_one_label(columns: TargetColumns) -> bool:
    return all(truth_of(text) is not None or is_missing(text) for text in _cells(columns))


def _cells(columns: TargetColumns) -> Iterable[str]:
    return (text for cells in columns.values.values() for text in cells)


def _names(text: str, *, unknown: bool = False) -> set[str]:
    """Return the labels that a text names, or those of which it says that they are not known."""
    parts = {part.strip() for part in text.split(SEPARATOR)} - {""}
    return {part.removeprefix(UNKNOWN) for part in parts if part.startswith(UNKNOWN) == unknown}


def _text(order: Iterable[str], known: set[str], unknown: set[str]) -> str:
    parts = (name if name in known else f"{UNKNOWN}{name}" for name in order if name in known or name in unknown)
    return SEPARATOR.join(parts)


def _shares_parts(texts: Sequence[str], separator: str) -> str:
    """Return a cell that joins words of which others have some too; '' where there is none."""
    distinct = dict.fromkeys(texts)
    parts_of = {text: {part.strip() for part in text.split(separator)} - {""} for text in distinct}
    counts = Counter(part for parts in parts_of.values() for part in parts)
    joined = (text for text, parts in parts_of.items() if separator in text and any(counts[part] > 1 for part in parts))
    return next(joined, "")
