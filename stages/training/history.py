"""What a training says of itself: sums over the samples of an epoch, one row for each epoch, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from stages.tasks.base import Metric
from stages.tasks.running_score import score_of_sums


@dataclass
class RunningMetrics:
    """Sums over the samples trained on so far in an epoch.

    Attributes
    ----------
    terms : dict of str to float
        Each term of the loss, summed.
    score_sums : list of float
        What their statistics add up to, of which the task's primary metric is made: for a share of right predictions,
        their number. Empty where the metric is no function of sums.
    count : int
        Samples.
    """

    terms: dict[str, float] = field(default_factory=dict)
    score_sums: list[float] = field(default_factory=list)
    count: int = 0

    def add(self, other: RunningMetrics) -> None:
        """Add the sums of other samples."""
        for name, value in other.terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value
        before = self.score_sums or [0.0] * len(other.score_sums)
        self.score_sums = [sum(pair) for pair in zip(before, other.score_sums, strict=True)]
        self.count += other.count

    def means(self) -> dict[str, float]:
        """Return the mean of each term."""
        return {name: value / self.count for name, value in self.terms.items()}

    @property
    def loss(self) -> float:
        """The mean loss: all terms together."""
        return sum(self.terms.values()) / self.count

    def score(self, metric: Metric) -> float | None:
        """Return the metric, with the weights of each sample's moment; None where it is no function of sums."""
        return score_of_sums(metric, np.array(self.score_sums), self.count) if self.score_sums else None

    def to_json(self) -> dict[str, Any]:
        """Return the sums as checkpoints hold them."""
        return asdict(self)

    @classmethod
    def from_json(cls, sums: Mapping[str, Any]) -> RunningMetrics:
        """Return what `to_json` gave; in earlier checkpoints the one sum is called ``correct``."""
        score_sums = sums["score_sums"] if "score_sums" in sums else [sums["correct"]]
        return cls(sums["terms"], score_sums, sums["count"])


_ON_DISK = {"lr": "rate", "lrs": "rates"}
"""Fields of `Epoch` that have another name in files, which is the one that they have always had there."""

_SCORES = {"train_score": "train_", "val_score": "val_"}
"""Fields of `Epoch` that are called in files as the metric is, and what stands before its name."""

_METRIC_OF_OLD = "accuracy"
"""What files of before scores had the name of their metric call it, whichever it was."""


@dataclass(frozen=True)
class Epoch:
    """One row of a history. Epoch 0 is the model as it came, before any step, with nothing to say of training.

    Attributes
    ----------
    train_score, val_score : float
        The task's primary metric; None in training where it would take the statistics of all samples.
    lr : float
        The highest of all groups at the end of the epoch.
    seconds : float
    terms : mapping of str to float
        Mean of each term of the training loss: ``main``, ``auxiliary 1``, ..., ``l1``.
    lrs : mapping of str to float
        Rate of each block at the end of the epoch.
    """

    epoch: int
    train_loss: float | None
    train_score: float | None
    val_loss: float
    val_score: float
    lr: float
    seconds: float
    terms: Mapping[str, float] = field(default_factory=dict)
    lrs: Mapping[str, float] = field(default_factory=dict)

    def to_json(self, metric: str) -> dict[str, Any]:
        """Return the row as checkpoints and ``result.json`` hold it, its scores called by the name of their metric."""
        names = _ON_DISK | {name: f"{prefix}{metric}" for name, prefix in _SCORES.items()}
        return {names.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any], metric: str) -> Epoch:
        """Return a row that `to_json` made, or one of before scores had the name of their metric."""
        names = {f"{prefix}{known}": name for known in (_METRIC_OF_OLD, metric) for name, prefix in _SCORES.items()}
        names |= {stored: name for name, stored in _ON_DISK.items()}
        return cls(**{names.get(name, name): value for name, value in row.items()})


@dataclass(frozen=True)
class Validation:
    """How a model validates.

    Attributes
    ----------
    loss : float
        Mean over the samples.
    score : float
        The task's primary metric.
    selection : float
        By which the best epoch is chosen, the higher the better: the score, unless something else is asked for.
    """

    loss: float
    score: float
    selection: float


def validation_rank(selection: float, loss: float) -> tuple[float, float]:
    """Return what orders epochs, the best last: by what is selected by, of equals by loss; nan is below all others."""
    return (-math.inf if math.isnan(selection) else selection, -loss)


@dataclass
class TrainResult:
    """What a training left.

    Attributes
    ----------
    history : list of Epoch
    best : Epoch or None
        Whose weights the model now has.
    best_selection : float
        What the best epoch was chosen by.
    resumed_from : int or None
        The last epoch of the checkpoint that it went on from.
    rates : list of list of float
        With which rate each block trained in every step that was taken, in the order of the optimizer's groups; nan
        where it was frozen, and in steps before a checkpoint of a version that did not keep them.
    """

    history: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    best_selection: float = -math.inf
    resumed_from: int | None = None
    rates: list[list[float]] = field(default_factory=list)

    def add(self, epoch: Epoch, selection: float) -> bool:
        """Add a row; return whether it is the best so far, of which the first counts among equals."""
        self.history.append(epoch)
        rank = validation_rank(selection, epoch.val_loss)
        if self.best is None or rank > validation_rank(self.best_selection, self.best.val_loss):
            self.best, self.best_selection = epoch, selection
        return self.best is epoch

    def epochs_without_improvement(self) -> int:
        """Return the number of epochs since the lowest validation loss; 0 before there is one."""
        losses = [epoch.val_loss for epoch in self.history]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0
