"""Which networks' features say most of some samples' targets, by a quick cross-validated ridge head on each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import DataError
from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import head_probabilities, train_head
from stages.fitting.folds import stratified_folds
from stages.fitting.problem import FitProblem
from stages.tasks.base import Metric, Statistics, Task, find_metric
from stages.tasks.paired import compare
from stages.tasks.standard_error import standard_error
from stages.tasks.statistics import Difference
from stages.tasks.strata import multi_label_folds

FOLDS = 5
RESAMPLES = 1000

_FEWEST = 4
"""Candidates that are always left by the sieve, as far as there are so many."""

_HELD_OUT = 5
"""One of so many rows that are fitted stands as validation split, which ridge does not need."""


@dataclass(frozen=True)
class RankedBackbone:
    """A network and how good a ridge head on its features is.

    Attributes
    ----------
    name : str
    score : float
        The task's primary metric over all samples, each predicted by a head that was not fitted on it.
    standard_error : float
        Of the score, by the bootstrap over samples, or over their groups.
    behind : Difference
        The score less that of the best, with its 95 % interval: both on the same samples.
    """

    name: str
    score: float
    standard_error: float
    behind: Difference

    @property
    def is_tied(self) -> bool:
        """Whether these samples do not tell it from the best."""
        return self.behind.low <= 0 <= self.behind.high


@dataclass(frozen=True)
class CandidateCost:
    """What a candidate's features cost here, and what was seen of it before it was judged.

    Attributes
    ----------
    width : int
        Numbers in a row.
    images_per_second : float
        Of its extraction, reading the files too; as it was measured when the features were cached.
    evidence : float
        LogME.
    """

    width: int
    images_per_second: float
    evidence: float


@dataclass(frozen=True)
class Suggestion:
    """Networks in order, and which to take.

    Attributes
    ----------
    ranked : list of RankedBackbone
        Best first.
    costs : dict
        Of these, and of those that the sieve took out.
    sieved_out : list of str
        Candidates that LogME on a third of the images left behind.
    failed : dict
        Candidates that could not be looked at, with the reasons.
    images, all_images : int
        How many were looked at, and how many the data hold.
    metric : Metric
    """

    ranked: list[RankedBackbone]
    costs: dict[str, CandidateCost]
    sieved_out: list[str]
    failed: dict[str, str]
    images: int
    all_images: int
    metric: Metric

    @property
    def tied(self) -> list[RankedBackbone]:
        """The best, and those that these images do not tell from it."""
        return [entry for entry in self.ranked if entry.is_tied]

    @property
    def recommended(self) -> RankedBackbone:
        """The quickest of these."""
        return max(self.tied, key=lambda entry: self.costs[entry.name].images_per_second)


def survivors(evidence: Mapping[str, float]) -> list[str]:
    """Return the better half of candidates by their evidence, at least four, in the order they were given."""
    count = max((len(evidence) + 1) // 2, min(len(evidence), _FEWEST))
    best = sorted(evidence, key=lambda name: -evidence[name])[:count]
    return [name for name in evidence if name in best]


def cross_validated(rows: FeatureRows, task: Task, seed: int, device: torch.device) -> Statistics:
    """Return what the task keeps of each row, [n], as predicted by a ridge head that was fitted without it.

    The head's penalty and scaling are chosen within the rows it is fitted on.

    Raises
    ------
    DataError
        If there are too few samples, or groups, for folds, or what is fitted holds a single class.
    """
    activated: NDArray[np.float32] | None = None
    for fitted, left_out in _folds(rows, task, seed):
        cut = len(fitted) - max(len(fitted) // _HELD_OUT, 1)
        train, val = (_select(rows, part) for part in (fitted[:cut], fitted[cut:]))
        head = train_head("ridge", FitProblem(train, val, task, HeadConfig(), seed, device))
        outputs = head_probabilities(head.module, rows.features[left_out], task)
        if activated is None:
            activated = np.empty((len(rows), *outputs.shape[1:]), dtype=outputs.dtype)
        activated[left_out] = outputs
    assert activated is not None
    return task.statistic(torch.from_numpy(activated), torch.from_numpy(rows.labels))


def rank_backbones(
    statistics: Mapping[str, Statistics], task: Task, groups: NDArray[np.int64] | None = None
) -> list[RankedBackbone]:
    """Return the networks, best first, with how sure their order is.

    Parameters
    ----------
    statistics : mapping of str to array [n, ...]
        What `cross_validated` returns of the same samples, for each network.
    task : Task
    groups : int64 [n], optional
    """
    metric = find_metric(task)
    scores = {name: metric.score(kept) for name, kept in statistics.items()}
    order = sorted(scores, key=lambda name: -scores[name] if metric.higher_is_better else scores[name])
    best = statistics[order[0]]
    ranked = []
    for name in order:
        behind = compare(metric, statistics[name], best, groups, resamples=RESAMPLES).difference
        error = standard_error(metric, statistics[name], groups)
        ranked.append(RankedBackbone(name, scores[name], error, behind))
    return ranked


def _folds(rows: FeatureRows, task: Task, seed: int) -> Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return pairs of rows fitted on and rows left out; rows that are fitted come in a random order."""
    strata: NDArray[Any] | None = task.strata(rows.labels)
    units = len(rows) if rows.groups is None else len(np.unique(rows.groups))
    if strata is None:
        strata = np.zeros(len(rows), dtype=np.int64)
    several = strata.ndim == 2
    count = min(FOLDS, units) if several else min(FOLDS, units, int(np.unique(strata, return_counts=True)[1].max()))
    if count < 2:
        raise DataError(f"{len(rows)} images of {units} groups are too few to compare networks on")
    if several:
        pairs = multi_label_folds(strata, count, seed, rows.groups)
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
            pairs = stratified_folds(count, strata, seed, rows.groups)
    generator = np.random.default_rng(seed)
    return [(generator.permutation(fitted), left_out) for fitted, left_out in pairs]


def _select(rows: FeatureRows, indices: NDArray[np.int64]) -> FeatureRows:
    groups = None if rows.groups is None else rows.groups[indices]
    return FeatureRows(rows.features[indices], rows.labels[indices], groups=groups)
