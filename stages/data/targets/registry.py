"""What reads the targets of which task, and which task is meant where nobody names one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from cache.errors import UsageError
from cache.registry import Registration
from stages.config.data import AUTO, DataConfig
from stages.config.registry import TARGETS
from stages.data.masks.mask_classes import MaskClasses
from stages.data.sources.records import SourceRecords
from stages.data.sources.target_columns import LABEL, NUMBER
from stages.data.targets.columns import TargetColumns
from stages.tasks.base import Task
from stages.tasks.single_label import SingleLabel


@dataclass(frozen=True)
class Reading:
    """The targets of the samples of a source, as a task reads them.

    Attributes
    ----------
    texts : list of str
        The target of each sample.
    make_task : callable
        From the texts of the samples that take part to the task.
    class_names : tuple of str
        The classes, where a sample is of one; else none.
    join : callable, optional
        From all texts that are said of one image to what holds of it; without it, each is a sample of its own.
    left_out : list of int
        Samples that say nothing of a target.
    notes : list of str
        What was found and left out, in words.
    mask_classes : MaskClasses or None
        Which values in masks stand for which class, where targets are masks.
    unreadable : list of (location, reason)
        Images that are left out since what holds their target cannot be read.
    of_splits : callable, optional
        From the texts and the splits of the samples that take part to what there is to say of the targets of each
        split, in words.
    """

    texts: list[str]
    make_task: Callable[[Sequence[str]], Task]
    class_names: tuple[str, ...] = ()
    join: Callable[[Sequence[str]], str] | None = None
    left_out: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mask_classes: MaskClasses | None = None
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    of_splits: Callable[[Sequence[str], Sequence[str]], list[str]] | None = None


class ReadTargets(Protocol):
    """What reads the targets of a task."""

    def __call__(self, columns: TargetColumns, options: DataConfig, /) -> Reading:
        """Return the targets of all samples.

        Raises
        ------
        UsageError, DataError
            If these columns hold no targets of the task; names rows.
        """
        ...


@dataclass(frozen=True)
class _Reader:
    read: ReadTargets
    recognizes: Callable[[TargetColumns, DataConfig], str] | None
    options: tuple[str, ...]


ReadT = TypeVar("ReadT", bound=ReadTargets)


def register_targets(
    task: str,
    *,
    help_text: str,
    recognizes: Callable[[TargetColumns, DataConfig], str] | None = None,
    options: tuple[str, ...] = (),
) -> Callable[[ReadT], ReadT]:
    """Make a function what reads the targets of a task.

    A file in this folder with such a function is all it takes, or a module that another package names under its entry
    points ``cutonce.target_readers``.

    Parameters
    ----------
    task
        The name of the task, as it is registered itself and as the option `task` takes it.
    help_text
        What the help of ``--task`` says of it, a literal: it is read without importing the file.
    recognizes
        Says, in words, by what columns that nobody named a task for are plainly targets of this one; '' where they are
        not. It may raise DataError where that has to be asked.
    options
        Names of the options that are for this task alone.

    Raises
    ------
    UsageError
        If another function reads them already.
    """

    def reader_of(read: ReadT) -> _Reader:
        return _Reader(read, recognizes, options)

    return TARGETS.decorator(Registration(task, help_text=help_text), reader_of)


def read_targets(records: SourceRecords, options: DataConfig) -> tuple[SourceRecords, Reading]:
    """Return the samples that have a target, with it as the task reads it, and what was read.

    Parameters
    ----------
    records : SourceRecords
        Of a source that says something of targets.
    options : DataConfig
        `task` names the task; with auto it is what the columns plainly are, else one class a sample.

    Raises
    ------
    UsageError
        If options are for another task.
    DataError
        If the columns hold no targets of the task, or it has to be asked what they are; names rows.
    """
    columns = TargetColumns(
        records.target_columns or {LABEL: records.targets},
        records.locations,
        records.lines,
        options.data,
        bool(records.target_columns),
        bool(options.target) or [*records.target_columns] == [NUMBER],
        records.class_names,
        records.class_table,
        records.mask_classes,
    )
    _, reading, found = read_columns(columns, options)
    kept = sorted(set(range(len(reading.texts))).difference(reading.left_out))
    texts = [reading.texts[index] for index in kept]
    chosen = records if len(kept) == len(records.locations) else records.select(kept)
    notes = [*records.notes, *found, *reading.notes]
    return replace(chosen, targets=texts, class_names=reading.class_names, notes=notes), reading


def read_columns(columns: TargetColumns, options: DataConfig) -> tuple[str, Reading, list[str]]:
    """Return the name of the task, what was read of its targets, and by what it was found, in words.

    Raises
    ------
    UsageError, DataError
        As `read_targets`.
    """
    name, found = _task_of(columns, options)
    reader: _Reader = TARGETS.get(name)
    readers: dict[str, _Reader] = dict(TARGETS.things())
    for other, other_reader in readers.items():
        for option in other_reader.options:
            if other != name and getattr(options, option):
                raise UsageError(f"`{option}` is for `task` {other}, and this is {name}")
    return name, reader.read(columns, options), found


def _task_of(columns: TargetColumns, options: DataConfig) -> tuple[str, list[str]]:
    """Return the name of the task, and by what it was found, in words."""
    if options.task != AUTO:
        return options.task, []
    for name, reader in TARGETS.things().items():
        if reader.recognizes is not None and (reason := reader.recognizes(columns, options)):
            return name, [f"the task is {name}: {reason}"]
    return SingleLabel.name, []
