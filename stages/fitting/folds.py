"""Which rows settings are fitted on, and which they are scored on. The test split is in none of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from cache.errors import UsageError
from stages.config.heads import HeadConfig

FOLDS_UP_TO = 10_000
"""Samples up to which settings are cross-validated by default; above, the validation split is precise enough."""

Selection = slice | NDArray[np.int64]
"""Rows of train+validation: a slice, of which no copy is made, or their places."""


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
    labels: NDArray[np.int64],
    seed: int,
    groups: NDArray[np.int64] | None = None,
) -> CVPlan:
    """Return how settings are scored: stratified folds of train+validation, or the validation split.

    Parameters
    ----------
    train_size : int
        Rows of train, which stand before those of validation.
    labels : ndarray of int64 [n]
        Of train+validation.
    groups : ndarray of int64 [n], optional
        A group is never torn apart.

    Raises
    ------
    UsageError
        If more folds are asked for than the rarest class has samples, or groups.
    """
    rarest = int(np.bincount(labels)[np.unique(labels)].min())
    if groups is not None:
        rarest = min(rarest, *(len(np.unique(groups[labels == label])) for label in np.unique(labels)))
    members = "samples" if groups is None else "groups"
    if options.cv is not None and options.cv > rarest:
        raise UsageError(
            f"`cv` {options.cv}: the rarest class has {rarest} {members} in train+validation, fewer than folds; "
            f"ask for at most {rarest}, or for 0 to select on the validation split"
        )
    wanted = options.cv if options.cv is not None else (5 if len(labels) <= FOLDS_UP_TO else 0)
    folds = min(wanted, rarest)
    if folds < 2:
        return CVPlan(((slice(0, train_size), slice(train_size, len(labels))),), "validation split")
    pairs = stratified_folds(folds, labels, seed, groups)
    of_groups = "" if groups is None else " that keep groups together"
    return CVPlan(tuple(pairs), f"{folds}-fold cross-validation on train+val{of_groups}")


def stratified_folds(
    count: int, labels: NDArray[np.int64], seed: int, groups: NDArray[np.int64] | None = None
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return pairs of rows fitted on and rows left out, int64; each row is left out once, a group as a whole."""
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    return list(kind(count, shuffle=True, random_state=seed).split(labels, labels, groups))


def balanced_weights(labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return a weight for each row, float32 [n] with mean 1, that gives all classes the same sum."""
    counts = np.bincount(labels)
    present = np.count_nonzero(counts)
    return np.asarray(len(labels) / (present * counts[labels]), dtype=np.float32)
