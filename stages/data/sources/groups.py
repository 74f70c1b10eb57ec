"""Which samples are of one subject (a patient, a product, a video) and have to stay in one split: as options say it.

Where they say nothing, the source's own groups count, and sub-folders of classes that look like subjects. What may be
groups and is not taken for them is told, with the option that would.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cache.errors import UsageError, listed, suggestion
from stages.config.data import AUTO, BY_FOLDER, UNGROUPED, DataConfig
from stages.data.sources.records import SourceRecords

_LEAST_GROUPS, _LEAST_OF_A_CLASS = 5, 3
"""Fewer sub-folders are kinds of images (front, side) rather than subjects, and too few to make three splits of."""

_LOOKED_AT = 20_000
"""Names of files and fields of a column that are looked at for what may be groups."""

_NAME_PATTERNS = (
    *("^([^_]+)_", "^([^-]+)-", "^([^ ]+) ", r"^([^.]+)\."),
    *("^(.+)_[^_]*$", "^(.+)-[^-]*$", "^(.+) [^ ]*$"),
)
"""What of a name may be its subject: all before the first, or before the last, of these marks."""

_SUBJECTS = frozenset(
    "patient subject person participant case animal specimen sample lesion slide eye study series session visit"  # noqa: SIM905
    " scan video clip sequence scene track product item object part lot batch wafer panel plot site location camera"
    " user author group".split()
)
"""What columns of subjects are called."""


def with_groups(records: SourceRecords, options: DataConfig) -> SourceRecords:
    """Return the samples with the group of each, as `options` say it, and with notes of it.

    Raises
    ------
    UsageError
        If the column that is asked for is not there, or no file name has the pattern, or there are no folders.
    """
    if options.group_column is not None:
        return _grouped(records, *_by_column(records, options.group_column))
    if options.group_by == UNGROUPED:
        notes = ["groups are torn apart, as `group_by` none says"] if any(records.groups) else []
        return replace(records, groups=[], notes=[*records.notes, *notes])
    if options.group_by == BY_FOLDER:
        return _grouped(records, _folders(records, options), "by the folder that they are in")
    if options.group_by != AUTO:
        return _grouped(records, *_by_name(records, options.group_by))
    if any(records.groups):
        return records
    if any(records.subfolders):
        return _by_subfolder(records)
    return replace(records, notes=[*records.notes, *_column_hints(records), *_name_hints(records)])


def _grouped(records: SourceRecords, groups: Sequence[str], how: str) -> SourceRecords:
    note = f"{len(set(filter(None, groups))):,} groups, {how}: no split made here tears one apart"
    alone = len(groups) - len(list(filter(None, groups)))
    alone_note = f"; {alone:,} images have none and are each on their own" if alone else ""
    return replace(records, groups=list(groups), notes=[*records.notes, f"{note}{alone_note}"])


def _by_column(records: SourceRecords, column: str) -> tuple[list[str], str]:
    columns = {**records.extra, **({"group": records.groups} if any(records.groups) else {})}
    if column not in columns:
        known = f"there are {', '.join(columns)}" if columns else "there is none"
        raise UsageError(
            f"`group_column` {column}: there is no such column besides those of images, labels and splits; {known}."
            f"{suggestion(column, columns)}"
        )
    groups = [value.strip() for value in columns[column]]
    if not any(groups):
        raise UsageError(f"`group_column` {column}: the column is empty")
    return groups, f"by the column {column}"


def _by_name(records: SourceRecords, pattern: str) -> tuple[list[str], str]:
    search = re.compile(pattern).search
    names = [os.path.basename(location) for location in records.locations]  # noqa: PTH119 (a million times)
    groups = [(match[1] or "") if (match := search(name)) else "" for name in names]
    if not any(groups):
        raise UsageError(f"`group_by` {pattern!r}: no file name has this in it, as {names[0]}")
    return groups, f"by what `group_by` {shlex.quote(pattern)} finds in their names"


def _folders(records: SourceRecords, options: DataConfig) -> list[str]:
    """Return the folder that stands for each sample's group: inside its class, or, of a table, the one it lies in."""
    if any(records.subfolders):
        levels = _levels(records.subfolders)
        return next((level for level in levels if len(set(filter(None, level))) > 1), levels[0])
    if records.keys is not None or Path(options.data).is_dir():
        raise UsageError(f"`group_by` folder: there are no folders inside the classes of `data` {options.data}")
    return [os.path.dirname(location) for location in records.locations]  # noqa: PTH120 (a million times)


def _by_subfolder(records: SourceRecords) -> SourceRecords:
    """Take the sub-folders of classes for groups, if they can be subjects and no given split tears one apart.

    A name that stands in two classes is one group: the same patient may be in both, and where numbers begin anew in
    each class, that two unrelated ones go the same way makes no score too good.
    """
    levels = _levels(records.subfolders)
    groups = next((level for level in levels if not _are_kinds(level, records.targets)), levels[0])
    names = sorted(set(filter(None, groups)))
    if reason := _why_no_subjects(groups, records):
        note = (
            f"the folders inside the classes ({listed(names, 3)}) are not taken for groups, since {reason}; "
            "`group_by` folder keeps each of them in one split"
        )
        return replace(records, notes=[*records.notes, note, *_name_hints(records)])
    classes: dict[str, set[str]] = defaultdict(set)
    for group, target in zip(groups, records.targets, strict=True):
        classes[group].add(target)
    shared = sum(len(classes[name]) > 1 for name in names)
    in_several = f", {shared:,} of them in several classes" if shared else ""
    how = f"the folders inside the classes ({listed(names, 3)}{in_several}; `group_by` none ends this)"
    return _grouped(records, groups, how)


