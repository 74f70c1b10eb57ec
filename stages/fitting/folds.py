"""Which rows settings are fitted on, and which they are scored on. The test split is in none of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from cache.errors import UsageError
from stages.config.heads import HeadConfig
from stages.tasks.strata import multi_label_folds

FOLDS_UP_TO = 10_000
"""Samples up to which settings are cross-validated by default; above, the validation split is precise enough."""

REPEATED_BELOW, REPEATS = 300, 5
"""Samples below which rows are divided into folds several times: one division of so few is much of what decides."""

Selection = slice | NDArray[np.int64]
"""Rows of train+validation: a slice, of which no copy is made, or their places."""


def repeats(rows: int) -> int:
    """Return how often rows are divided into folds."""
    return REPEATS if rows < REPEATED_BELOW else 1


@dataclass(frozen=True)
class CVPlan:
    """How settings are scored.

    Attributes
    ----------
    splits : tuple of (rows fitted on, rows scored on)
        Among the rows of train, followed by those of validation.
    description : str
    """

    splits: tuple[tuple[Selection, Selection], ...]
    description: str

    @property
    def is_holdout(self) -> bool:
        """Whether train is fitted on and validation scored on, once."""
        return isinstance(self.splits[0][0], slice)


def make_cv(
    options: HeadConfig,
    train_size: int,
    size: int,
    strata: NDArray[Any] | None,
    seed: int,
    groups: NDArray[np.int64] | None = None,
    *,
    are_classes: bool = True,
) -> CVPlan:
    """Return how settings are scored: folds of train+validation, or the validation split.

    Parameters
    ----------
    train_size : int
        Rows of train, which stand before those of validation.
    size : int
        Rows of train+validation.
    strata : ndarray of int64 [n] or bool [n, strata], optional
        Of train+validation, as the task says: each fold has its share of every stratum.
    groups : ndarray of int64 [n], optional
        A group is never torn apart.
    are_classes : bool
        Whether numbered strata are classes, of which each fold has to hold some. Of parts of a range, the rare ones
        are joined with those beside them.

    Raises
    ------
    UsageError
        If more folds are asked for than the rarest class has samples, or groups; or than there are in all.
    """
    limits = are_classes and strata is not None and strata.ndim == 1
    fewest = _most_folds(size, strata if limits else None, groups)
    members = "samples" if groups is None else "groups"
    if options.cv is not None and options.cv > fewest:
        reason = f"the rarest class has {fewest} {members}" if limits else f"there are {fewest} {members}"
        most = f"at most {fewest}, or for " if fewest > 1 else ""
        raise UsageError(
            f"`cv` {options.cv}: {reason} in train+validation, fewer than folds; "
            f"ask for {most}0 to select on the validation split"
        )
    wanted = options.cv if options.cv is not None else (5 if size <= FOLDS_UP_TO else 0)
    folds = min(wanted, fewest)
    if folds < 2:
        return CVPlan(((slice(0, train_size), slice(train_size, size)),), "validation split")
    return _plan(folds, size, strata, seed, groups, are_classes=are_classes)


def divisions(
    folds: int,
    repeats: int,
    size: int,
    strata: NDArray[Any] | None,
    seed: int,
    groups: NDArray[np.int64] | None = None,
    *,
    are_classes: bool = True,
) -> tuple[CVPlan, ...]:
    """Return as many divisions of rows into folds, each of another seed; the first of `seed` itself.

    A class of fewer samples than folds is in some of them alone. There is none where a fold would be left without a
    row, or with rows of a single class to be fitted to. Parameters as in `make_cv`.
    """
    folds = min(folds, size if groups is None else len(np.unique(groups)))
    if folds < 2:
        return ()
    largest = size
    if strata is not None and strata.ndim == 1 and are_classes:
        largest = int(np.unique(strata, return_counts=True)[1].max())
    stratified = strata if largest >= folds else None
    seeds = [seed, *np.random.SeedSequence(seed).generate_state(repeats - 1).tolist()]
    with warnings.catch_warnings():  # of classes with few samples, which are meant to be in some folds alone
        warnings.simplefilter("ignore", UserWarning)
        plans = tuple(_plan(folds, size, stratified, one, groups, are_classes=are_classes) for one in seeds)
    pairs = [pair for plan in plans for pair in plan.splits]
    if any(not len(np.arange(size)[scored]) for _, scored in pairs):
        return ()
    if are_classes and strata is not None and strata.ndim == 1:
        return plans if all(len(np.unique(strata[fitted])) > 1 for fitted, _ in pairs) else ()
    return plans


def _plan(
    folds: int,
    size: int,
    strata: NDArray[Any] | None,
    seed: int,
    groups: NDArray[np.int64] | None,
    *,
    are_classes: bool,
) -> CVPlan:
    if strata is None:
        pairs = _plain_folds(folds, size, seed, groups)
    elif strata.ndim == 2:
        pairs = multi_label_folds(strata, folds, seed, groups)
    else:
        strata = strata if are_classes else _joined_with_neighbors(strata, folds)
        pairs = stratified_folds(folds, strata, seed, groups)
    group_note = "" if groups is None else " that keep groups together"
    return CVPlan(tuple(pairs), f"{folds}-fold cross-validation on train+val{group_note}")


def _most_folds(size: int, strata: NDArray[np.int64] | None, groups: NDArray[np.int64] | None) -> int:
    """Return how many folds there can be: samples, or groups, of the rarest stratum."""
    if strata is None:
        return size if groups is None else len(np.unique(groups))
    rarest = int(np.unique(strata, return_counts=True)[1].min())
    if groups is not None:
        rarest = min(rarest, *(len(np.unique(groups[strata == stratum])) for stratum in np.unique(strata)))
    return rarest


def _joined_with_neighbors(strata: NDArray[np.int64], fewest: int) -> NDArray[np.int64]:
    """Return strata of at least so many samples each, made of those that are side by side."""
    values, counts = np.unique(strata, return_counts=True)
    joined, number, size = np.zeros(len(values), dtype=np.int64), 0, 0
    for place, count in enumerate(counts):
        if size >= fewest:
            number, size = number + 1, 0
        joined[place], size = number, size + count
    if size < fewest:
        joined[joined == number] = max(number - 1, 0)
    return joined[np.searchsorted(values, strata)]


def stratified_folds(
    count: int, strata: NDArray[np.int64], seed: int, groups: NDArray[np.int64] | None = None
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return pairs of rows fitted on and rows left out, int64; each row is left out once, a group as a whole."""
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    return list(kind(count, shuffle=True, random_state=seed).split(strata, strata, groups))


def _plain_folds(
    count: int, size: int, seed: int, groups: NDArray[np.int64] | None
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return pairs as `stratified_folds` does, of rows that have no strata."""
    kind = KFold if groups is None else GroupKFold
    return list(kind(count, shuffle=True, random_state=seed).split(np.arange(size), groups=groups))
