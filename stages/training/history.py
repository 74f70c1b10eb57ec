"""What a training says of itself: sums over the samples of an epoch, one row for each epoch, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class RunningMetrics:
    """Sums over the samples trained on so far in an epoch.

    Attributes
    ----------
    terms : dict of str to float
        Each term of the loss, summed.
    correct : float
        Samples that were predicted right.
    count : int
        Samples.
    """

    terms: dict[str, float] = field(default_factory=dict)
    correct: float = 0.0
    count: int = 0

    def add(self, other: RunningMetrics) -> None:
        """Add the sums of other samples."""
        for name, value in other.terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value
        self.correct += other.correct
        self.count += other.count

    def means(self) -> dict[str, float]:
        """Return the mean of each term."""
        return {name: value / self.count for name, value in self.terms.items()}

    @property
    def loss(self) -> float:
        """The mean loss: all terms together."""
        return sum(self.terms.values()) / self.count

    @property
    def accuracy(self) -> float:
        """The share of samples predicted right, with the weights of the moment."""
        return self.correct / self.count


_ON_DISK = {"lr": "rate", "lrs": "rates"}
"""Fields of `Epoch` that have another name in files."""


@dataclass(frozen=True)
class Epoch:
    """One row of a history. Epoch 0 is the model as it came, before any step, with nothing to say of training.

    Attributes
    ----------
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
    train_accuracy: float | None
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float
    terms: Mapping[str, float] = field(default_factory=dict)
    lrs: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the row as checkpoints and ``result.json`` hold it: the rates are `rate` and `rates` there."""
        return {_ON_DISK.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Epoch:
        """Return a row that `to_json` made."""
        of_disk = {stored: name for name, stored in _ON_DISK.items()}
        return cls(**{of_disk.get(name, name): value for name, value in row.items()})

    def better_than(self, other: Epoch) -> bool:
        """Whether this epoch validates better: by accuracy, then by loss."""
        return (self.val_accuracy, -self.val_loss) > (other.val_accuracy, -other.val_loss)


@dataclass
class TrainResult:
    """What a training left: the history and the epoch whose weights the model now has."""

    history: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    resumed_from: int | None = None

    def add(self, epoch: Epoch) -> bool:
        """Add a row; return whether it is the best so far."""
        self.history.append(epoch)
        if self.best is None or epoch.better_than(self.best):
            self.best = epoch
        return self.best is epoch

    def idle(self) -> int:
        """Return the number of epochs since the lowest validation loss."""
        losses = [epoch.val_loss for epoch in self.history]
        return len(losses) - 1 - losses.index(min(losses))
