"""The manifest: the ordered table of samples with their labels, splits and keys.

Labels and splits live here and never in the cache, so relabelling and re-splitting cost no forward pass.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache import DigestCache, key_of_bytes
from cache.atomic_write import atomic_path, write_atomically
from cache.errors import DataError
from stages.config.data import SPLITS, DataConfig
from stages.data.sources.records import Progress, SourceRecords
from stages.data.sources.registry import list_samples
from stages.data.splits import check_shares, make_missing_splits

_HEADER = ["path", "label", "split", "key"]
_GROUP = "group"
"""A fifth column, where samples have groups."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """The samples, column by column, in one order.

    Attributes
    ----------
    locations : list of str
        Where each image is: what `read_image` takes.
    labels : ndarray of int64, shape [n]
        Number of its class in `class_names`.
    splits : list of str
        'train', 'val' or 'test'.
    keys : list of str
        Identity of each image in the cache.
    class_names : tuple of str
    unreadable : list of (location, reason)
        Files the source names that could not be read; they are not among the samples.
    notes : list of str
        What was done to get here, in words.
    groups : list of str
        What each sample is of (a patient, a product, a video), '' where it is on its own; no group is in two splits
        that were made here. Empty where the source names no groups.
    """

    locations: list[str]
    labels: NDArray[np.int64]
    splits: list[str]
    keys: list[str]
    class_names: tuple[str, ...]
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.locations)

    def indices(self, split: str) -> NDArray[np.int64]:
        """Return the positions, int64, of the samples of a split, in order."""
        return np.flatnonzero(np.array(self.splits) == split)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Manifest:
        """Return the samples at `indices`, in that order; class names and notes stay."""
        return Manifest(
            [self.locations[index] for index in indices],
            self.labels[np.asarray(indices, dtype=np.int64)],
            [self.splits[index] for index in indices],
            [self.keys[index] for index in indices],
            self.class_names,
            self.unreadable,
            self.notes,
            [self.groups[index] for index in indices] if self.groups else [],
        )

    @property
    def group_numbers(self) -> NDArray[np.int64] | None:
        """A number for each sample, int64 [n], the same within a group; None where there are no groups.

        A sample of no group has a number of its own.
        """
        if not any(self.groups):
            return None
        own = (group or (index,) for index, group in enumerate(self.groups))
        numbers: dict[str | tuple[int], int] = {}
        return np.array([numbers.setdefault(group, len(numbers)) for group in own], dtype=np.int64)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Number of samples by split and class."""
        numbers = {
            split: np.bincount(self.labels[self.indices(split)], minlength=len(self.class_names)) for split in SPLITS
        }
        return {split: dict(zip(self.class_names, row.tolist(), strict=True)) for split, row in numbers.items()}

    def summary(self) -> list[str]:
        """Return its size in words: samples, classes, groups if there are any, and samples of each split."""
        counts = self.counts
        sizes = [f"{split} {sum(counts[split].values()):,}" for split in SPLITS]
        groups = [f"{len(set(filter(None, self.groups))):,} groups"] if self.groups else []
        return [f"{len(self):,} images", f"{len(self.class_names)} classes", *groups, *sizes]

    def save(self, path: Path) -> None:
        """Write the samples as CSV (path,label,split,key[,group]) and all else as JSON beside it, `path` with .json."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # surrogateescape: a file name need not be Unicode, and must come back as it was
        with (
            atomic_path(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            rows = csv.writer(file)
            rows.writerow([*_HEADER, _GROUP] if self.groups else _HEADER)
            labels = (self.class_names[label] for label in self.labels)
            groups = [self.groups] if self.groups else []
            rows.writerows(zip(self.locations, labels, self.splits, self.keys, *groups, strict=True))
        rest = {"class_names": self.class_names, "unreadable": self.unreadable, "notes": self.notes}
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
            with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                header, *rows = csv.reader(file)
            if header not in (_HEADER, [*_HEADER, _GROUP]):
                raise ValueError(f"its columns are {','.join(header)}, not {','.join(_HEADER)}")
            number = {name: index for index, name in enumerate(rest["class_names"])}
            columns = [list(column) for column in zip(header, *rows, strict=True)]
            locations, labels, splits, keys, *groups = (column[1:] for column in columns)
            return cls(
                locations,
                np.array([number[label] for label in labels], dtype=np.int64),
                splits,
                keys,
                tuple(number),
                [(location, reason) for location, reason in rest["unreadable"]],
                list(rest["notes"]),
                *groups,
            )
        except OSError as error:
            raise DataError(f"the manifest {path} cannot be read: {error.filename}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise DataError(f"{path} is not a manifest written here: {error}") from error


def load_manifest(
    options: DataConfig, seed: int = 0, memo: DigestCache | None = None, progress: Progress | None = None
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

    Raises
    ------
    UsageError
        If there is no such data, or an option cannot be right.
    DataError
        If the data cannot be used as they are.
    """
    check_shares(options)
    memo = memo or DigestCache(None)
    source = list_samples(options, progress)
    listing, keys, unreadable = _readable(source, memo, progress)
    if len(listing.class_names) == 1:
        raise DataError(
            f"`data` {options.data} has one class only, {listing.class_names[0]!r}; at least two are needed"
        )
    splits, notes = make_missing_splits(listing, keys, options, seed)
    number = {name: index for index, name in enumerate(listing.class_names)}
    lost = [f"no image of class {name} can be read: left out" for name in source.class_names if name not in number]
    return Manifest(
        listing.locations,
        np.array([number[label] for label in listing.labels], dtype=np.int64),
        splits,
        keys,
        listing.class_names,
        unreadable,
        [*listing.notes, *lost, *notes, *([memo.note] if memo.note else [])],
        listing.groups,
    )


def _readable(
    listing: SourceRecords, memo: DigestCache, progress: Progress | None
) -> tuple[SourceRecords, list[str], list[tuple[str, str]]]:
    """Return the samples that can be read, their keys, and (location, reason) of the others.

    Empty files cannot: they would all be the same image.
    """
    if listing.keys is not None:
        return listing, listing.keys, []
    keys, reasons = memo.keys(listing.locations, progress)
    nothing = key_of_bytes(b"")
    reasons |= {location: "the file is empty" for location, key in keys.items() if key == nothing}
    readable = listing.select([index for index, location in enumerate(listing.locations) if location not in reasons])
    unreadable = [(location, reasons[location]) for location in dict.fromkeys(listing.locations) if location in reasons]
    if not readable.locations:
        raise DataError(f"none of the {len(unreadable)} files could be read; the first: {': '.join(unreadable[0])}")
    return readable, [keys[location] for location in readable.locations], unreadable
