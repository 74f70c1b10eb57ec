"""Outer folds: each sample is a test sample once, and is never trained on where it is one.

For data of which no test split can be spared, and for groups (sites, hospitals, cameras) of which each is to be
predicted by what never saw it. The folds depend on keys, targets, groups and the seed alone, as splits do; groups and
copies of an image stay whole. Nested cross-validation (Stone 1974, "Cross-validatory choice and assessment of
statistical predictions"; Varma and Simon 2006, "Bias in error estimation when using cross-validation for model
selection") chooses settings anew within the training part of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cache.errors import DataError, listed
from stages.config.data import EACH_GROUP, DataConfig
from stages.data.group_split import SplitUnit, stratified_group_split
from stages.data.manifest import Manifest
from stages.data.splits import Strata, require_groups, strata_of, torn_apart, units_of

FOLDS = 5
"""Outer folds where groups do not make them."""


@dataclass(frozen=True)
class OuterFold:
    """One part of the samples that is tested by what the others train.

    Attributes
    ----------
    name : str
        Its number from 1 on, or the group.
    manifest : Manifest
        All samples, with these as the test split; validation is taken out of the others.
    """

    name: str
    manifest: Manifest


def outer_folds(manifest: Manifest, options: DataConfig, seed: int) -> list[OuterFold]:
    """Return the folds of a manifest, whose own splits do not count.

    Parameters
    ----------
    manifest : Manifest
    options : DataConfig
        `test` says which folds: of all classes alike, or one for each group.
    seed : int

    Raises
    ------
    UsageError
        If groups are to be tested, and there are none, or one.
    DataError
        If there are too few samples for folds, or without one of them a class would not be trained.
    """
    strata = strata_of(manifest.task, manifest.targets, manifest.target_texts)
    kinds = manifest.strata or [""] * len(manifest)
    units = units_of(strata, manifest.keys, kinds, manifest.groups, seed)
    if options.test == EACH_GROUP:
        parts = _by_group(manifest, units)
    else:
        _require_enough(strata, units, grouped=any(manifest.groups))
        parts = {str(number): part for number, part in enumerate(_alike(units), 1)}
    return [_fold(name, keys, _left(units, keys, seed), manifest, strata, options) for name, keys in parts.items()]


def _alike(units: Sequence[SplitUnit]) -> list[set[str]]:
    """Return the keys of folds that each have their share of every class: one after the other, of what is left."""
    folds: list[set[str]] = []
    remaining = list(units)
    for number in range(FOLDS, 1, -1):
        folds.append(stratified_group_split(remaining, 1 / number, min_kept=number - 1))
        left = {image.key for unit in remaining for image in unit.images} - folds[-1]
        remaining = [kept for unit in remaining if (kept := unit.only(left))]
    return [*folds, {image.key for unit in remaining for image in unit.images}]


def _by_group(manifest: Manifest, units: Sequence[SplitUnit]) -> dict[str, set[str]]:
    """Return the keys of each group, by its name; groups that share an image are one, called by both names."""
    require_groups(manifest.groups, EACH_GROUP)
    if ungrouped := sum(not group for group in manifest.groups):
        raise DataError(
            f"`test` {EACH_GROUP}: {ungrouped:,} of the {len(manifest):,} samples are of no group, and none would test "
            "them; give them one, or leave them out"
        )
    names: dict[str, set[str]] = {}
    for key, group in zip(manifest.keys, manifest.groups, strict=True):
        names.setdefault(key, set()).add(group)
    parts = {}
    for unit in units:
        keys = {image.key for image in unit.images}
        parts[" + ".join(sorted(set().union(*(names[key] for key in keys))))] = keys
    if len(parts) < 2:
        raise DataError(f"`test` {EACH_GROUP}: all groups have images in common, and none would be left to train on")
    return dict(sorted(parts.items()))


def _require_enough(strata: Strata, units: Sequence[SplitUnit], *, grouped: bool) -> None:
    members = "groups" if grouped else "images"
    if len(units) < FOLDS:
        helps = f"`test` {EACH_GROUP} tests each of them" if grouped else "give more"
        raise DataError(f"`test` cv makes {FOLDS} folds, and there are {len(units)} {members}: {helps}")
    if strata.kind != "class":
        return
    counts = Counter(name for unit in units for name in unit.classes)
    if rare := [f"{counts[name]} of {name}" for name in strata.names if counts[name] < FOLDS]:
        raise DataError(
            f"`test` cv makes {FOLDS} folds, each with some of every class, and there are fewer {members}: "
            f"{listed(rare, separator='; ')}. Give more, or leave the class out"
        )


def _left(units: Sequence[SplitUnit], tested: set[str], seed: int) -> list[SplitUnit]:
    """Return the units that a fold leaves, for training and for validation; one group alone image by image."""
    left = [part for unit in units if (part := unit.only({image.key for image in unit.images} - tested))]
    return torn_apart(left[0], seed) if len(left) == 1 else left


def _fold(
    name: str, tested: set[str], left: Sequence[SplitUnit], manifest: Manifest, strata: Strata, options: DataConfig
) -> OuterFold:
    """Return the fold that tests these keys, and validates on some of the units that are left."""
    val = stratified_group_split(left, options.val_size, min_kept=1)
    splits = ["test" if key in tested else "val" if key in val else "train" for key in manifest.keys]
    if "val" not in splits or "train" not in splits:
        raise DataError(
            f"`test` {options.test}: without {name}, too few samples or groups are left to train and to validate"
        )
    if strata.kind == "class":
        trained = {label for label, split in zip(strata.of_samples, splits, strict=True) if split == "train"}
        if missing := [label for label in strata.names if label not in trained]:
            raise DataError(
                f"`test` {options.test}: without {name}, no training images of {listed(missing, separator='; ')} are "
                "left: leave the class out, or let that group be trained on with `test` group=ANOTHER"
            )
    return OuterFold(name, manifest.with_splits(splits))
