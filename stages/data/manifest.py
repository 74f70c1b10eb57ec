"""The manifest: the ordered table of samples with their targets, splits and keys.

Targets and splits live here and never in the cache, so relabelling and re-splitting cost no forward pass. The table is
kept by columns, of which a million samples take a few hundred megabytes; a row of it is a `Sample`.
"""

from __future__ import annotations

import csv
import json
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray

from cache import DigestCache, key_of_bytes
from cache.atomic_write import atomic_path, write_atomically
from cache.errors import DataError, listed
from stages.config.data import SPLITS, DataConfig
from stages.data.masks.mask_classes import MaskClasses
from stages.data.sample import ImageRef, Sample
from stages.data.sources.groups import with_groups
from stages.data.sources.manifest_table import KEY, TARGET_KEY, load_images, save_images
from stages.data.sources.records import Progress, SourceRecords
from stages.data.sources.registry import list_samples
from stages.data.sources.sample_images import image_keys, key_samples, refuse_options
from stages.data.sources.target_columns import with_target_columns
from stages.data.splits import check_shares, make_missing_splits, strata_of
from stages.data.targets.registry import Reading, read_targets
from stages.runtime.unicode_text import differing_in_capitals, look_alikes, told_apart
from stages.tasks.base import Task, task_from_json
from stages.tasks.single_label import SingleLabel

_HEADER = ["path", "label", "split", KEY]

_GROUP, _STRATUM = "group", "stratum"
"""Further columns, where samples have groups and where the source tells strata apart; then come the extra ones."""


class DistinctImages(NamedTuple):
    """Images, each once: where they are, and their keys."""

    locations: list[str]
    keys: list[str]


