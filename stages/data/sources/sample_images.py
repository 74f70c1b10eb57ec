"""Samples of several images: which images are of one sample, in which order, and what becomes of one that is missing.

A source lists images row by row; here rows become samples: by columns that hold an image each, by a column ``sample``,
or by folders, and videos become their frames. What the images are known by in the cache is told by `key_samples`.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from cache import DigestCache, key_of_bytes
from cache.errors import DataError, UsageError, listed, suggestion
from stages.config.data import DataConfig
from stages.data.images.rgb import UnreadableImageError
from stages.data.sample import ImageRef
from stages.data.sources.records import Progress, SourceRecords
from stages.data.sources.table_file import TableFile
from stages.data.sources.table_paths import TablePaths
from stages.data.sources.video import count_frames, evenly_spaced, frame_location, is_video, key_of_frame, split_frame
from stages.runtime.connected_groups import connected_groups
from stages.runtime.natural_order import natural_key

PATH, SAMPLE, FRAME = "path", "sample", "frame"
"""Columns of a table: an image, the sample that it is of, and where it stands in it."""

_FURTHER_PATH = re.compile(r"path_\d+", re.IGNORECASE)

_NAMED = 5
"""Most samples or files that a note names."""

Views = tuple[str | None, ...]
"""Where the images of a sample are, in order; None is a view that is missing."""


def image_columns(columns: Sequence[str], options: DataConfig) -> tuple[str, ...]:
    """Return the columns of a table that hold images: as `images` says, or path and path_2, path_3, ...

    Raises
    ------
    UsageError
        If `images` names a column that there is not.
    """
    missing = [name for name in options.images if name not in columns]
    if missing:
        raise UsageError(
            f"`images` {missing[0]}: there is no such column; there are {', '.join(filter(None, columns))}."
            f"{suggestion(missing[0], columns)}"
        )
    if options.images:
        return options.images
    return (PATH, *sorted(filter(_FURTHER_PATH.fullmatch, columns), key=natural_key))


def images_of_row(fields: Mapping[str, str], columns: Sequence[str], paths: TablePaths, line: str) -> Views:
    """Return where the images of a row are, by the columns; None where a field is empty.

    Raises
    ------
    DataError
        If all of them are empty; names the line.
    """
    # a file may be called by blanks alone; beside other columns, blanks are an empty field
    paths_of_row = [fields[name] if len(columns) == 1 or fields[name].strip() else "" for name in columns]
    if not any(paths_of_row):
        raise DataError(f"{line}: no {' and no '.join(columns)}")
    return tuple([paths.location(path, line) if path else None for path in paths_of_row])


def first_image(images: Views) -> str:
    """Return the first image that is there."""
    return next(location for location in images if location is not None)


def missing_views(images: Sequence[Views], columns: Sequence[str]) -> list[str]:
    """Return a note of how many samples lack which view; nothing where none does."""
    counts = {
        column: sum(views[number] is None for views in images if number < len(views))
        for number, column in enumerate(columns)
    }
    lacking = [f"{column} in {count:,}" for column, count in counts.items() if count]
    return [f"views that are missing, of {len(images):,} samples: {', '.join(lacking)}"] if lacking else []


def refuse_options(records: SourceRecords, options: DataConfig) -> None:
    """Refuse options of samples of several images for a source whose samples are what they are.

    Raises
    ------
    UsageError
        That names the option.
    """
    given = [name for name in ("images", "frames") if getattr(options, name)]
    if given and records.keys is not None:
        raise UsageError(f"`{given[0]}` is for folders and tables of files, and `data` is {options.data}")


class RowColumns(NamedTuple):
    """The columns of a table, as they are written, by which rows are of one sample; '' for none."""

    sample: str = ""
    frame: str = ""


def row_columns(table: TableFile, options: DataConfig, target_names: Sequence[str]) -> tuple[RowColumns, list[str]]:
    """Return the columns that join rows to samples, and in words why a column sample does not.

    Rows are joined where several have the same word in a column sample, unless `sample` says that each is on its own,
    or the column is what `group_column` names, or rows of one word have different targets.
    """
    sample, frame = (next((name for name in table.columns if name.lower() == wanted), "") for wanted in (SAMPLE, FRAME))
    if not sample or options.sample != "auto" or options.group_column == sample:
        return RowColumns(), []
    targets: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    rows: Counter[str] = Counter()
    for _, fields in table.rows():
        if word := fields[sample].strip():
            rows[word] += 1
            targets[word].add(tuple([fields[name].strip() for name in target_names]))
    if max(rows.values(), default=0) < 2:
        return RowColumns(), []
    if differing := [word for word, held in targets.items() if len(held) > 1]:
        reason = f"rows of one have different labels ({listed(differing, _NAMED)})"
        return RowColumns(), [f"the column {sample} does not join rows to samples, since {reason}"]
    return RowColumns(sample, frame), []


def join_rows(
    records: SourceRecords, samples: Sequence[str], frames: Sequence[str], options: DataConfig, columns: RowColumns
) -> SourceRecords:
    """Return the samples that rows are of, in the order of their first rows.

    Parameters
    ----------
    records : SourceRecords
        One for each row.
    samples, frames : sequence of str
        What each row says of its sample and its place; a row without a sample is one. Without places, images stand in
        the natural order of their names.
    columns : RowColumns
        Where that stood.

    Raises
    ------
    DataError
        If rows of one sample differ in target, split or group.
    """
    members: dict[str | int, list[int]] = defaultdict(list)
    for row, sample in enumerate(samples):
        members[sample or row].append(row)
    alike = {"label": records.targets, **records.target_columns, "split": records.splits, "group": records.groups}
    for name, column in alike.items():
        for word, rows in members.items():
            held = sorted({column[row] for row in rows}) if column else []
            if len(held) > 1:
                raise DataError(
                    f"the rows of sample {word} have different values of {name}: {listed(held, _NAMED)}. Mend them, or "
                    "say `sample` image, with which each row is a sample of its own"
                )
    images = records.images or [(location,) for location in records.locations]
    joined = [
        tuple([location for row in _in_order(rows, frames, records.locations) for location in images[row]])
        for rows in members.values()
    ]
    firsts = [rows[0] for rows in members.values()]
    differing = [
        name
        for name, column in records.extra.items()
        if name != columns.frame and any(column[row] != column[rows[0]] for rows in members.values() for row in rows)
    ]
    notes = [f"{len(records.locations):,} rows are {len(firsts):,} samples, by the column {columns.sample}"]
    notes[0] += f" and in the order of {columns.frame}" if columns.frame else ""
    notes[0] += "; `sample` image ends this"
    if differing:
        notes.append(f"what the first row of a sample says counts in the columns {listed(differing)}")
    selected = records.select(firsts)
    extra = {name: column for name, column in selected.extra.items() if name != columns.frame}
    return _with_images(replace(selected, extra=extra, notes=[*records.notes, *notes]), joined)


def _in_order(rows: Sequence[int], frames: Sequence[str], locations: Sequence[str]) -> list[int]:
    """Return the rows of a sample by their places, then by the names of their images.

    Places are numbers where all of them are, as times in seconds; else words in their natural order.
    """
    places: list[Any]
    try:
        places = [float(frames[row]) for row in rows]
    except ValueError:
        places = [natural_key(frames[row]) for row in rows]
    order = sorted(zip(places, (natural_key(locations[row]) for row in rows), rows, strict=True))
    return [row for _, _, row in order]


def join_folders(records: SourceRecords, options: DataConfig) -> SourceRecords:
    """Return the folders inside the classes as samples, where the options say that they are; else the images.

    An image that lies in a class folder itself is a sample, and so is a video wherever it lies.

    Raises
    ------
    UsageError
        If there are neither folders nor videos.
    """
    if options.sample != "folder" and options.frames is None:
        return records
    members: dict[str, list[int]] = defaultdict(list)
    subfolders = records.subfolders or [""] * len(records.locations)
    for row, (location, subfolder) in enumerate(zip(records.locations, subfolders, strict=True)):
        alone = not subfolder or is_video(location)
        members[location if alone else os.path.dirname(location)].append(row)  # noqa: PTH120 (a million times)
    if len(members) == len(records.locations) and not any(subfolders) and not any(map(is_video, records.locations)):
        raise UsageError(
            f"`data` {options.data}: `frames` and `sample` folder take the images in a folder inside a class for one "
            "sample, and in the classes are neither folders nor videos"
        )
    joined = [tuple(sorted((records.locations[row] for row in rows), key=natural_key)) for rows in members.values()]
    firsts = [rows[0] for rows in members.values()]
    above = [
        subfolders[row] if is_video(records.locations[row]) else subfolders[row].rpartition("/")[0] for row in firsts
    ]
    folders = sum(not is_video(path) for path in members)
    videos = len(members) - folders
    kinds = [f"{folders:,} folders"] * bool(folders) + [f"{videos:,} videos"] * bool(videos)
    note = f"samples are {' and '.join(kinds)} in the classes, of {len(records.locations) - videos:,} images"
    selected = records.select(firsts)
    selected = replace(selected, subfolders=above if any(above) else [], notes=[*records.notes, note])
    return _with_images(selected, joined)


def with_frames(records: SourceRecords, options: DataConfig, progress: Progress | None = None) -> SourceRecords:
    """Return the samples with their videos as frames, and of each at most as many images as `frames` says.

    They are evenly spaced over all that the sample has. A video that cannot be opened stays what it is, and is listed
    with its reason when it is read.

    Raises
    ------
    UsageError
        If each sample is one image.
    """
    if options.frames is None:
        return records
    images = records.images or [(location,) for location in records.locations]
    if not records.images and not any(map(is_video, records.locations)):
        raise UsageError("`frames` chooses among the images of a sample, and here each sample is one image")
    chosen: list[Views] = []
    fewer = 0
    for views in progress(images) if progress and any(is_video(first_image(views)) for views in images) else images:
        chosen.append(chosen_frames(views, options.frames))
        fewer += len(chosen[-1]) < options.frames
    notes = []
    if fewer:
        notes.append(
            f"{fewer:,} of {len(chosen):,} samples have fewer than {options.frames} images, and all of them count"
        )
    return _with_images(replace(records, notes=[*records.notes, *notes]), chosen)


def chosen_frames(views: Views, count: int | None) -> Views:
    """Return so many images of a sample, evenly spaced, with its videos as frames; all as they are without a number."""
    if count is None:
        return views
    all_frames = [frame for view in views if view is not None for frame in _frames_of(view)]
    return tuple([all_frames[number] for number in evenly_spaced(len(all_frames), count)])


def _frames_of(location: str) -> Sequence[str]:
    if not is_video(location):
        return [location]
    try:
        total = count_frames(location)
    except UnreadableImageError:
        return [location]
    return [frame_location(location, number) for number in range(total)]


def _with_images(records: SourceRecords, images: Sequence[Views]) -> SourceRecords:
    """Return the samples with these images; where each has one, as samples of one image."""
    locations = [first_image(views) for views in images]
    several = any(len(views) > 1 for views in images)
    return replace(records, locations=locations, images=list(images) if several else [])


class KeyedSamples(NamedTuple):
    """Samples whose images can be told from each other.

    Attributes
    ----------
    records : SourceRecords
        Those of which an image can be read.
    keys : list of str
        Of the samples: that of a single image, or the digest of those of all images, in order.
    images : list of tuple of ImageRef or None
    unreadable : list of (location, reason)
        Images that cannot be read.
    notes : list of str
    """

    records: SourceRecords
    keys: list[str]
    images: list[tuple[ImageRef | None, ...]]
    unreadable: list[tuple[str, str]]
    notes: list[str]


def key_samples(records: SourceRecords, memo: DigestCache, progress: Progress | None = None) -> KeyedSamples:
    """Return the samples of several images with the keys of all.

    Raises
    ------
    DataError
        If no image can be read.
    """
    locations = list(dict.fromkeys(view for views in records.images for view in views if view is not None))
    key_of, reasons = image_keys(locations, memo, progress)
    images = [
        tuple([None if view is None or view in reasons else ImageRef(view, key_of[view]) for view in views])
        for views in records.images
    ]
    readable = [index for index, views in enumerate(images) if any(views)]
    unreadable = [(location, reasons[location]) for location in locations if location in reasons]
    if not readable:
        raise DataError(f"none of the {len(unreadable)} files could be read; the first: {': '.join(unreadable[0])}")
    notes = unreadable_samples(records.images, images)
    images = [images[index] for index in readable]
    selected = records.select(readable)
    firsts = [next(image.location for image in views if image is not None) for views in images]
    selected = replace(selected, locations=firsts)
    selected, shared = joined_by_shared_images(selected, images)
    return KeyedSamples(selected, [key_of_sample(views) for views in images], images, unreadable, [*notes, *shared])


def image_keys(
    locations: Sequence[str], memo: DigestCache, progress: Progress | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the keys of files and of frames of videos, and the reasons why others have none."""
    file_of = {location: frame[0] if (frame := split_frame(location)) else location for location in locations}
    keys, reasons = memo.keys(list(dict.fromkeys(file_of.values())), progress)
    empty = key_of_bytes(b"")
    reasons |= {path: "the file is empty" for path, key in keys.items() if key == empty}
    known, unknown = {}, {}
    for location, path in file_of.items():
        if path in reasons:
            unknown[location] = reasons[path]
        else:
            frame = split_frame(location)
            known[location] = keys[path] if frame is None else key_of_frame(keys[path], frame[1])
    return known, unknown


