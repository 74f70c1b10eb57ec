"""What a linear model is to say of rows, and the losses by which it learns that: one class a row, or labels."""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from stages.tasks.base import Task
from stages.tasks.temperature import ABSENT_CLASS_SCORE

Loss = Literal["logistic", "hinge"]


class LinearTargets(Protocol):
    """Targets of some rows, as a linear model learns them.

    Attributes
    ----------
    width : int
        Scores that the model gives each row.
    curvature : float or Tensor [width]
        Second derivative of the loss by a score, where weights are 0.
    first_bias : Tensor [width]
        Intercepts to begin with.
    present : ndarray of int64
        The numbers of the classes or labels that are learned, increasing.
    """

    width: int
    curvature: float | Tensor
    first_bias: Tensor
    present: NDArray[np.int64]

    def double(self) -> LinearTargets:
        """Return the same for scores in float64."""

    def losses_and_slopes(self, scores: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Return the loss of each row of a part, [b], and its gradient by scores [b, width], which are overwritten."""

    def of_all(self, values: NDArray[Any], absent: float | None = None) -> NDArray[Any]:
        """Return values of what the model learns, [width, ...], as values of all outputs, [out_features, ...].

        What it does not learn gets `absent`, or else the score that it always has.
        """


def linear_targets(
    loss: Loss, task: Task, labels: NDArray[Any], *, balanced: bool, dtype: torch.dtype
) -> LinearTargets:
    """Return the targets of rows: one class a row, int64 [n], or several labels, float [n, labels] with nan."""
    weights = task.weights(labels) if balanced else None
    tensor = None if weights is None else torch.from_numpy(weights).to(dtype)
    kind = ClassTargets if labels.ndim == 1 else LabelTargets
    return kind(loss, labels, task.out_features, tensor, dtype)


class ClassTargets:
    """One class a row: cross-entropy of all classes, or a hinge for each against the rest.

    Parameters
    ----------
    loss : {"logistic", "hinge"}
    labels : ndarray of int64 [n]
    out_features : int
        Classes there are; those without a row are not learned.
    weights : Tensor [n], optional
        Of the rows.
    dtype : torch.dtype
        Of the scores.
    """

    def __init__(
        self, loss: Loss, labels: NDArray[np.int64], out_features: int, weights: Tensor | None, dtype: torch.dtype
    ) -> None:
        self.loss, self.out_features, self._weights = loss, out_features, weights
        self.present, compact = np.unique(labels, return_inverse=True)
        self._labels = torch.from_numpy(compact.astype(np.int64))
        classes = len(self.present)
        self.width = 1 if classes == 2 else classes  # of two, the second against the first
        self.curvature: float | Tensor = {"logistic": (1 - 1 / classes) / classes, "hinge": 2.0}[loss]
        self.first_bias = torch.zeros(self.width, dtype=dtype)

    def double(self) -> ClassTargets:
        """Return the same for scores in float64."""
        labels = self.present[self._labels.numpy()]
        weights = None if self._weights is None else self._weights.double()
        return ClassTargets(self.loss, labels, self.out_features, weights, torch.float64)

    def losses_and_slopes(self, scores: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Return the loss of each row of a part, [b], and its gradient by the scores, which are overwritten."""
        losses, slopes = self._unweighted(scores, self._labels[part])
        if self._weights is not None:
            losses.mul_(self._weights[part])
            slopes.mul_(self._weights[part, None])
        return losses, slopes

    def of_all(self, values: NDArray[Any], absent: float | None = None) -> NDArray[Any]:
        """Return values of the classes that are present as values of all; `ABSENT_CLASS_SCORE` for the others."""
        if len(self.present) == 2:
            values = np.concatenate([np.zeros_like(values), values])
        absent = ABSENT_CLASS_SCORE if absent is None else absent
        result = np.full((self.out_features, *values.shape[1:]), absent, dtype=values.dtype)
        result[self.present] = values
        return result

    def _unweighted(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        true_class = labels[:, None]
        binary = scores.shape[1] == 1
        if self.loss == "hinge":
            sides = torch.full_like(scores, -1.0)
            targets = sides.add_(2 * true_class) if binary else sides.scatter_(1, true_class, 1.0)
            shortfall = scores.mul_(targets).neg_().add_(1).clamp_min_(0)
            return shortfall.square().sum(dim=1), shortfall.mul_(targets).mul_(-2)
        if binary:
            losses = functional.softplus(torch.where(true_class > 0, -scores, scores)).squeeze(1)
            return losses, scores.sigmoid_().sub_(true_class)
        scores.sub_(scores.amax(dim=1, keepdim=True))
        true_scores = scores.gather(1, true_class).squeeze(1)
        total = scores.exp_().sum(dim=1, keepdim=True)
        slopes = scores.div_(total)
        return total.squeeze(1).log().sub_(true_scores), slopes.scatter_add_(
            1, true_class, slopes.new_full(true_class.shape, -1.0)
        )


class LabelTargets:
    """Any number of labels a row, each with a loss of its own against the rows without it.

    What is not known has no part in the loss. A label that all known rows have, or none, cannot be learned: its score
    is the constant of `constant_logits`.

    Parameters
    ----------
    loss : {"logistic", "hinge"}
    labels : ndarray of float [n, labels]
        1, 0, or nan where it is not known.
    out_features : int
    weights : Tensor [n, labels], optional
        Of each label of each row, 0 where it is not known.
    dtype : torch.dtype
        Of the scores.
    """

    def __init__(
        self, loss: Loss, labels: NDArray[np.floating], out_features: int, weights: Tensor | None, dtype: torch.dtype
    ) -> None:
        self.loss, self.out_features, self._labels = loss, out_features, labels
        self._all_weights = weights
        self.constants = constant_logits(labels)
        self.present = two_sided(labels)
        self.width = len(self.present)
        learned = labels[:, self.present]
        sides = np.where(np.isnan(learned), 0, np.where(learned == 1, 1, -1))
        self._sides = torch.from_numpy(sides).to(dtype)
        self._weights = None if weights is None else weights[:, torch.from_numpy(self.present)]
        # weighed alike, both sides are as frequent
        logits = self.constants[self.present] if weights is None else np.zeros(self.width)
        shares = 1 / (1 + np.exp(-logits))
        known = (~np.isnan(learned)).mean(axis=0)
        by_score = shares * (1 - shares) if loss == "logistic" else 2.0
        self.curvature: float | Tensor = torch.from_numpy(known * by_score).to(dtype)
        self.first_bias = torch.from_numpy(logits if loss == "logistic" else np.zeros(self.width)).to(dtype)
        # the loss of a label whose side is 0 does not hang on its score; without it, the loss can come near 0
        unknown = torch.from_numpy(np.isnan(learned).sum(axis=1)).to(dtype)
        self._idle = unknown * {"logistic": math.log(2), "hinge": 1.0}[loss] if unknown.any() else None

    def double(self) -> LabelTargets:
        """Return the same for scores in float64."""
        weights = None if self._all_weights is None else self._all_weights.double()
        return LabelTargets(self.loss, self._labels, self.out_features, weights, torch.float64)

    def losses_and_slopes(self, scores: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Return the sum of a row's losses, for each row of a part, [b], and its gradient by the scores."""
        sides = self._sides[part]
        margins = scores.mul_(sides)
        if self.loss == "hinge":
            shortfall = margins.neg_().add_(1).clamp_min_(0)
            losses, slopes = shortfall.square(), shortfall.mul_(sides).mul_(-2)
        else:
            losses = functional.softplus(margins.neg_())
            slopes = margins.sigmoid_().mul_(sides).neg_()
        if self._weights is not None:
            weights = self._weights[part]
            return losses.mul_(weights).sum(dim=1), slopes.mul_(weights)
        sums = losses.sum(dim=1)
        return sums if self._idle is None else sums.sub_(self._idle[part]), slopes

    def of_all(self, values: NDArray[Any], absent: float | None = None) -> NDArray[Any]:
        """Return values of the labels that are learned as values of all; their constants for the others."""
        result = np.empty((self.out_features, *values.shape[1:]), dtype=values.dtype)
        constants = self.constants.reshape(-1, *[1] * (values.ndim - 1))
        result[...] = constants if absent is None else absent
        result[self.present] = values
        return result


def two_sided(labels: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the numbers of the labels that some rows of [n, labels] have and some have not."""
    return np.flatnonzero((labels == 1).any(axis=0) & (labels == 0).any(axis=0))


def constant_logits(labels: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return what the share of rows with each label says of another row, [labels]: Laplace's (m + 1) / (n + 2)."""
    with_label, without = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    return np.asarray(np.log((with_label + 1) / (without + 1)))
