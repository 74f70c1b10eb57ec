"""Train, validation and test: those a source gives are kept, missing ones are made.

A split that is made depends on the images' keys, their strata, their groups and the seed alone: not on where the files
are, nor on their order. All copies of an image go the same way, and so do all images of a group. The strata are the
task's, which are the classes where there are any; within them a source may name strata of its own. Which images are put
aside is the business of ``stages.data.group_split``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Literal

from numpy.typing import NDArray

from cache.errors import DataError, UsageError, listed, suggestion
from stages.config.bounds import is_share, require
from stages.config.data import ONE_GROUP, SPLITS, DataConfig
from stages.data.group_split import Label, SplitUnit, split_units, stratified_group_split
from stages.data.sources.records import SourceRecords
from stages.tasks.base import Task

_NAMED = 10
"""Most files that a message names."""


def check_shares(options: DataConfig) -> None:
    """Raise UsageError unless the shares of validation and test lie between 0 and 1."""
    for name in ("val_size", "test_size"):
        require(name, getattr(options, name), "between 0 and 1: it is a share of the samples", is_share)


@dataclass(frozen=True)
class Strata:
    """Of what a share of the samples is put aside each.

    Attributes
    ----------
    of_samples : list of Label
        The stratum of each sample by its name; of several labels a tuple of those that it has.
    kind : "class", "label" or ""
        What the strata are to people: each is to be learned, and missed where no training sample has it. Parts of the
        range of a number, and what is there for the splits alone, are nothing to speak of.
    names : tuple of str
        Of the classes or labels.
    """

    of_samples: Sequence[Label]
    kind: Literal["class", "label", ""] = ""
    names: tuple[str, ...] = ()

    @property
    def of_each(self) -> str:
        """After what a share is taken of."""
        return f" of each {self.kind}" if self.kind else ""


def strata_of(task: Task, targets: NDArray[Any], texts: Sequence[str]) -> Strata:
    """Return the task's strata of the samples; where classes are the strata, they are called as the classes.

    Parameters
    ----------
    task : Task
    targets : array [n, ...]
        As the task loaded them.
    texts : sequence of str
        The same targets as text: a stratum that is no class is called by the first, by alphabet, of those in it, so
        that its name does not depend on the order of the samples. All names are '' where the task has no strata.
    """
    strata = task.strata(targets)
    if strata is None:
        return Strata([""] * len(texts))
    class_names: tuple[str, ...] = getattr(task, "class_names", ())
    if strata.ndim > 1:
        return Strata([tuple(compress(class_names, row)) for row in strata.tolist()], "label", class_names)
    numbers = strata.tolist()
    names: dict[int, str] = {}
    for number, text in set(zip(numbers, texts, strict=True)):
        names[number] = min(names.get(number, text), text)
    return Strata([names[number] for number in numbers], "class" if class_names else "", class_names)


def make_missing_splits(
    listing: SourceRecords, keys: Sequence[str], strata: Strata, options: DataConfig, seed: int
) -> tuple[list[str], list[str]]:
    """Return the split of each sample, and in words what was done.

    Parameters
    ----------
    listing : SourceRecords
        Its splits are kept; those that are missing are made.
    keys : sequence of str
        The key of each sample.
    strata : Strata
        Those of the task, see `strata_of`. Of each a share is put aside.

    Raises
    ------
    DataError
        If an image or a group stands in two of the given splits and `options` do not allow it, there is no training
        split, or a class or a label has no training sample.
    """
    splits, notes = _given_splits(listing, keys, options)
    grouped, unit = any(listing.groups), "samples" if listing.images else "images"
    units = units_of(strata, keys, listing.strata, listing.groups, seed)
    wanted: tuple[str, ...] = SPLITS
    if options.test is not None and "test" in splits:
        raise UsageError(
            f"`test` {options.test}: the data has a test split of its own; leave the option out, or give the data "
            "without splits"
        )
    if options.tests_each_sample:
        splits, wanted = ["train"] * len(keys), ("train", "val")
    elif options.test is not None:
        test = _of_group(options.test, listing, keys, units)
        splits = ["test" if key in test else "train" for key in keys]
        notes.append(f"test split: {sum(split == 'test' for split in splits):,} samples, as `test` {options.test} says")
    elif "test" not in splits:
        test = stratified_group_split(units, options.test_size, min_kept=2)
        splits = ["test" if key in test else "train" for key in keys]
        share = _share_text(options.test_size, len(test), len(set(keys)), unit, strata.of_each, grouped=grouped)
        notes.append(f"test split made here: {share} (seed {seed})")
    if "val" not in splits:
        trained = {key for key, split in zip(keys, splits, strict=True) if split == "train"}
        val_units = [part for unit in units if (part := unit.only(trained))]
        if options.test is not None and len(val_units) == 1 and grouped:
            val_units, grouped = torn_apart(val_units[0], seed), False
            notes.append("one group is left to train on: validation images are of that group too")
        val = stratified_group_split(val_units, options.val_size, min_kept=1)
        splits = ["val" if split == "train" and key in val else split for key, split in zip(keys, splits, strict=True)]
        share = _share_text(
            options.val_size, len(val), len(trained), f"training {unit}", strata.of_each, grouped=grouped
        )
        notes.append(f"validation split made here: {share} (seed {seed})")
    present = _present(strata, splits)
    _check_every_split(strata, present, splits, wanted, _ungroup(listing))
    notes += _conflicting_targets(listing, keys, strata)
    made = {split: present[split] for split in wanted}
    return splits, [*notes, *_not_everywhere(strata, made), *_without_negatives(strata, splits)]


def units_of(
    strata: Strata, keys: Sequence[str], kinds: Sequence[str], groups: Sequence[str], seed: int
) -> list[SplitUnit]:
    """Return what is put aside as a whole: an image, or all images of a group.

    Parameters
    ----------
    strata : Strata
        Those of the task.
    keys, kinds, groups : sequence of str
        Of each sample its key, the stratum that the source names, and its group; no groups, where there are none.
    seed : int
    """
    labels = strata.of_samples
    if not strata.kind and not any(groups):  # a share of each part, rounded, would not add up to the share of all
        labels, kinds = [""] * len(keys), [f"{part}\n{kind}" for part, kind in zip(labels, kinds, strict=True)]
    return split_units(keys, labels, kinds, groups, seed)


def torn_apart(unit: SplitUnit, seed: int) -> list[SplitUnit]:
    """Return the images of a unit as units of their own: of the one group that is left, some have to validate."""
    keys, labels, kinds = (list(column) for column in zip(*unit.images, strict=True))
    return split_units(keys, labels, kinds, [], seed)


def require_groups(groups: Sequence[str], option: str) -> None:
    """Refuse to test groups where there are none, or but one.

    Raises
    ------
    UsageError
        That names the `option` which asks for them.
    """
    names = sorted(set(filter(None, groups)))
    if not names:
        raise UsageError(
            f"`test` {option}: the samples have no groups. Say which belong together with `group_column` or `group_by`"
        )
    if len(names) == 1 and all(groups):
        raise UsageError(
            f"`test` {option}: all samples are of one group, {names[0]}, and none would be left to train on"
        )


def _of_group(option: str, listing: SourceRecords, keys: Sequence[str], units: Sequence[SplitUnit]) -> set[str]:
    """Return the keys of the images of the group that an option names, and of what belongs together with it."""
    require_groups(listing.groups, option)
    wanted, names = option.removeprefix(ONE_GROUP), sorted(set(filter(None, listing.groups)))
    if wanted not in names:
        raise UsageError(
            f"`test` {option}: there is no such group; there are {len(names)}: {listed(names, _NAMED)}."
            f"{suggestion(wanted, names)}"
        )
    of_group = {key for key, group in zip(keys, listing.groups, strict=True) if group == wanted}
    return {image.key for unit in units if any(image.key in of_group for image in unit.images) for image in unit.images}


def _given_splits(listing: SourceRecords, keys: Sequence[str], options: DataConfig) -> tuple[list[str], list[str]]:
    """Return the given splits by the part they will play (all '' where none is given), and what was done in words."""
    given = [split for split in SPLITS if split in listing.splits]
    notes = _leakage(listing, keys, options)
    if given and "train" not in given:
        raise DataError(f"there is no training split, only {' and '.join(given)}; call one of the splits train")
    if given == ["train", "val"]:
        notes.append("the given validation split is used as the test split, and validation is taken out of train")
        return ["test" if split == "val" else split for split in listing.splits], notes
    return list(listing.splits), notes


def _share_text(share: float, num_held: int, images: int, total: str, of_each: str, *, grouped: bool) -> str:
    """Return in words what was put aside; whole groups seldom are the share that was asked for."""
    if not grouped:
        return f"{share:.0%} of the {total}{of_each}"
    return f"{num_held / images:.0%} of the {total} in whole groups, {share:.0%} asked for"


def _leakage(listing: SourceRecords, keys: Sequence[str], options: DataConfig) -> list[str]:
    """Name the images and the groups that stand in several of the given splits; refuse them unless allowed."""
    images = list(_differing(listing.locations, keys, listing.splits).values())
    torn = _differing(listing.locations, listing.groups, listing.splits) if listing.groups else {}
    groups = [f"{group}: {samples}" for group, samples in torn.items()]
    messages = [
        f"the same {subject} is in two of the given splits ({len(leaked)}): {listed(leaked, _NAMED, '; ')}"
        for subject, leaked in (("image", images), ("group", groups))
        if leaked
    ]
    if messages and not options.allow_leakage:
        raise DataError(
            f"{'. Also, '.join(messages)}. Remove them from one of the splits, or go on with `allow_leakage`"
        )
    return [f"{message}; allowed by `allow_leakage`" for message in messages]


def _conflicting_targets(listing: SourceRecords, keys: Sequence[str], strata: Strata) -> list[str]:
    contradicting = list(_differing(listing.locations, keys, listing.targets).values())
    if not contradicting:
        return []
    what = "labels" if strata.kind else "values"
    way_out = "; if all of them hold, say `task` multi_label" if strata.kind == "class" else ""
    examples = listed(contradicting, _NAMED, "; ")
    return [f"the same image has two {what} ({len(contradicting)}): {examples}{way_out}"]


def _differing(locations: Sequence[str], names: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    """Return, for each name whose samples differ in `values`, one of each in words: ``a.jpg (cat) = b.jpg (dog)``.

    Names are keys, or groups; '' is none.
    """
    by_name: dict[str, dict[str, str]] = defaultdict(dict)
    for location, name, value in zip(locations, names, values, strict=True):
        if name:
            by_name[name].setdefault(value, location)
    return {
        name: " = ".join(f"{location} ({value})" for value, location in sorted(samples.items()))
        for name, samples in by_name.items()
        if len(samples) > 1
    }


def _present(strata: Strata, splits: Sequence[str]) -> dict[str, set[str]]:
    """Return which classes or labels each split has."""
    present: dict[str, set[str]] = {split: set() for split in SPLITS}
    if strata.kind:
        for stratum, split in set(zip(strata.of_samples, splits, strict=True)):
            present[split].update((stratum,) if isinstance(stratum, str) else stratum)
    return present


def _check_every_split(
    strata: Strata, present: dict[str, set[str]], splits: Sequence[str], wanted: Sequence[str], ungroup: str
) -> None:
    if untrained := sorted(set(strata.names) - present["train"]):
        of_what = "with the label " if strata.kind == "label" else "of "
        raise DataError(
            f"no training images {of_what}{', '.join(untrained[:_NAMED])}: move some there from the other splits, or "
            f"leave the {strata.kind} out{ungroup}"
        )
    empty_splits = [split for split in wanted if split not in splits]
    if empty_splits:
        grouped = bool(ungroup)
        of_one = f" of {'a' if not grouped else 'one'} {strata.kind}" if strata.kind else ""
        unit_name, needed = ("groups", f"three groups with images{of_one}") if grouped else ("images", f"three{of_one}")
        raise DataError(
            f"too few {unit_name} to make a {' and a '.join(empty_splits)} split: at least {needed} are needed{ungroup}"
        )


def _ungroup(listing: SourceRecords) -> str:
    """Say how groups are brought apart; nothing where there are none."""
    if not any(listing.groups):
        return ""
    shown = {location for views in listing.images for location in views}
    shared = [group for group in listing.groups if group in shown]  # such a group is called by the image it shares
    if not shared:
        return "; or let groups be torn apart with `group_by` none"
    image, samples = Counter(shared).most_common(1)[0]
    return (
        f"; samples that share an image are one group, {samples:,} of {len(listing.groups):,} by images as {image}: "
        "take shared images out, or leave the column that holds them out of `images`"
    )


def _not_everywhere(strata: Strata, present: dict[str, set[str]]) -> list[str]:
    words = {"class": "image of class", "label": "image with the label", "": ""}[strata.kind]
    unscored = "; it has no average precision and no area under the curve there" if strata.kind == "label" else ""
    missing = {split: sorted(set(strata.names) - names) for split, names in present.items()}
    return [
        f"no {split} {words} {listed(absent, _NAMED, '; ')}{unscored}" for split, absent in missing.items() if absent
    ]


def _without_negatives(strata: Strata, splits: Sequence[str]) -> list[str]:
    """Name the labels that all images of a split have; nothing where an image is of one class."""
    if strata.kind != "label":
        return []
    common: dict[str, set[str]] = {}
    for labels, split in set(zip(strata.of_samples, splits, strict=True)):
        common[split] = common.get(split, set(strata.names)).intersection(labels)
    return [
        f"all {split} images have the label {listed(sorted(common[split]), _NAMED, '; ')}; it has no area under the "
        "curve there"
        for split in SPLITS
        if common.get(split)
    ]
