"""Tables of images as a source: ``path,label[,split][,stratum][,group]`` with a header, and whatever columns else.

A sample may have several images, in several columns or rows; see ``sample_images``. What is to be predicted stands in
the column ``label``, ``labels``, ``target`` or ``mask``, the last of which holds paths, or in those that the option
names; what it means is found out later. Samples with the same word in the column ``group`` (the same patient, product,
video) never come into two splits. Columns of other names go with the samples into the manifest, which is such a table
itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cache.errors import DataError, listed
from stages.config.data import DENSE, DataConfig
from stages.data.masks.class_table import find_class_table
from stages.data.sources.manifest_table import (
    KEY,
    TARGET_KEY,
    labels_are_masks,
    saved_mask_classes,
    saved_samples,
    whole_of,
)
from stages.data.sources.records import SPLIT_NAMES, Progress, SourceRecords, sort_class_names, unlabeled_records
from stages.data.sources.registry import register_source
from stages.data.sources.sample_images import (
    PATH,
    RowColumns,
    Views,
    chosen_frames,
    first_image,
    image_columns,
    images_of_row,
    join_rows,
    missing_views,
    row_columns,
    with_frames,
)
from stages.data.sources.table_file import TableFile
from stages.data.sources.table_paths import TablePaths
from stages.data.sources.target_columns import LABEL, LABELS, MASK, NUMBER, named_columns

_ROLES = (PATH, "split", "stratum", "group", KEY)
_READ = (*_ROLES, LABEL, LABELS, MASK)
"""Columns that are no extra ones. `key` is what a manifest calls the images by; here the files say what they are."""

_COLUMNS = "the first line must name the columns path and label, and may name split, stratum and group"

_ENDINGS = (".csv", ".tsv", ".tab")
_TEXT = ".txt"


def is_table(path: Path) -> bool:
    """Return whether a path is a table of images: by its ending, and a text file by the column path.

    Excel calls a table with tabs .txt.
    """
    ending = path.suffix.lower()
    if not path.is_file() or ending not in (*_ENDINGS, _TEXT):
        return False
    return ending != _TEXT or "path" in TableFile(path, _READ).columns


@register_source("csv file", takes_path=is_table, help_text="a CSV or TSV file (path,label[,split][,group])")
def list_csv(options: DataConfig, progress: Progress | None = None) -> SourceRecords:
    """Return the rows of the table `data`. Relative paths start at the file's folder.

    A group need not be filled in: a row without one is on its own. A column without a name is left out. Rows that say
    the same of an image count once, with the other columns of the first.

    Without a column that says what is to be predicted no image has a target, and all else that the table says is left
    out.

    Raises
    ------
    DataError
        If there is no column path, or a row cannot be used; names the line.
    UsageError
        If there is no column that the option `target` names.
    """
    path = Path(options.data)
    table = TableFile(path, _READ)
    paths = TablePaths(path.parent)
    saved = saved_samples(path)
    image_names = (PATH,) if saved else image_columns(table.columns, options)
    of_masks = labels_are_masks(table.columns)
    targets = _target_names(table, options, image_names)
    missing = [name for name, is_there in (("label", targets), ("path", "path" in table.columns)) if not is_there]
    if options.images:
        missing = [name for name in missing if name != "path"]
    if "path" in missing:
        of_other_names = "; columns of other names are taken with `images` (of paths) and `target` (of labels)"
        raise DataError(_missing(table, missing, f"{_COLUMNS}{of_other_names}"))
    if missing:
        rows_of_images = [
            _images_of_row(fields, image_names, saved, paths, line) for line, fields in table.rows(image_names)
        ]
        locations = [image for views in rows_of_images for image in views if image is not None]
        reason = _missing(table, missing, f"{_COLUMNS}; another column than label is taken with `target`")
        return unlabeled_records(locations, reason, [*table.notes, *paths.notes])
    joining, joining_notes = (RowColumns(), []) if saved else row_columns(table, options, targets)
    read = (*_ROLES, LABEL, *targets, *image_names, *([TARGET_KEY] if of_masks else []))
    columns = [name for name in dict.fromkeys(table.columns) if name and name not in read]
    # what an image is said to be -> the other columns of the first row that says so, and its line
    rows: dict[_Row, tuple[tuple[str, ...], int]] = {}
    repeated, differing, has_split = 0, False, None
    for line, fields in table.rows(image_names):
        if of_masks:
            fields |= {name: whole_of(fields[name]) for name in (PATH, LABEL)}
        row = _Row(
            _images_of_row(fields, image_names, saved, paths, line),
            tuple([fields[name].strip() for name in targets]),
            _split(fields.get("split", ""), line),
            fields.get("stratum", "").strip(),
            fields.get("group", "").strip(),
            fields.get(options.group_column or "", "").strip(),
            fields[joining.sample].strip() if joining.sample else "",
            fields[joining.frame].strip() if joining.frame else "",
        )
        if has_split not in (None, bool(row.split)):
            raise DataError(f"{line}: some rows have a split and some have none; fill in all or leave all empty")
        has_split = bool(row.split)
        others = tuple(fields[name] for name in columns)
        repeated += row in rows
        differing |= rows.setdefault(row, (others, table.line_number))[0] != others
    if not rows:
        raise DataError(f"{path} has no rows; {_COLUMNS}")
    notes = [*table.notes, *paths.notes, *joining_notes]
    if repeated:
        notes.append(
            f"{path.name} says again what it said of an image in {repeated:,} of its rows: each image counts once"
            + (f", with what its first row says in the columns {listed(columns)}" if differing else "")
        )
    if LABEL in table.columns and LABEL not in targets:
        notes.append(f"the column label is left out: what is predicted is {listed(targets)}")
    images: list[Views]
    images, said, splits, strata, groups, _, samples, frames = map(list, zip(*rows, strict=True))
    extra_values, lines = zip(*rows.values(), strict=True)
    extra = dict(zip(columns, (list(column) for column in zip(*extra_values, strict=True)), strict=True))
    target_columns = dict(zip(targets, (list(column) for column in zip(*said, strict=True)), strict=True))
    if of_masks and targets == [LABEL]:
        targets, target_columns = [MASK], {MASK: target_columns[LABEL]}
    holds_masks = targets == [MASK] or options.task == DENSE
    if holds_masks:
        mask_paths = TablePaths(path.parent)
        target_columns = {
            name: [
                cell and mask_paths.location(cell, f"{path}, line {line}")
                for cell, line in zip(cells, lines, strict=True)
            ]
            for name, cells in target_columns.items()
        }
        notes += mask_paths.notes
    first = target_columns[targets[0]]
    records = SourceRecords(
        [first_image(views) for views in images],
        first,
        sort_class_names(first),
        splits,
        strata,
        groups=groups if any(groups) else [],
        extra=extra,
        notes=[*notes, *missing_views(images, options.images if saved else image_names)],
        images=images if saved or len(image_names) > 1 else [],
        target_columns=target_columns,
        lines=list(lines),
        class_table=find_class_table([path.parent]) if holds_masks else None,
        mask_classes=saved_mask_classes(path) if of_masks and holds_masks else None,
    )
    if any(samples):
        records = join_rows(records, samples, frames, options, joining)
    return with_frames(records, options, progress)


def _target_names(table: TableFile, options: DataConfig, image_names: Sequence[str]) -> list[str]:
    """Return the columns that say what is to be predicted; none where there are none."""
    if options.target:
        columns = [name for name in dict.fromkeys(table.columns) if name and name not in (*_ROLES, *image_names)]
        return named_columns(options.target, columns, str(table.path))
    names = (MASK,) if options.task == DENSE and not labels_are_masks(table.columns) else (LABEL, LABELS, NUMBER, MASK)
    return [name for name in names if name in table.columns][:1]


class ListedImage(NamedTuple):
    """Where an image is, and what its table says of it by the names of the other columns."""

    location: str
    extra: dict[str, str]


def read_image_table(path: Path) -> tuple[list[ListedImage], list[str]]:
    """Return the images of a table with the column path, row by row, and in words what is unusual about it.

    A column without a name is left out.

    Raises
    ------
    DataError
        If there is no such column, or a row cannot be used; names the line.
    """
    table = TableFile(path, _READ)
    if "path" not in table.columns:
        raise DataError(_missing(table, ["path"], "the first line must name the column path"))
    paths = TablePaths(path.parent)
    images = [
        ListedImage(
            paths.location(_required(fields, "path", line), line),
            {name: value for name, value in fields.items() if name and name != "path"},
        )
        for line, fields in table.rows(verbatim=("path",))
    ]
    return images, [*table.notes, *paths.notes]


def read_sample_table(path: Path, options: DataConfig) -> tuple[SourceRecords, list[str]]:
    """Return the samples of a table without labels, by the options that say what a sample is, and notes.

    Raises
    ------
    UsageError, DataError
        If there are no such columns, or a row cannot be used; names the line.
    """
    table = TableFile(path, _READ)
    saved = saved_samples(path)
    names = (PATH,) if saved else image_columns(table.columns, options)
    if names[0] not in table.columns:
        raise DataError(_missing(table, [names[0]], "the first line must name the columns of the images"))
    joining = RowColumns() if saved else row_columns(table, options, [])[0]
    paths = TablePaths(path.parent)
    rows = [(_images_of_row(fields, names, saved, paths, line), fields) for line, fields in table.rows(names)]
    blank = [""] * len(rows)
    others = [name for name in dict.fromkeys(table.columns) if name and name not in names]
    records = SourceRecords(
        [first_image(views) for views, _ in rows],
        blank,
        ("",),
        blank,
        blank,
        extra={name: [fields[name] for _, fields in rows] for name in others},
        images=[views for views, _ in rows] if saved or len(names) > 1 else [],
    )
    if joining.sample:
        samples, frames = ([fields[name].strip() if name else "" for _, fields in rows] for name in joining)
        records = join_rows(records, samples, frames, options, joining)
    images = records.images or [(location,) for location in records.locations]
    records = replace(records, images=[chosen_frames(views, options.frames) for views in images])
    return records, [*table.notes, *paths.notes]


def _images_of_row(
    fields: Mapping[str, str], columns: Sequence[str], saved: Mapping[str, Views], paths: TablePaths, line: str
) -> Views:
    """Return where the images of a row are: of a sample that a manifest keeps, those that stand in its second table."""
    views = saved.get(fields.get(KEY, "").strip())
    if views is None:
        return images_of_row(fields, columns, paths, line)
    return tuple([None if view is None else paths.location(view, line) for view in views])


class _Row(NamedTuple):
    """What a row says of an image; rows that say the same are one sample."""

    images: Views
    targets: tuple[str, ...]
    split: str
    stratum: str
    group: str
    group_column: str
    """What the column says that `group_column` names, which joins images as a group does; '' where it names none."""
    sample: str
    frame: str
    """The sample that the row's image is of, and its place in it; '' where rows are not joined."""


def _missing(table: TableFile, names: Sequence[str], columns: str) -> str:
    first_line = f"its first line is {table.first_line[:100]!r}" if table.first_line else "it is empty"
    return f"{table.path} has no column {' and no column '.join(names)} ({first_line}); {columns}"


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