def _levels(subfolders: Sequence[str]) -> list[list[str]]:
    """Return the names of the first folders inside the classes, of the second ones, and so on; '' where there is none.

    A name alone, without those around it: what has the same name in two of them stays together.
    """
    parts = {subfolder: subfolder.split("/") for subfolder in set(subfolders)}
    depth = max(map(len, parts.values()))
    return [
        [parts[subfolder][level] if level < len(parts[subfolder]) else "" for subfolder in subfolders]
        for level in range(depth)
    ]


def _are_kinds(level: Sequence[str], targets: Sequence[str]) -> bool:
    """Return whether every class has the same few folders: images, or front and side, with the subjects deeper in."""
    names: dict[str, set[str]] = defaultdict(set)
    for name, target in zip(level, targets, strict=True):
        names[target].add(name)
    [first, *others] = names.values()
    return len(first) < _LEAST_GROUPS and "" not in first and all(other == first for other in others)


def _why_no_subjects(groups: Sequence[str], records: SourceRecords) -> str:
    """Return why folders are not likely to be subjects, or cannot be kept together; nothing if they can."""
    images = Counter(filter(None, groups))
    if len(images) < _LEAST_GROUPS:
        return f"there {'is' if len(images) == 1 else 'are'} only {len(images)}"
    of_class: dict[str, set[str]] = defaultdict(set)
    for group, target in zip(groups, records.targets, strict=True):
        of_class[target].add(group)
    for target, names in of_class.items():
        if names != {""} and len(names - {""}) < _LEAST_OF_A_CLASS:
            return f"class {target} has only {len(names - {''})}"
    [(largest, count)] = images.most_common(1)
    if count > len(groups) / 2 and all(largest in names for names in of_class.values()):
        return f"{largest} is in every class and holds most images"
    splits: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(groups, records.splits, strict=True):
        splits[group].add(split)
    if torn := sorted(group for group in images if len(splits[group]) > 1):
        return f"{len(torn):,} of them are in two of the given splits ({listed(torn, 3)})"
    return ""


def _column_hints(records: SourceRecords) -> list[str]:
    """Return a note if columns that are not used may say which images belong together."""
    classes, rows = len(records.class_names), min(len(records.locations), _LOOKED_AT)
    called, repeating = [], []
    for name, column in records.extra.items():
        values = [value.strip() for value in column[:_LOOKED_AT]]
        distinct = len(set(values))
        if _is_called_as_a_subject(name) and 1 < distinct < rows:
            called.append(name)
        elif max(_LEAST_GROUPS, _LEAST_OF_A_CLASS * classes) <= distinct <= rows / 2:
            repeating.append(name)
    if not called and not repeating:
        return []
    proposed = shlex.quote(called[0]) if called else "NAME"
    return [
        f"not used for the splits: {', '.join([*called, *repeating])}. If one of these columns says which images "
        f"belong together, as patients or products, name it: `group_column` {proposed}"
    ]


def _is_called_as_a_subject(column: str) -> bool:
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", column)}
    return not _SUBJECTS.isdisjoint(words | {word.removesuffix("s") for word in words})


def _name_hints(records: SourceRecords) -> list[str]:
    """Return a note if the beginnings of file names are shared by a few files each, as several images of a subject."""
    if records.keys is not None:
        return []
    names = [os.path.basename(location) for location in records.locations[:_LOOKED_AT]]  # noqa: PTH119 (many times)
    found: list[tuple[int, str, dict[tuple[str, str], list[str]]]] = []
    folders = [os.path.dirname(location) for location in records.locations[:_LOOKED_AT]]  # noqa: PTH120 (many times)
    for pattern in _NAME_PATTERNS:
        # within a folder: the files of several classes, or splits, may be numbered alike
        files: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name, folder, match in zip(names, folders, map(re.compile(pattern).match, names), strict=True):
            if match:
                files[folder, match[1]].append(name)
        sizes = [len(members) for members in files.values()]
        enough = len(files) >= max(_LEAST_GROUPS, _LEAST_OF_A_CLASS * len(records.class_names))
        if enough and sum(size for size in sizes if size > 1) >= 0.8 * len(names) and max(sizes) <= len(names) / 4:
            found.append((len(files), pattern, files))
    if not found:
        return []
    number, pattern, files = min(found, key=lambda candidate: candidate[0])
    one, other = max(files.values(), key=len)[:2]
    return [
        f"file names look like several images of one subject ({one} and {other}; {len(names):,} files with {number:,} "
        f"beginnings). If they are, keep them in one split: `group_by` '{pattern}'; `group_by` none ends this note"
    ]