def key_of_sample(images: Sequence[ImageRef | None]) -> str:
    """Return the key of a sample: that of its only image, or the digest of those of all images, in order."""
    if len(images) == 1 and images[0] is not None:
        return images[0].key
    return key_of_bytes(",".join("" if image is None else image.key for image in images).encode())


def unreadable_samples(views: Sequence[Views], images: Sequence[Sequence[ImageRef | None]]) -> list[str]:
    """Return notes of the samples that have fewer images than are named, and of those that have none.

    Parameters
    ----------
    views
        What is named.
    images
        What can be read of it.
    """
    named = [sum(view is not None for view in of_sample) for of_sample in views]
    there = [sum(image is not None for image in of_sample) for of_sample in images]
    lost = [first_image(of_sample) for of_sample, count in zip(views, there, strict=True) if not count]
    fewer = [
        first_image(of_sample) for of_sample, all_, count in zip(views, named, there, strict=True) if 0 < count < all_
    ]
    notes = []
    if fewer:
        notes.append(
            f"{len(fewer):,} samples have fewer images than are named, since some cannot be read: "
            f"{listed(fewer, _NAMED)}"
        )
    if lost:
        notes.append(f"{len(lost):,} samples without a readable image are left out: {listed(lost, _NAMED)}")
    return notes


