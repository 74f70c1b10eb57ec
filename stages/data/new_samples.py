"""Labelled samples that a trained task is asked about: their targets are read as that task knows them, by name.

No split is made and no class is found here: what is predicted is settled, and every sample is one to be tested on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from cache import DigestCache
from cache.errors import DataError, UsageError, listed
from stages.config.data import DataConfig
from stages.data.manifest import Manifest, join_repeated, key_files, keys_of_targets, load_targets
from stages.data.masks.mask_classes import MaskClasses
from stages.data.sample import ImageRef
from stages.data.sources.groups import with_groups
from stages.data.sources.records import Progress, SourceRecords
from stages.data.sources.registry import list_samples
from stages.data.sources.sample_images import key_samples, refuse_options
from stages.data.sources.target_columns import with_target_columns
from stages.data.targets.columns import is_missing, truth_of
from stages.data.targets.registry import read_targets
from stages.tasks.base import Task
from stages.tasks.multi_label import SEPARATOR, UNKNOWN, MultiLabel


def load_new_samples(
    options: DataConfig,
    task: Task,
    memo: DigestCache | None = None,
    progress: Progress | None = None,
    *,
    split: str | None = None,
    leave_out_unknown: bool = False,
    mask_classes: MaskClasses | None = None,
) -> Manifest:
    """Return the samples that `options` name with the targets of a task, all of them in the split ``test``.

    Classes and labels are matched by their names. One that the samples lack is said in a note. Of labels in columns of
    their own, one without a column is not known of any sample, and one whose column has no 1 is absent from all.

    Parameters
    ----------
    options : DataConfig
        Its `task` is that of `task`; options of splits have no effect.
    task : Task
    memo, progress
        As for `load_manifest`.
    split : str, optional
        Take the samples of this split of the source alone.
    leave_out_unknown : bool
        Leave out samples whose target the task does not know, in place of refusing them.
    mask_classes : MaskClasses, optional
        Which classes masks hold for the task, where its targets are masks.

    Raises
    ------
    UsageError
        If there is no such data or split, or an option cannot be right.
    DataError
        If samples have no target, or one that the task does not know; names classes and counts.
    """
    memo = memo or DigestCache(None)
    records = list_samples(options, progress)
    refuse_options(records, options)
    source = with_target_columns(records, options)
    if source.unlabeled:
        raise DataError(f"{source.unlabeled}. Without labels there is nothing to evaluate by; `predict` needs none")
    source = replace(_of_split(source, split, options.data), mask_classes=mask_classes)
    absent, columnless = _labels_to_set_aside(source, task)
    read, reading = read_targets(_set_aside(source, absent), options)
    read = with_groups(_with_unknown_labels(read, absent, columnless), options)
    images: list[tuple[ImageRef | None, ...]] = []
    notes: list[str] = []
    if read.images:
        listing, keys, images, unreadable, notes = key_samples(read, memo, progress)
    else:
        listing, keys, unreadable = key_files(read, memo, progress)
    notes = [*listing.notes, *notes]
    if reading.join is not None:
        images_of = dict(zip(keys, images, strict=True)) if images else {}
        listing, keys, joined = join_repeated(listing, keys, reading.join)
        images = [images_of[key] for key in keys] if images else []
        notes += joined
    kept, left_out = _known(listing, task, options.data, leave_out=leave_out_unknown)
    listing = listing.select(kept)
    targets = load_targets(task, listing.targets)
    return Manifest(
        listing.locations,
        targets,
        ["test"] * len(kept),
        [keys[index] for index in kept],
        task,
        [*unreadable, *reading.unreadable],
        [*notes, *left_out, *_absent(task, listing), *([memo.note] if memo.note else [])],
        listing.groups,
        listing.strata if any(listing.strata) else [],
        listing.extra,
        [images[index] for index in kept] if images else [],
        reading.mask_classes,
        keys_of_targets(task, listing.targets, memo, progress),
        memo.asked_ns,
    )


def _of_split(records: SourceRecords, split: str | None, data: str) -> SourceRecords:
    """Return the samples of one split, or all whatever their splits, which is said."""
    counts = Counter(filter(None, records.splits))
    if split is None:
        if not counts:
            return records
        sizes = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        note = f"the splits of {data} ({sizes}) are all taken; `split` names one"
        return replace(records, notes=[*records.notes, note])
    if split not in counts:
        known = f"it has {', '.join(counts)}" if counts else "it has none"
        raise UsageError(f"`split` {split}: {data} has no such split; {known}")
    return records.select([index for index, name in enumerate(records.splits) if name == split])


def _labels_to_set_aside(records: SourceRecords, task: Task) -> tuple[list[str], list[str]]:
    """Return the labels whose columns have no 1, which a reader refuses to learn from, and those without a column.

    Raises
    ------
    DataError
        If no label has a 1.
    """
    columns = records.target_columns
    if not isinstance(task, MultiLabel) or len(columns) < 2:
        return [], []
    absent = [name for name, cells in columns.items() if not any(map(truth_of, cells))]
    if len(absent) == len(columns):
        raise DataError(f"no sample has any of the labels {listed(absent)}: there is nothing to evaluate by")
    return absent, [name for name in task.class_names if name not in columns]


def _set_aside(records: SourceRecords, names: Sequence[str]) -> SourceRecords:
    """Return the samples with columns of labels among the extra ones."""
    columns = records.target_columns
    return replace(
        records,
        target_columns={name: cells for name, cells in columns.items() if name not in names},
        extra={**records.extra, **{name: columns[name] for name in names}},
    )


def _with_unknown_labels(records: SourceRecords, absent: Sequence[str], columnless: Sequence[str]) -> SourceRecords:
    """Return the samples with the labels marked of which the table says nothing, and what was set aside left out."""
    texts = [
        [text, *(f"{UNKNOWN}{name}" for name in columnless)]
        + [f"{UNKNOWN}{name}" for name in absent if is_missing(records.extra[name][index])]
        for index, text in enumerate(records.targets)
    ]
    return replace(
        records,
        targets=[SEPARATOR.join(filter(None, words)) for words in texts],
        extra={name: column for name, column in records.extra.items() if name not in absent},
    )


def _known(records: SourceRecords, task: Task, data: str, *, leave_out: bool) -> tuple[list[int], list[str]]:
    """Return the samples whose targets the task knows, and a note of the others; DataError where these may not be."""
    if task.reads == "image":  # whose classes were compared when masks were surveyed
        return list(range(len(records.targets))), []
    counts = Counter(records.targets)
    reasons: dict[str, str] = {}
    for text in counts:
        try:
            task.load(text)
        except DataError as error:
            reasons[text] = str(error)
    if not reasons:
        return list(range(len(records.targets))), []
    samples = sum(counts[text] for text in reasons)
    said = listed([f"{text} ({counts[text]:,})" for text in reasons])
    if not leave_out:
        names = listed(getattr(task, "class_names", ()))
        raise DataError(
            f"{samples:,} samples of {data} have targets that the run does not know: {said}. "
            f"{next(iter(reasons.values()))}{f' The run knows {names}.' if names else ''} Names are matched to the "
            "letter: rename them, or say `unknown` leave-out to evaluate without these samples"
        )
    kept = [index for index, text in enumerate(records.targets) if text not in reasons]
    if not kept:
        raise DataError(f"no sample of {data} has a target that the run knows: {said}")
    return kept, [f"left out, since the run does not know their targets: {samples:,} samples, {said}"]


def _absent(task: Task, records: SourceRecords) -> list[str]:
    """Return a note of the classes or labels of a task that no sample has."""
    if task.reads == "image":
        return []
    names: tuple[str, ...] = getattr(task, "class_names", ())
    held = {word for text in set(records.targets) for word in (text, *(part.strip() for part in text.split(SEPARATOR)))}
    lacking = [name for name in names if name not in held]
    if not lacking:
        return []
    return [
        f"no sample is of {listed(lacking)}: what scores say of {'them' if len(lacking) > 1 else 'it'} alone is not "
        "defined here, and scores that average over classes are not those of the run's own test split"
    ]
