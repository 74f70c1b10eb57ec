"""What linear models are to say of rows, and their losses, of many models at once and on any device.

The losses are those of `linear_targets`, which also says what is learned of the labels; here a score stands at
[row, model, class], and which rows a model is fitted to is a matter of weights that are 0 for all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from stages.fitting.folds import Selection
from stages.fitting.solvers.linear_models import LinearModelFactory
from stages.fitting.solvers.linear_targets import LinearTargets, linear_targets


class DeviceTargets:
    """Targets of rows, for models each of which is fitted to one of several selections of them.

    Parameters
    ----------
    factory : LinearModelFactory
    labels : ndarray [n] or [n, labels]
    folds : sequence of Selection
        The rows that models are fitted to; the same classes or labels are to be learned of all of them.
    device : torch.device
    dtype : torch.dtype
        Of the scores.

    Attributes
    ----------
    learned : list of LinearTargets
        For each fold, what is learned of its labels.
    counts : Tensor of float64 [folds]
        Rows of each.
    members : Tensor [n, folds] or None
        1 for the rows of a fold, 0 for the others; None where the only one has all.
    curvature : Tensor [folds, 1 or width]
    first_bias : Tensor [folds, width]
    """

    def __init__(
        self,
        factory: LinearModelFactory,
        labels: NDArray[Any],
        folds: Sequence[Selection],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.loss, task = factory.loss, factory.task
        self.learned: list[LinearTargets] = [
            linear_targets(factory.loss, task, labels[fold], balanced=factory.balanced, dtype=dtype) for fold in folds
        ]
        self.width, present = self.learned[0].width, self.learned[0].present
        curvatures = [torch.as_tensor(targets.curvature, dtype=dtype).reshape(-1) for targets in self.learned]
        self.curvature = torch.stack(curvatures).to(device)
        self.first_bias = torch.stack([targets.first_bias for targets in self.learned]).to(device)
        members = np.zeros((len(labels), len(folds)), np.float32)
        for number, fold in enumerate(folds):
            members[fold, number] = 1
        self.counts = torch.from_numpy(members.sum(axis=0, dtype=np.float64)).to(device)
        whole = len(folds) == 1 and bool(members.all())
        self.members = None if whole else torch.from_numpy(members).to(device, dtype)
        self._weights = self.members
        if factory.balanced:
            shape = members.shape if labels.ndim == 1 else (*members.shape, self.width)
            weights = np.zeros(shape, np.float32)
            for number, fold in enumerate(folds):
                of_fold = task.weights(labels[fold])
                assert of_fold is not None, "classes and labels have weights"
                weights[fold, number] = of_fold if labels.ndim == 1 else of_fold[:, present]
            self._weights = torch.from_numpy(weights).to(device, dtype)
        self._classes: Tensor | None = None
        self._idle = torch.zeros(len(folds), dtype=torch.float64, device=device)
        if labels.ndim == 1:
            places = np.searchsorted(present, labels).clip(max=len(present) - 1)  # rows of no other class weigh nothing
            self._classes = torch.from_numpy(places.astype(np.int64)).to(device)
            return
        known = ~np.isnan(labels[:, present])
        sides = np.where(known, np.where(labels[:, present] == 1, 1, -1), 0).astype(np.float32)
        self._sides = torch.from_numpy(sides).to(device, dtype)
        if not factory.balanced:  # a side of 0 has a loss that hangs on no score
            unknown = members.T.astype(np.float64) @ (~known).sum(axis=1)
            self._idle = torch.from_numpy(unknown).to(device) * (1.0 if self.loss == "hinge" else float(np.log(2)))

    def mean_losses(self, sums: Tensor, folds: Tensor) -> Tensor:
        """Return the mean loss of models, float64 [b], of folds [b], by the sums over all rows."""
        return (sums - self._idle[folds]) / self.counts[folds]

    def losses_and_slopes(self, scores: Tensor, part: slice, folds: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses of a part of the rows, and its gradient by the scores, which are overwritten.

        Parameters
        ----------
        scores : Tensor [rows, b, width]
        part : slice
        folds : Tensor of int64 [b]
            That of each model.

        Returns
        -------
        Tensor of float64 [b], Tensor [rows, b, width]
        """
        losses, slopes = self._of_labels(scores, part) if self._classes is None else self._of_classes(scores, part)
        if self._weights is not None:
            weights = self._weights[part][:, folds]
            slopes.mul_(weights if weights.dim() == 3 else weights[:, :, None])
            losses = losses.mul_(weights if weights.dim() == losses.dim() else weights[:, :, None])
        if losses.dim() == 3:
            losses = losses.sum(dim=2)
        return losses.sum(dim=0, dtype=torch.float64), slopes

    def _of_labels(self, scores: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        sides = self._sides[part][:, None, :]
        if self.loss == "hinge":
            return _hinges(scores, sides)
        below = scores.mul_(sides).neg_()
        return functional.softplus(below), below.sigmoid_().mul_(sides).neg_()

    def _of_classes(self, scores: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        assert self._classes is not None
        true_class = self._classes[part][:, None, None]
        if self.loss == "hinge":
            if self.width == 1:
                return _hinges(scores, (2 * true_class - 1).to(scores.dtype))
            sides = scores.new_full((len(scores), 1, self.width), -1.0).scatter_(2, true_class, 1.0)
            return _hinges(scores, sides)
        if self.width == 1:
            losses = functional.softplus(torch.where(true_class > 0, -scores, scores))
            return losses, scores.sigmoid_().sub_(true_class)
        true_class = true_class.expand(-1, scores.shape[1], 1)
        log_shares = torch.log_softmax(scores, dim=2)
        losses = log_shares.gather(2, true_class).squeeze(2).neg_()
        slopes = log_shares.exp_()
        return losses, slopes.scatter_add_(2, true_class, slopes.new_full(true_class.shape, -1.0))


def _hinges(scores: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    shortfall = scores.mul_(sides).neg_().add_(1).clamp_min_(0)
    return shortfall.square(), shortfall.mul_(sides).mul_(-2)
