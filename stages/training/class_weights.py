"""How much classes count in the loss, where rare ones are to count as much as frequent ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.tasks.base import Task


@dataclass(frozen=True)
class ClassWeights:
    """Weights of classes, or of samples with a label and without it, as `Task.weights` has them for the training split.

    So they hold for targets that are blended, too, and for any sample, whatever samples are beside it.

    Attributes
    ----------
    present : Tensor of float32 [out_features]
        Of a sample of each class, or with each label; 1 where training has none.
    absent : Tensor of float32 [out_features] or None
        Of a sample without each label; None where a sample has one class.
    """

    present: Tensor
    absent: Tensor | None = None

    @classmethod
    def balanced(cls, task: Task, targets: NDArray[Any]) -> ClassWeights | None:
        """Return what has all classes, or both sides of each label, the same sum over these targets [n, ...].

        None where that means nothing: numbers have no classes, and masks have them pixel by pixel.
        """
        if task.reads == "image" or (weights := task.weights(targets)) is None:
            return None
        if weights.ndim == 1:
            present = torch.ones(task.out_features)
            present[torch.from_numpy(targets)] = torch.from_numpy(weights)
            return cls(present)
        sides = [np.ones(task.out_features, np.float32) for _ in range(2)]
        for side, has_label in zip(sides, (targets == 1, targets == 0), strict=True):
            np.copyto(side, weights.max(axis=0, where=has_label, initial=0), where=has_label.any(axis=0))
        return cls(*map(torch.from_numpy, sides))

    def to(self, device: torch.device) -> ClassWeights:
        """Return them on a device."""
        return ClassWeights(self.present.to(device), None if self.absent is None else self.absent.to(device))

    def of(self, targets: Tensor) -> Tensor:
        """Return what the loss takes for a batch: float32 [out_features]; of labels [b, out_features], 1 where unknown.

        Parameters
        ----------
        targets : Tensor [b, ...]
            On the same device, as the task collates or blends them.
        """
        if self.absent is None:
            return self.present
        return torch.lerp(self.absent, self.present, targets.float()).nan_to_num(1.0)