@dataclass(frozen=True, eq=False)
class Manifest:
    """The samples, column by column, in one order.

    Attributes
    ----------
    locations : list of str
        Where each image is: what `read_image` takes. Of a sample of several images, where the first is.
    targets : ndarray, shape [n, ...]
        What the task's `load` makes of each sample's target: the number of its class, int64, for one class a sample.
    splits : list of str
        'train', 'val' or 'test'.
    keys : list of str
        Identity of each image in the cache; of a sample of several images, the digest of all their identities.
    task : Task
        What is predicted; knows what the targets mean.
    unreadable : list of (location, reason)
        Files the source names that could not be read; they are not among the samples.
    notes : list of str
        What was done to get here, in words.
    groups : list of str
        What each sample is of (a patient, a product, a video), '' where it is on its own; no group is in two splits
        that were made here. Empty where the source names no groups.
    strata : list of str
        Kind of each sample among those of its target. Empty where the source names none.
    extra : dict of str to list of str
        What else the source says of each sample, by the name of the column.
    images : list of tuple of ImageRef or None
        The images of each sample, in their order, where samples have several; None is a view that is missing, or cannot
        be read. Empty where each sample has one image, at its location.
    mask_classes : MaskClasses or None
        Which values in masks stand for which class, where targets are masks; then `targets` has where they are, str
        [n].
    target_keys : list of str
        Digests of the files that hold the targets, where these are masks: one that was mended is another target. Else
        empty.
    keyed_ns : int
        When the images had these keys, in nanoseconds of the clock: what has changed since may have another. 0 where
        that is not known, as of a saved manifest.

    Raises
    ------
    DataError
        If an extra column is called as one of the manifest's own.
    """

    locations: list[str]
    targets: NDArray[Any]
    splits: list[str]
    keys: list[str]
    task: Task
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    strata: list[str] = field(default_factory=list)
    extra: dict[str, list[str]] = field(default_factory=dict)
    images: list[tuple[ImageRef | None, ...]] = field(default_factory=list)
    mask_classes: MaskClasses | None = None
    target_keys: list[str] = field(default_factory=list)
    keyed_ns: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        clashing = [name for name in (*_HEADER, _GROUP, _STRATUM) if name in self.extra]
        if clashing:
            raise DataError(
                f"a manifest has columns of its own called {', '.join(clashing)}: call the extra ones otherwise"
            )

    def __len__(self) -> int:
        return len(self.locations)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        """Return a sample as a record; a negative index counts from the end."""
        position = range(len(self))[operator.index(index)]
        return next(iter(self.select([position])))

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples, in order, as records."""
        blank = [""] * len(self)
        extra = zip(*self.extra.values(), strict=True) if self.extra else [()] * len(self)
        images = self.images or [(image,) for image in map(ImageRef, self.locations, self.keys)]
        known = (self.target_texts, self.splits, self.groups or blank, self.strata or blank)
        for views, target, split, group, stratum, values in zip(images, *known, extra, strict=True):
            there = tuple([image for image in views if image is not None])
            yield Sample(there, target, split, group, stratum, dict(zip(self.extra, values, strict=True)))

    def indices(self, split: str) -> NDArray[np.int64]:
        """Return the positions, int64, of the samples of a split, in order."""
        return np.flatnonzero(np.array(self.splits) == split)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Manifest:
        """Return the samples at `indices`, in that order; the task and notes stay."""
        return Manifest(
            [self.locations[index] for index in indices],
            self.targets[np.asarray(indices, dtype=np.int64)],
            [self.splits[index] for index in indices],
            [self.keys[index] for index in indices],
            self.task,
            self.unreadable,
            self.notes,
            [self.groups[index] for index in indices] if self.groups else [],
            [self.strata[index] for index in indices] if self.strata else [],
            {name: [column[index] for index in indices] for name, column in self.extra.items()},
            [self.images[index] for index in indices] if self.images else [],
            self.mask_classes,
            [self.target_keys[index] for index in indices] if self.target_keys else [],
            self.keyed_ns,
        )

    def with_splits(self, splits: Sequence[str]) -> Manifest:
        """Return the samples in other splits, the task scaled to those that are training samples there."""
        task = self.task.scaled_to(self.targets[[split == "train" for split in splits]])
        targets = self.targets if task == self.task else load_targets(task, self.target_texts)
        return replace(self, splits=list(splits), task=task, targets=targets)

    @property
    def distinct_images(self) -> DistinctImages:
        """Every image of the samples once, in the order in which they come first; what goes through the network."""
        if self.images:
            images = (image for views in self.images for image in views if image is not None)
            location_of = {image.key: image.location for image in images}
        else:
            location_of = dict(zip(self.keys, self.locations, strict=True))
        return DistinctImages(list(location_of.values()), list(location_of))

    def without_images(self, rejected: Container[str]) -> Manifest:
        """Return the samples without the images of these keys; without those, too, of which no image is left."""
        if not self.images:
            return self.select([index for index, key in enumerate(self.keys) if key not in rejected])
        images = [
            tuple([None if image is None or image.key in rejected else image for image in views])
            for views in self.images
        ]
        kept = [index for index, views in enumerate(images) if any(views)]
        return replace(self.select(kept), images=[images[index] for index in kept])

    def by_image(self) -> Manifest:
        """Return a row for each image, with what is known of its sample, which is its group where it has no other."""
        if not self.images:
            return self
        rows = [(index, image) for index, views in enumerate(self.images) for image in views if image is not None]
        images = replace(self.select([index for index, _ in rows]), images=[])
        groups = [group or f"sample {index + 1}" for index, group in enumerate(self.groups or [""] * len(self))]
        return replace(
            images,
            locations=[image.location for _, image in rows],
            keys=[image.key for _, image in rows],
            groups=[groups[index] for index, _ in rows],
        )

    @property
    def group_numbers(self) -> NDArray[np.int64] | None:
        """A number for each sample, int64 [n], the same within a group; None where there are no groups.

        A sample of no group has a number of its own.
        """
        if not any(self.groups):
            return None
        groups = (group or (index,) for index, group in enumerate(self.groups))
        numbers: dict[str | tuple[int], int] = {}
        return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers; none where the task has no classes."""
        names: tuple[str, ...] = getattr(self.task, "class_names", ())
        return names

    @property
    def target_texts(self) -> list[str]:
        """The target of each sample as text, [n], which the task's `load` reads; of a mask, where it is."""
        if self.task.reads == "image":
            texts_of_masks: list[str] = self.targets.tolist()
            return texts_of_masks
        # the task is asked once for each distinct target, of which there are few where they are classes
        values, numbers = np.unique(self.targets, axis=0 if self.targets.ndim > 1 else None, return_inverse=True)
        texts = [self.task.decode(torch.tensor(value)) for value in values]
        return [texts[number] for number in numbers.reshape(-1).tolist()]

    @property
    def target_identities(self) -> list[str]:
        """What two samples of the same target have in common, [n], wherever its file is: its text, or its digest."""
        return self.target_keys or self.target_texts

    @property
    def digest(self) -> str:
        """Of the samples, their targets and their splits, in whatever order and wherever they are: 32 hex digits."""
        rows = sorted(zip(self.keys, self.target_identities, self.splits, strict=True))
        return key_of_bytes(json.dumps(rows).encode("utf-8", "surrogateescape"))

    def summary(self) -> list[str]:
        """Return its size in words: samples, classes or labels if there are any, groups, and samples of each split."""
        counts = Counter(self.splits)
        sizes = [f"{split} {counts[split]:,}" for split in SPLITS]
        kind = "labels" if self.targets.ndim > 1 else "classes"
        classes = [f"{len(self.class_names)} {kind}"] if any(self.class_names) else []
        groups = [f"{len(set(filter(None, self.groups))):,} groups"] if self.groups else []
        there = sum(image is not None for views in self.images for image in views)
        count = f"{len(self):,} samples of {there:,} images" if self.images else f"{len(self):,} images"
        return [count, *classes, *groups, *sizes]

    def save(self, path: Path) -> None:
        """Write the samples as CSV and all else as JSON beside it, `path` with .json.

        The columns are path, label, split, key, then group and stratum where there are any, then the extra ones. The
        images of samples of several stand in a table of their own, `path` with .images.csv: sample, place, path, key.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        # surrogateescape: a file name need not be Unicode, and must come back as it was
        with (
            atomic_path(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            rows = csv.writer(file)
            further_columns = {
                name: column for name, column in ((_GROUP, self.groups), (_STRATUM, self.strata)) if column
            }
            further_columns |= {TARGET_KEY: self.target_keys} if self.target_keys else {}
            further_columns |= self.extra
            rows.writerow([*_HEADER, *further_columns])
            known = (self.locations, self.target_texts, self.splits, self.keys)
            rows.writerows(zip(*known, *further_columns.values(), strict=True))
        rest = {**_task_to_json(self.task), "unreadable": self.unreadable, "notes": self.notes}
        if self.mask_classes is not None:
            rest["mask_classes"] = self.mask_classes.to_json()
        if self.images:
            rest["images"] = [len(views) for views in self.images]
            save_images(path, self.images)
        write_atomically(path.with_suffix(".json"), (json.dumps(rest, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read what `save` wrote.

        Raises
        ------
        DataError
            If one of the two files is missing or was not written by `save`.
        """
        try:
            rest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            if not isinstance(rest, dict):
                raise TypeError(f"{path.with_suffix('.json')} is not a JSON object")
            with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                header, *rows = csv.reader(file)
            if header[: len(_HEADER)] != _HEADER:
                raise ValueError(f"its columns are {','.join(header)}, not {','.join(_HEADER)} and then others")
            task = _task_from_json(rest)
            columns = [list(column) for column in zip(header, *rows, strict=True)]
            extra = {column[0]: column[1:] for column in columns[len(_HEADER) :]}
            locations, texts, splits, keys = (column[1:] for column in columns[: len(_HEADER)])
            target_keys = extra.pop(TARGET_KEY, []) if task.reads == "image" else []
            return cls(
                locations,
                load_targets(task, texts),
                splits,
                keys,
                task,
                [(location, reason) for location, reason in rest["unreadable"]],
                list(rest["notes"]),
                extra.pop(_GROUP, []),
                extra.pop(_STRATUM, []),
                extra,
                load_images(path, rest["images"]) if "images" in rest else [],
                MaskClasses.from_json(rest["mask_classes"]) if "mask_classes" in rest else None,
                target_keys,
            )
        except OSError as error:
            raise DataError(f"the manifest {path} cannot be read: {error.filename}: {error.strerror}") from error
        except (ValueError, KeyError, IndexError, TypeError, csv.Error) as error:
            raise DataError(f"{path} is not a manifest written here: {error}") from error