def joined_by_shared_images(
    records: SourceRecords, images: Sequence[Sequence[ImageRef | None]]
) -> tuple[SourceRecords, list[str]]:
    """Return the samples with those that share an image in one group, and a note of them."""
    holders: dict[str, set[int]] = defaultdict(set)
    location_of: dict[str, str] = {}
    for index, of_sample in enumerate(images):
        for image in filter(None, of_sample):
            holders[image.key].add(index)
            location_of.setdefault(image.key, image.location)
    shared = {key: sorted(indices) for key, indices in holders.items() if len(indices) > 1}
    if not shared:
        return records, []
    groups = records.groups or [""] * len(images)
    node = {group: len(images) + number for number, group in enumerate(dict.fromkeys(filter(None, groups)))}
    edges = [(indices[0], other) for indices in shared.values() for other in indices[1:]]
    edges += [(index, node[group]) for index, group in enumerate(groups) if group]
    component = connected_groups(edges, len(images) + len(node))
    names: dict[int, str] = {}
    for key, indices in shared.items():
        number = int(component[indices[0]])
        # where nothing else says what such samples are of, it is the image that they share
        names[number] = min(names.get(number, location_of[key]), location_of[key])
    of_groups: dict[int, str] = {}
    for group, index in node.items():
        number = int(component[index])
        of_groups[number] = min(of_groups.get(number, group), group)
    names |= {number: group for number, group in of_groups.items() if number in names}
    new_groups = [names.get(int(component[index]), groups[index]) for index in range(len(images))]
    count = len({index for indices in shared.values() for index in indices})
    examples = listed([location_of[key] for key in shared], 3)
    note = f"{count:,} samples share images with others and stay with them in one split: {examples}"
    return replace(records, groups=new_groups), [note]
