"""Train, validation and test: those a source gives are kept, missing ones are made.

A split that is made depends on the images' keys, their classes and the seed alone: not on where the files are, nor on
their order. All copies of an image go the same way.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cache.errors import DataError, UsageError
from stages.data.listing import SPLITS, Listing
from stages.options import Data

_NAMED = 10
"""Most files that a message names."""


@dataclass(frozen=True)
class _Image:
    """A distinct image: what all samples with its key have in common."""

    key: str
    label: str
    stratum: str
    place: bytes
    """Where it stands in the order of its class: a digest of seed and key."""


def check_shares(options: Data) -> None:
    """Raise UsageError unless the shares of validation and test lie between 0 and 1."""
    for name in ("val", "test"):
        share = getattr(options, name)
        if not 0 < share < 1:
            raise UsageError(f"--{name} {share} must lie between 0 and 1: it is a share of the samples")


def complete_splits(listing: Listing, keys: Sequence[str], options: Data, seed: int) -> tuple[list[str], list[str]]:
    """Return the split of each sample, and in words what was done.

    Parameters
    ----------
    listing : Listing
        Its splits are kept; those that are missing are made.
    keys : sequence of str
        The key of each sample.

    Raises
    ------
    DataError
        If an image stands in two of the given splits and `options` do not allow it, there is no training split, or a
        class has no training sample.
    """
    splits, notes = _given_splits(listing, keys, options)
    samples = _images(keys, listing.labels, listing.strata, seed)
    if "test" not in splits:
        test = _held_out(samples, options.test, left=2)
        splits = ["test" if key in test else "train" for key in keys]
        notes.append(f"test split made here: {options.test:.0%} of the images of each class (seed {seed})")
    if "val" not in splits:
        trained = {key for key, split in zip(keys, splits, strict=True) if split == "train"}
        val = _held_out([one for one in samples if one.key in trained], options.val, left=1)
        splits = ["val" if split == "train" and key in val else split for key, split in zip(keys, splits, strict=True)]
        notes.append(
            f"validation split made here: {options.val:.0%} of the training images of each class (seed {seed})"
        )
    _check_every_split(listing.labels, splits)
    return splits, [*notes, *_contradictions(listing, keys), *_classes_not_everywhere(listing.labels, splits)]


def _given_splits(listing: Listing, keys: Sequence[str], options: Data) -> tuple[list[str], list[str]]:
    """Return the given splits by the part they will play (all '' where none is given), and what was done in words."""
    present = [split for split in SPLITS if split in listing.splits]
    notes = _leakage(listing, keys, options)
    if present and "train" not in present:
        raise DataError(f"there is no training split, only {' and '.join(present)}; call one of the splits train")
    if present == ["train", "val"]:
        notes.append("the given validation split is used as the test split, and validation is taken out of train")
        return ["test" if split == "val" else split for split in listing.splits], notes
    return list(listing.splits), notes


def _images(keys: Sequence[str], labels: Sequence[str], strata: Sequence[str], seed: int) -> list[_Image]:
    """Return the distinct images. One with several labels or strata counts for the first by alphabet."""
    kinds: dict[str, tuple[str, str]] = {}
    for key, label, stratum in zip(keys, labels, strata, strict=True):
        kinds[key] = min(kinds.get(key, (label, stratum)), (label, stratum))
    return [
        _Image(key, label, stratum, hashlib.sha256(f"{seed} {key}".encode()).digest())
        for key, (label, stratum) in kinds.items()
    ]


def _held_out(images: Iterable[_Image], share: float, left: int) -> set[str]:
    """Return the keys of the images that are put aside: of each class a share, and of each of its strata about as much.

    At least one of a class is put aside, and at least `left` are not, as far as there are enough.
    """
    classes: dict[str, list[_Image]] = defaultdict(list)
    for image in images:
        classes[image.label].append(image)
    held_out: set[str] = set()
    for members in classes.values():
        most = len(members) - min(left, max(len(members) - 1, 1))
        count = min(max(round(share * len(members)), 1), most)
        held_out.update(image.key for image in _spread_over_strata(members)[:count])
    return held_out


def _spread_over_strata(members: Iterable[_Image]) -> list[_Image]:
    """Order images so that every beginning of the list has its share of each stratum.

    Image i of the n in a stratum, in the order of their digests, stands at (i + 1/2) / n of the list.
    """
    strata: dict[str, list[_Image]] = defaultdict(list)
    for image in sorted(members, key=lambda image: image.place):
        strata[image.stratum].append(image)
    placed = [((i + 0.5) / len(some), image.place, image) for some in strata.values() for i, image in enumerate(some)]
    return [image for *_, image in sorted(placed, key=lambda one: one[:2])]


def _leakage(listing: Listing, keys: Sequence[str], options: Data) -> list[str]:
    """Name the images that stand in several of the given splits; refuse them unless allowed."""
    leaked = _differing(listing.locations, keys, listing.splits)
    if not leaked:
        return []
    message = f"the same image is in two of the given splits ({len(leaked)}): {_some(leaked)}"
    if not options.allow_leakage:
        raise DataError(f"{message}. Remove them from one of the splits, or go on with --allow-leakage")
    return [f"{message}; allowed by --allow-leakage"]


def _contradictions(listing: Listing, keys: Sequence[str]) -> list[str]:
    contradicting = _differing(listing.locations, keys, listing.labels)
    return [f"the same image has two labels ({len(contradicting)}): {_some(contradicting)}"] if contradicting else []


def _differing(locations: Sequence[str], keys: Sequence[str], values: Sequence[str]) -> list[str]:
    """Return, for each key whose samples differ in `values`, its samples in words: ``a.jpg (cat) = b.jpg (dog)``."""
    by_key: dict[str, dict[str, str]] = defaultdict(dict)
    for location, key, value in zip(locations, keys, values, strict=True):
        by_key[key].setdefault(value, location)
    return [
        " = ".join(f"{location} ({value})" for value, location in sorted(samples.items()))
        for samples in by_key.values()
        if len(samples) > 1
    ]


def _some(items: Sequence[str]) -> str:
    more = f"; and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return "; ".join(items[:_NAMED]) + more


def _check_every_split(labels: Sequence[str], splits: Sequence[str]) -> None:
    trained = {label for label, split in zip(labels, splits, strict=True) if split == "train"}
    untrained = sorted(set(labels) - trained)
    if untrained:
        raise DataError(
            f"no training images of {', '.join(untrained[:_NAMED])}: move some there from the other splits, or leave "
            "the class out"
        )
    empty = [split for split in SPLITS if split not in splits]
    if empty:
        raise DataError(f"too few images to make a {' and a '.join(empty)} split: at least three of a class are needed")


def _classes_not_everywhere(labels: Sequence[str], splits: Sequence[str]) -> list[str]:
    found = set(zip(labels, splits, strict=True))
    absent = {split: sorted(label for label in set(labels) if (label, split) not in found) for split in SPLITS}
    return [f"no {split} image of class {_some(some)}" for split, some in absent.items() if some]
