"""One class for each sample: softmax, cross-entropy, accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cache.errors import DataError, suggestion
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
from stages.tasks.metrics import class_metrics


@register_task("single_label")
class SingleLabel:
    """A sample is of exactly one class.

    Targets are int64 scalars, a batch of them int64 [b]; mixed ones float [b, classes]. Outputs are logits
    [b, classes]. A statistic is structured: ``probabilities``, float [classes], and ``target``, int64.

    Parameters
    ----------
    class_names : sequence of str
        In the order of their numbers.
    primary : str, optional
        The metric that ranks, where it is not accuracy.
    """

    name: str
    primary = "accuracy"
    outputs: Literal["logits", "values"] = "logits"
    activation: Activation = "softmax"
    calibrates = False
    reads: Literal["text", "image"] = "text"

    def __init__(self, class_names: Sequence[str], primary: str | None = None) -> None:
        self.class_names = tuple(class_names)
        self.out_features = len(self.class_names)
        self.metrics: Mapping[str, Metric] = class_metrics(self.class_names)
        if primary is not None:
            self.primary = primary_metric(self, primary).name
        # the area of one class against the rest is little known, and takes as many passes as there are classes
        areas = ["auc_macro"] * (self.out_features == 2)
        self.shown: Sequence[str] = beside_primary(self, ("accuracy", "f1_macro", *areas, "log_loss"))
        self.columns: Sequence[str] = ("label", "predicted", *(f"probability_{name}" for name in self.class_names))
        self.predicted_columns: Sequence[str] = ("class", *self.columns[2:])
        self._numbers = {name: number for number, name in enumerate(self.class_names)}
        if len(self._numbers) < self.out_features:
            duplicates = sorted({name for name in self.class_names if self.class_names.count(name) > 1})
            raise DataError(f"each class needs a name of its own; {', '.join(duplicates)} is there more than once")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SingleLabel) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.name, self.class_names, self.primary))

    def __reduce__(self) -> tuple[type[SingleLabel], tuple[tuple[str, ...], str]]:
        # the metrics are closures, which other processes make for themselves
        return type(self), (self.class_names, self.primary)

    def load(self, raw: str) -> Tensor:
        """Return the number of the class of that name, an int64 scalar.

        Raises
        ------
        DataError
            If there is no such class.
        """
        if raw not in self._numbers:
            raise DataError(f"{raw!r} is none of the {self.out_features} classes.{suggestion(raw, self.class_names)}")
        return torch.tensor(self._numbers[raw])

    def collate(self, targets: Sequence[Tensor]) -> Tensor:
        """Return int64 [b]."""
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
        """Return the cross-entropy of logits [b, classes], summed over the samples or, with "none", of each.

        Label smoothing is that of Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision",
        section 7. Computed in float32 whatever the type of the logits.
        """
        return functional.cross_entropy(
            output.float(), _tensor(target), class_weights, reduction=reduction, label_smoothing=smoothing
        )

    def mean_loss(self, output: NDArray[np.float64], target: NDArray[np.int64]) -> float:
        """Return the mean cross-entropy of logits [n, classes], by SciPy: temperatures keep their last digits."""
        from scipy.special import log_softmax

        return -float(log_softmax(output, axis=1)[np.arange(len(target)), target].mean())

    def activate(self, output: Tensor, shapes: Sequence[tuple[int, ...]] | None = None) -> Tensor:
        """Return probabilities, float32 [b, classes]."""
        return output.float().softmax(dim=1)

    def predict(self, activated: TensorBatch) -> Tensor:
        """Return the most probable classes, int64 [b]."""
        return _tensor(activated).argmax(dim=1)

    def values(self, activated: TensorBatch) -> NDArray[np.int64]:
        """Return the numbers of the most probable classes, int64 [n]."""
        return np.asarray(self.predict(activated).cpu().numpy())

    def decode(self, predicted: Tensor) -> str:
        """Return the name of a class."""
        return self.class_names[int(predicted)]

    def soft_target(self, target: TensorBatch) -> Tensor:
        """Return one-hot targets, float32 [b, classes]."""
        classes = _tensor(target)
        shares = torch.zeros(len(classes), self.out_features, device=classes.device)
        return shares.scatter_(1, classes[:, None], 1.0)

    def statistic(self, activated: TensorBatch, target: TensorBatch) -> Statistics:
        """Return probabilities and true classes, structured [b]; the probabilities keep their type.

        Of a mixed target, float [classes], the class with the largest share is the true one.

        Raises
        ------
        DataError
            If a probability is not finite, or a target is none of the classes.
        """
        true = _tensor(target) if _tensor(target).ndim == 1 else _tensor(target).argmax(dim=1)
        probabilities, classes = (tensor.detach().cpu().numpy() for tensor in (_tensor(activated), true))
        if probabilities.shape != (len(classes), self.out_features):
            raise ValueError(f"probabilities {probabilities.shape} are not those of {len(classes)} samples and classes")
        if not np.isfinite(probabilities).all():
            raise DataError("the predicted probabilities are not finite: the training diverged; try a lower rate")
        if len(classes) and not 0 <= classes.min() <= classes.max() < self.out_features:
            raise DataError(f"there are targets outside the {self.out_features} classes")
        fields = [("probabilities", probabilities.dtype, (self.out_features,)), ("target", np.int64)]
        statistics: Statistics = np.empty(len(classes), dtype=np.dtype(fields))
        statistics["probabilities"], statistics["target"] = probabilities, classes
        return statistics

    def answers(self, statistics: Statistics) -> NDArray[np.floating]:
        """Return the probabilities, [n, classes]."""
        return np.ascontiguousarray(statistics["probabilities"])

    def targets(self, statistics: Statistics) -> NDArray[np.int64]:
        """Return the true classes, int64 [n]."""
        return np.ascontiguousarray(statistics["target"])

    def agreement(self, answers: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probability of the true class, float64 [n, 1]."""
        return answers[np.arange(len(targets)), targets, None].astype(np.float64)

    def agreement_loss(self, agreement: NDArray[Any]) -> NDArray[np.float64]:
        """Return the negative logarithms."""
        return np.asarray(-np.log(np.maximum(agreement, LEAST_PROBABILITY)))

    def guesses(self, known: Statistics, asked: Statistics) -> list[Statistics]:
        """Return the statistics of always answering how frequent each class is, and so the most frequent one."""
        guess = asked.copy()
        guess["probabilities"] = np.bincount(known["target"], minlength=self.out_features) / len(known)
        return [guess]

    def confusion(self, statistics: Statistics) -> NDArray[np.int64]:
        """Return the confusion matrix, int64 [true, predicted]."""
        cells = statistics["target"] * self.out_features + statistics["probabilities"].argmax(axis=1)
        counts: NDArray[np.int64] = np.bincount(cells, minlength=self.out_features**2)
        return counts.reshape(self.out_features, self.out_features)

    def labels(self, statistics: Statistics) -> NDArray[np.str_]:
        """Return the names of the true classes."""
        names: NDArray[np.str_] = np.asarray(self.class_names, dtype=np.str_)[statistics["target"]]
        return names

    def cells(self, statistic: Any) -> list[str]:
        """Return the true class, the predicted one, and the probability of each."""
        probabilities = statistic["probabilities"]
        names = self.class_names[statistic["target"]], self.class_names[probabilities.argmax()]
        return [*names, *(f"{probability:.6g}" for probability in probabilities)]

    def predicted_cells(self, activated: Tensor) -> list[str]:
        """Return the most probable class, and the probability of each."""
        return [self.class_names[int(activated.argmax())], *(f"{value:.6f}" for value in activated.tolist())]

    def predicted_words(self, activated: Tensor) -> str:
        """Return the most probable class with its probability."""
        return f"{self.class_names[int(activated.argmax())]}  {float(activated.max()):.3f}"

    def confidence(self, statistics: Statistics) -> NDArray[np.floating]:
        """Return the probability of the predicted class."""
        return np.asarray(statistics["probabilities"].max(axis=1))

    def strata(self, target: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the classes themselves."""
        return target

    def weights(self, target: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return weights, float32 [n] with mean 1, that give all classes that are present the same sum."""
        counts = np.bincount(target)
        num_present = np.count_nonzero(counts)
        return np.asarray(len(target) / (num_present * counts[target]), dtype=np.float32)

    def in_units(self, target: NDArray[Any]) -> NDArray[Any]:
        """Return the targets themselves."""
        return target

    def scaled_to(self, targets: NDArray[Any]) -> SingleLabel:
        """Return the task itself."""
        return self

    def calibrated(self, activated: TensorBatch, target: TensorBatch) -> SingleLabel:
        """Return the task itself."""
        return self

    def uncalibrated(self) -> SingleLabel:
        """Return the task, ranked by its own metric."""
        return type(self)(self.class_names)

    def with_primary(self, name: str) -> SingleLabel:
        """Return the task that is ranked by the metric of that name."""
        return type(self)(self.class_names, name)

    def to_json(self) -> dict[str, Any]:
        """Return the name of the task, those of the classes, and the metric if it is not the task's own."""
        return {"name": self.name, "class_names": list(self.class_names), **said_primary(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SingleLabel:
        """Return the task that `to_json` wrote.

        Raises
        ------
        DataError
            If there are no names of classes.
        """
        names = content.get("class_names")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise DataError("the task single_label needs class_names, a list of words")
        return cls(names, content.get("primary"))


def _tensor(batch: TensorBatch) -> Tensor:
    if not isinstance(batch, Tensor):
        raise TypeError("one class a sample: a batch is one tensor, not several")
    return batch
