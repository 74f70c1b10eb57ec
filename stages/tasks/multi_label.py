"""Any number of labels for each sample: a sigmoid each, binary cross-entropy, average precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cache.errors import DataError, UsageError, suggestion
from stages.tasks.averaging import LEAST_PROBABILITY, Activation
from stages.tasks.base import (
    Metric,
    Reduction,
    Statistics,
    TensorBatch,
    beside_primary,
    primary_metric,
    register_task,
    said_primary,
)
from stages.tasks.label_metrics import best_thresholds, label_metrics

SEPARATOR = "|"
"""Between the labels of a sample, as text."""

UNKNOWN = "?"
"""Before a label of which it is not known whether the sample has it."""

DEFAULT_THRESHOLD = 0.5


@register_task("multi_label")
class MultiLabel:
    """A sample has any number of labels, none included.

    Targets are float32 [labels]: 1 where the sample has the label, 0 where it has not, nan where that is not known; a
    batch of them is [b, labels]. Outputs are logits [b, labels]. A statistic is structured: ``probabilities``, float
    [labels], ``target``, float32 [labels], and ``predicted``, bool [labels], by the thresholds.

    Parameters
    ----------
    class_names : sequence of str
        The labels, in the order of their numbers.
    thresholds : sequence of float, optional
        The least probability of each label with which it is predicted; 0.5 if left out.
    primary : str, optional
        The metric that ranks, where it is not mAP.
    """

    name: str
    primary = "map_macro"
    outputs: Literal["logits", "values"] = "logits"
    activation: Activation = "sigmoid"
    calibrates = True
    reads: Literal["text", "image"] = "text"

    def __init__(
        self, class_names: Sequence[str], thresholds: Sequence[float] | None = None, primary: str | None = None
    ) -> None:
        self.class_names = tuple(class_names)
        self.thresholds = None if thresholds is None else tuple(float(threshold) for threshold in thresholds)
        self.out_features = len(self.class_names)
        self.metrics: Mapping[str, Metric] = label_metrics(self.class_names)
        if primary is not None:
            self.primary = primary_metric(self, primary).name
        self.shown: Sequence[str] = beside_primary(self, ("map_macro", "auc_macro", "f1_macro", "f1_micro"))
        self.columns: Sequence[str] = ("labels", "predicted", *(f"probability_{name}" for name in self.class_names))
        self.predicted_columns: Sequence[str] = ("labels", *self.columns[2:])
        self._numbers = {name: number for number, name in enumerate(self.class_names)}
        if len(self._numbers) < self.out_features:
            duplicates = sorted({name for name in self.class_names if self.class_names.count(name) > 1})
            raise DataError(f"each label needs a name of its own; {', '.join(duplicates)} is there more than once")
        unusable = [
            name for name in self.class_names if SEPARATOR in name or name[:1] in ("", UNKNOWN) or name != name.strip()
        ]
        if unusable:
            raise DataError(
                f"the name of a label holds no {SEPARATOR!r}, does not begin with {UNKNOWN!r}, and has no blanks round "
                f"it: {unusable[0]!r}"
            )
        if self.thresholds is not None and len(self.thresholds) != self.out_features:
            raise DataError(f"{len(self.thresholds)} thresholds are not those of {self.out_features} labels")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MultiLabel) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.name, self.class_names, self.thresholds, self.primary))

    def __reduce__(self) -> tuple[type[MultiLabel], tuple[tuple[str, ...], tuple[float, ...] | None, str]]:
        return type(self), (self.class_names, self.thresholds, self.primary)

    def load(self, raw: str) -> Tensor:
        """Return which labels a text names, float32 [labels]: ``a|b``, with ``?c`` for one that is not known.

        Raises
        ------
        DataError
            If there is no label of such a name.
        """
        target = torch.zeros(self.out_features)
        for word in filter(None, (part.strip() for part in raw.split(SEPARATOR))):
            name = word.removeprefix(UNKNOWN).strip()
            if name not in self._numbers:
                raise DataError(
                    f"{name!r} is none of the {self.out_features} labels.{suggestion(name, self.class_names)}"
                )
            number, value = self._numbers[name], float("nan") if word.startswith(UNKNOWN) else 1.0
            if target[number] and math.isnan(value) != math.isnan(target[number]):
                raise DataError(f"{raw!r} says of {name!r} that the sample has it, and that this is not known")
            target[number] = value
        return target

    def collate(self, targets: Sequence[Tensor]) -> Tensor:
        """Return float32 [b, labels]."""
        return torch.stack(list(targets))

    def loss(
        self,
        output: Tensor,
        target: TensorBatch,
        *,
        smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        reduction: Reduction = "sum",
    ) -> Tensor:
        """Return the binary cross-entropy of logits [b, labels], of each sample the mean over its known labels.

        A sample of which no label is known adds nothing. Label smoothing moves targets towards one half.
        """
        targets = _tensor(target).float()
        known = ~targets.isnan()
        targets = torch.where(known, targets, 0.0) * (1 - smoothing) + smoothing / 2
        losses = functional.binary_cross_entropy_with_logits(output.float(), targets, reduction="none")
        weights = known.float() if class_weights is None else known * class_weights
        losses = (losses * weights).sum(dim=1) / known.sum(dim=1).clamp_min(1)
        return losses if reduction == "none" else losses.sum()

    def mean_loss(self, output: NDArray[np.float64], target: NDArray[np.floating]) -> float:
        """Return the mean binary cross-entropy of logits [n, labels] in float64."""
        known = ~np.isnan(target)
        losses = np.logaddexp(0, output) - np.where(known, target, 0) * output
        counts = known.sum(axis=1)
        return float(((losses * known).sum(axis=1) / np.maximum(counts, 1)).mean())

    def activate(self, output: Tensor, shapes: Sequence[tuple[int, ...]] | None = None) -> Tensor:
        """Return probabilities, float32 [b, labels]."""
        return output.float().sigmoid()

    def predict(self, activated: TensorBatch) -> Tensor:
        """Return the labels that reach their thresholds, float32 [b, labels]."""
        probabilities = _tensor(activated)
        return (probabilities >= self._cutoffs.to(probabilities)).float()

    def values(self, activated: TensorBatch) -> NDArray[np.bool_]:
        """Return which labels reach their thresholds, bool [n, labels]."""
        return np.asarray(self.predict(activated).cpu().numpy() == 1)

    def decode(self, predicted: Tensor) -> str:
        """Return the names of labels, as `load` reads them."""
        values = predicted.tolist()
        return SEPARATOR.join(
            f"{UNKNOWN}{name}" if math.isnan(value) else name
            for name, value in zip(self.class_names, values, strict=True)
            if value
        )

    def soft_target(self, target: TensorBatch) -> Tensor:
        """Return the targets, float32 [b, labels]; what is not known stays nan, in whatever it is blended with."""
        return _tensor(target).float()

    def statistic(self, activated: TensorBatch, target: TensorBatch) -> Statistics:
        """Return probabilities, true labels and predicted ones, structured [b].

        Of a blended target the label is true that has at least half.

        Raises
        ------
        DataError
            If a probability is not finite.
        """
        probabilities = _tensor(activated).detach().cpu().numpy()
        targets = _tensor(target).detach().cpu().float().numpy()
        if probabilities.shape != (len(targets), self.out_features):
            raise ValueError(f"probabilities {probabilities.shape} are not those of {len(targets)} samples and labels")
        if not np.isfinite(probabilities).all():
            raise DataError("the predicted probabilities are not finite: the training diverged; try a lower rate")
        width = (self.out_features,)
        kinds = [
            ("probabilities", probabilities.dtype, width),
            ("target", np.float32, width),
            ("predicted", bool, width),
        ]
        statistics: Statistics = np.empty(len(targets), dtype=np.dtype(kinds))
        statistics["probabilities"] = probabilities
        statistics["target"] = np.where(np.isnan(targets), np.nan, targets >= 0.5)
        statistics["predicted"] = probabilities >= self._cutoffs.numpy()
        return statistics

    def answers(self, statistics: Statistics) -> NDArray[np.floating]:
        """Return the probabilities, [n, labels]."""
        return np.ascontiguousarray(statistics["probabilities"])

    def targets(self, statistics: Statistics) -> NDArray[np.float32]:
        """Return the true labels, float32 [n, labels]; nan where it is not known."""
        return np.ascontiguousarray(statistics["target"])

    def agreement(self, answers: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probability of what is true of each label, float64 [n, labels]; nan where that is not known."""
        probabilities = answers.astype(np.float64)
        return np.where(np.isnan(targets), np.nan, np.where(targets == 1, probabilities, 1 - probabilities))

    def agreement_loss(self, agreement: NDArray[Any]) -> NDArray[np.float64]:
        """Return the negative logarithms."""
        return np.asarray(-np.log(np.maximum(agreement, LEAST_PROBABILITY)))

    def guesses(self, known: Statistics, asked: Statistics) -> list[Statistics]:
        """Return the statistics of always saying how frequent each label is, by its threshold and with all labels."""
        shares = (known["target"] == 1).sum(axis=0) / np.maximum((~np.isnan(known["target"])).sum(axis=0), 1)
        guesses = []
        for predicted in (shares >= self._cutoffs.numpy(), True):
            guess = asked.copy()
            guess["probabilities"], guess["predicted"] = shares, predicted
            guesses.append(guess)
        return guesses

    def confusion(self, statistics: Statistics) -> None:
        """Return None: a sample has no one class that another could be taken for."""

    def labels(self, statistics: Statistics) -> NDArray[np.str_]:
        """Return the true labels of each sample in words."""
        return np.array([self.decode(torch.tensor(row)) for row in statistics["target"].tolist()], dtype=np.str_)

    def cells(self, statistic: Any) -> list[str]:
        """Return the true labels, the predicted ones, and the probability of each."""
        names = (self.decode(torch.from_numpy(np.asarray(statistic[field], np.float32))) for field in _LABELS)
        return [*names, *(f"{probability:.6g}" for probability in statistic["probabilities"])]

    def predicted_cells(self, activated: Tensor) -> list[str]:
        """Return the labels that reach their thresholds, and the probability of each."""
        labels = self.decode(self.predict(activated[None])[0])
        return [labels, *(f"{probability:.6f}" for probability in activated.tolist())]

    def predicted_words(self, activated: Tensor) -> str:
        """Return the labels that reach their thresholds, each with its probability."""
        predicted, probabilities = self.predict(activated[None])[0].tolist(), activated.tolist()
        labels = zip(self.class_names, predicted, probabilities, strict=True)
        words = ", ".join(f"{name} {probability:.3f}" for name, is_there, probability in labels if is_there)
        return words or "no label"

    def confidence(self, statistics: Statistics) -> NDArray[np.floating]:
        """Return the probability of the least certain of a sample's labels, to be as predicted by its threshold."""
        probabilities = statistics["probabilities"]
        return np.asarray(np.where(statistics["predicted"], probabilities, 1 - probabilities).min(axis=1))

    def strata(self, target: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which labels each sample has, bool [n, labels]: a stratum each, and a sample may be in several."""
        return np.asarray(target == 1)

    def weights(self, target: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return weights, float32 [n, labels], that give samples with a label and those without the same sum.

        Of each label the mean over the samples where it is known is 1; where it is not, the weight is 0. A label that
        all of them have, or none, keeps 1.
        """
        known = ~np.isnan(target)
        sides = [target == 1, known & (target != 1)]
        counts = [side.sum(axis=0) for side in sides]
        num_present = sum((count > 0).astype(np.int64) for count in counts)
        halves = [
            side * (known.sum(axis=0) / np.maximum(num_present * count, 1))
            for side, count in zip(sides, counts, strict=True)
        ]
        return np.asarray(halves[0] + halves[1], dtype=np.float32)

    def in_units(self, target: NDArray[Any]) -> NDArray[Any]:
        """Return the targets themselves."""
        return target

    def scaled_to(self, targets: NDArray[Any]) -> MultiLabel:
        """Return the task itself."""
        return self

    def calibrated(self, activated: TensorBatch, target: TensorBatch) -> MultiLabel:
        """Return the task with the thresholds that give each label its best F1 on these samples.

        They must be no test samples. A label without a positive keeps 0.5.
        """
        statistics = self.statistic(activated, target)
        thresholds = best_thresholds(statistics["target"], statistics["probabilities"])
        return type(self)(self.class_names, thresholds, self.primary)

    def uncalibrated(self) -> MultiLabel:
        """Return the task without thresholds, ranked by its own metric."""
        return type(self)(self.class_names)

    def with_primary(self, name: str) -> MultiLabel:
        """Return the task that is ranked by the metric of that name."""
        return type(self)(self.class_names, self.thresholds, name)

    def to_json(self) -> dict[str, Any]:
        """Return the names of the task and the labels; thresholds and metric if they are not the task's own."""
        thresholds = {} if self.thresholds is None else {"thresholds": list(self.thresholds)}
        return {"name": self.name, "class_names": list(self.class_names), **thresholds, **said_primary(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> MultiLabel:
        """Return the task that `to_json` wrote.

        Raises
        ------
        DataError
            If there are no names of labels, or the thresholds are no numbers.
        """
        names, thresholds = content.get("class_names"), content.get("thresholds")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise DataError("the task multi_label needs class_names, a list of words")
        if thresholds is not None and not (
            isinstance(thresholds, list) and all(isinstance(value, (int, float)) for value in thresholds)
        ):
            raise DataError("the thresholds of the task multi_label are a list of numbers")
        return cls(names, thresholds, content.get("primary"))

    @property
    def _cutoffs(self) -> Tensor:
        return torch.tensor(self.thresholds or [DEFAULT_THRESHOLD] * self.out_features, dtype=torch.float32)


_LABELS = ("target", "predicted")
"""Fields of a statistic that name labels."""


def _tensor(batch: TensorBatch) -> Tensor:
    if not isinstance(batch, Tensor):
        raise UsageError("labels of a batch are one tensor, not several")
    return batch