def has_extra_columns(path: Path) -> bool:
    """Return whether a saved manifest has extra columns; its first line alone is read."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return not {*_HEADER, _GROUP, _STRATUM}.issuperset(next(csv.reader(file), []))


def load_targets(task: Task, texts: Sequence[str]) -> NDArray[Any]:
    """Return what the task makes of the targets of samples, [n, ...]; of masks, where they are.

    Raises
    ------
    DataError
        If a text is no target of the task.
    """
    if task.reads == "image":
        return np.array(texts, dtype=np.str_)  # masks are read when they are needed, by `MaskTargets`
    # the task is asked once for each distinct text, of which there are few where they are classes
    numbers: dict[str, int] = {}
    indices = np.fromiter((numbers.setdefault(text, len(numbers)) for text in texts), np.int64, len(texts))
    if not numbers:
        return np.empty(0, dtype=np.int64)
    return np.stack([task.load(text).numpy() for text in numbers])[indices]


def load_manifest(
    options: DataConfig,
    seed: int = 0,
    memo: DigestCache | None = None,
    progress: Progress | None = None,
    *,
    labels: bool = True,
) -> Manifest:
    """Return the manifest of the data that `options` name, with every split there.

    Parameters
    ----------
    options : DataConfig
    seed : int
        Of the splits that are made.
    memo : DigestCache, optional
        Remembers the keys of files between calls.
    progress : callable, optional
        Wraps what is iterated over slowly (tqdm does).
    labels : bool
        Whether targets and splits are needed. If not, images without them have one class without a name and are all
        training images, and so are those of a single class, and those that are too few for splits.

    Raises
    ------
    UsageError
        If there is no such data, or an option cannot be right.
    DataError
        If the data cannot be used as they are.
    """
    check_shares(options)
    memo = memo or DigestCache(None)
    records = list_samples(options, progress)
    refuse_options(records, options)
    source, reading = _with_targets(records, options, labels=labels)
    images: list[tuple[ImageRef | None, ...]] = []
    image_notes: list[str] = []
    if source.images:
        listing, keys, images, unreadable, image_notes = key_samples(source, memo, progress)
    else:
        listing, keys, unreadable = key_files(source, memo, progress)
    if len(listing.class_names) == 1 and labels:
        raise DataError(
            f"`data` {options.data} has one class only, {listing.class_names[0]!r}; at least two are needed"
        )
    if reading is not None:
        unreadable = [*unreadable, *reading.unreadable]
    notes = list(listing.notes)
    if reading is not None and reading.join is not None:
        images_of = dict(zip(keys, images, strict=True)) if images else {}
        listing, keys, joined = join_repeated(listing, keys, reading.join)
        images = [images_of[key] for key in keys] if images else []
        notes += joined
    task = reading.make_task(listing.targets) if reading is not None else SingleLabel(listing.class_names)
    held = set(listing.class_names)
    notes += [f"no image of class {name} can be read: left out" for name in source.class_names if name not in held]
    names: tuple[str, ...] = getattr(task, "class_names", ())
    shown, (one, several) = told_apart(names), ("class", "classes") if listing.class_names else ("label", "labels")
    notes += [
        f"{len(group)} {several} look the same, and are not: {', '.join(shown[index] for index in group)}; if they are "
        f"one {one}, give them one name"
        for group in look_alikes(names).values()
    ]
    notes += [
        f"{len(group)} {several} differ in capitals alone: {', '.join(group)}; if they are one {one}, give them one "
        "name"
        for group in differing_in_capitals(names)
    ]
    targets = load_targets(task, listing.targets)
    if len(listing.class_names) == 1:
        splits, made = ["train"] * len(keys), ["no labels: features alone can be extracted"] * bool(source.unlabeled)
    else:
        strata = strata_of(task, targets, listing.targets)
        try:
            splits, made = make_missing_splits(listing, keys, strata, options, seed)
        except DataError as error:
            if labels or any(listing.splits):
                raise
            splits, made = ["train"] * len(keys), [f"no splits were made: {error}"]
    if reading is not None and reading.of_splits is not None:
        made = [*made, *reading.of_splits(listing.targets, splits)]
    if labels:
        task = task.scaled_to(targets[[split == "train" for split in splits]])
        targets = load_targets(task, listing.targets)
    return Manifest(
        listing.locations,
        targets,
        splits,
        keys,
        task,
        unreadable,
        [*notes, *image_notes, *made, *([memo.note] if memo.note else [])],
        listing.groups,
        listing.strata if any(listing.strata) else [],
        listing.extra,
        images,
        None if reading is None else reading.mask_classes,
        keys_of_targets(task, listing.targets, memo, progress),
        memo.asked_ns,
    )


def keys_of_targets(task: Task, texts: Sequence[str], memo: DigestCache, progress: Progress | None = None) -> list[str]:
    """Return the digest of the file that holds each target; none where targets are text.

    Raises
    ------
    DataError
        If one is gone since it was looked at.
    """
    if task.reads != "image":
        return []
    keys, reasons = memo.keys(list(dict.fromkeys(texts)), progress)
    if reasons:
        raise DataError(f"masks cannot be read: {listed([f'{path} ({why})' for path, why in reasons.items()])}")
    return [keys[text] for text in texts]


def _with_targets(source: SourceRecords, options: DataConfig, *, labels: bool) -> tuple[SourceRecords, Reading | None]:
    """Return the samples with their targets, as the task reads them, and their groups; None where there are none."""
    source = with_target_columns(source, options)
    if source.unlabeled:
        if labels:
            raise DataError(f"{source.unlabeled}. Without labels, features can be extracted and nothing else")
        return source, None
    try:
        source, reading = read_targets(source, options)
    except DataError as error:
        if labels:
            raise
        blank = [""] * len(source.locations)
        return replace(source, targets=blank, class_names=("",), splits=blank, unlabeled=str(error)), None
    return with_groups(source, options), reading


def join_repeated(
    listing: SourceRecords, keys: Sequence[str], join: Callable[[Sequence[str]], str]
) -> tuple[SourceRecords, list[str], list[str]]:
    """Return each image once in its split and its group, with all that is said of it; the keys, and a note.

    In two splits it stays twice, which is refused or allowed later, and in two groups it joins both.
    """
    said: dict[str, list[str]] = defaultdict(list)
    for key, text in zip(keys, listing.targets, strict=True):
        said[key].append(text)
    texts = {key: join(texts) if len(texts) > 1 else texts[0] for key, texts in said.items()}
    groups = listing.groups or [""] * len(keys)
    first: dict[tuple[str, str, str], int] = {}
    for index, sample in enumerate(zip(keys, listing.splits, groups, strict=True)):
        first.setdefault(sample, index)
    places = list(first.values())
    keys = [keys[index] for index in places]
    notes = []
    if repeated := sum(len(texts) > 1 for texts in said.values()):
        notes.append(
            f"images that are there several times: {repeated:,}; each counts once, with the labels of all of them"
        )
    return replace(listing.select(places), targets=[texts[key] for key in keys]), keys, notes


def key_files(
    listing: SourceRecords, memo: DigestCache, progress: Progress | None
) -> tuple[SourceRecords, list[str], list[tuple[str, str]]]:
    """Return the samples that can be read, their keys, and (location, reason) of the others."""
    if listing.keys is not None:
        return listing, listing.keys, []
    keys, reasons = image_keys(listing.locations, memo, progress)
    readable = listing.select([index for index, location in enumerate(listing.locations) if location not in reasons])
    unreadable = [(location, reasons[location]) for location in dict.fromkeys(listing.locations) if location in reasons]
    if not readable.locations:
        raise DataError(f"none of the {len(unreadable)} files could be read; the first: {': '.join(unreadable[0])}")
    return readable, [keys[location] for location in readable.locations], unreadable


def _task_to_json(task: Task) -> dict[str, Any]:
    """Return what the file says of the task: of one class a sample no name, as when there was no other task."""
    content = task.to_json()
    if content["name"] != SingleLabel.name:
        return {"task": content}
    return {name: value for name, value in content.items() if name != "name"}


def _task_from_json(content: Mapping[str, Any]) -> Task:
    """Return the task that `_task_to_json` wrote."""
    return task_from_json(content.get("task", {**content, "name": SingleLabel.name}))
