"""What a source says of its samples, before keys are known and missing splits are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.data.masks.class_table import ClassTable
from stages.data.masks.mask_classes import MaskClasses

Progress = Callable[[Sequence[Any]], Iterable[Any]]
"""Wraps what is iterated over slowly, to show how far it is (tqdm does)."""

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What people call a split -> its name here."""


@dataclass(frozen=True)
class SourceRecords:
    """The samples of a source, column by column.

    Attributes
    ----------
    locations, targets : list of str
        Where each image is, and what is to be predicted for it, as text: the name of its class, or what else the task
        reads.
    class_names : tuple of str
        In the order of their numbers; none where a target is no class.
    splits : list of str
        'train', 'val' or 'test'; all empty where the source has no splits.
    strata : list of str
        Kind of sample within its class; splits that are made take the same share of each.
    keys : list of str or None
        Digests of the decoded pixels of sources without files; None where the locations are files.
    groups : list of str
        What each sample is of (a patient, a product, a video), '' where it is on its own; splits that are made keep a
        group whole. Empty where the source names none.
    extra : dict of str to list of str
        What else the source says of each sample, by the name of the column.
    subfolders : list of str
        The folders between a class folder and each image in it, with / between, '' for none. Empty where none has any.
    notes : list of str
        What was done or left out, in words.
    images : list of tuple of str or None
        Where all images of each sample are, in their order, of sources whose samples have several; None is a view that
        is missing. Then `locations` has the first that is there. Empty where each sample has one.
    target_columns : dict of str to list of str
        The columns of a table that say what is to be predicted, as they stand there, by their names. Empty where that
        is in no table.
    lines : list of int
        The line of each sample in its table. Empty where there is none.
    class_table : ClassTable or None
        What is said of the classes of masks, where targets are such and somebody has said it.
    mask_classes : MaskClasses or None
        Which classes masks hold, where that is settled already: by a model that they are to test.
    unlabeled : str
        Why no sample has a target, in words, where the source says none: all of `targets` are empty then. Such samples
        serve for their features alone.
    """

    locations: list[str]
    targets: list[str]
    class_names: tuple[str, ...]
    splits: list[str]
    strata: list[str]
    keys: list[str] | None = None
    groups: list[str] = field(default_factory=list)
    extra: dict[str, list[str]] = field(default_factory=dict)
    subfolders: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: list[tuple[str | None, ...]] = field(default_factory=list)
    target_columns: dict[str, list[str]] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)
    class_table: ClassTable | None = None
    mask_classes: MaskClasses | None = None
    unlabeled: str = ""

    def select(self, indices: Sequence[int]) -> SourceRecords:
        """Return the samples at `indices`, in that order, with the classes they have."""
        targets = [self.targets[index] for index in indices]
        present = set(targets)
        return SourceRecords(
            [self.locations[index] for index in indices],
            targets,
            tuple(name for name in self.class_names if name in present),
            [self.splits[index] for index in indices],
            [self.strata[index] for index in indices],
            None if self.keys is None else [self.keys[index] for index in indices],
            groups=[self.groups[index] for index in indices] if self.groups else [],
            extra=_chosen(self.extra, indices),
            subfolders=[self.subfolders[index] for index in indices] if self.subfolders else [],
            notes=self.notes,
            images=[self.images[index] for index in indices] if self.images else [],
            target_columns=_chosen(self.target_columns, indices),
            lines=[self.lines[index] for index in indices] if self.lines else [],
            class_table=self.class_table,
            mask_classes=self.mask_classes,
            unlabeled=self.unlabeled,
        )


def _chosen(columns: dict[str, list[str]], indices: Sequence[int]) -> dict[str, list[str]]:
    return {name: [column[index] for index in indices] for name, column in columns.items()}


def unlabeled_records(locations: Sequence[str], reason: str, notes: Sequence[str]) -> SourceRecords:
    """Return images of which nothing else is known, each once."""
    locations = list(dict.fromkeys(locations))
    blank = [""] * len(locations)
    return SourceRecords(locations, blank, ("",), blank, blank, notes=list(notes), unlabeled=reason)


def sort_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return each name once: numbers by value, before words by alphabet."""
    return tuple(sorted(set(names), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))
