"""What is minimized: the task's loss, of auxiliary classifiers too, and a penalty on weights, each kept apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.tasks.base import Statistics, Task
from stages.training.class_weights import ClassWeights

Output = Tensor | tuple[Tensor, Sequence[tuple[float, Tensor]]]
"""What a model answers: logits [b, out_features, ...], alone or with those of auxiliary classifiers, each weighted."""


class TaskLoss:
    """The task's loss of the output, plus that of each auxiliary classifier times its weight.

    Parameters
    ----------
    task : Task
    label_smoothing : float
        In [0, 1): the share of each target that is spread evenly over all classes.
    weights : ClassWeights, optional
        How much classes count, where the outputs are; by default alike.
    """

    def __init__(self, task: Task, label_smoothing: float = 0.0, weights: ClassWeights | None = None) -> None:
        self._task = task
        self._label_smoothing, self._weights = label_smoothing, weights

    def terms(self, output: Output, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss, each summed over the samples; they add up to what is minimized.

        Parameters
        ----------
        output : Tensor or tuple
        targets : Tensor [b, ...]
            As the task collates or, for mixed samples (mixup, cutmix), blends them.
        """
        auxiliary = () if isinstance(output, Tensor) else output[1]
        terms = {"main": self._sum(logits_of(output), targets)}
        for number, (weight, logits) in enumerate(auxiliary, start=1):
            terms[f"auxiliary {number}"] = weight * self._sum(logits, targets)
        return terms

    def _sum(self, logits: Tensor, targets: Tensor) -> Tensor:
        weights = None if self._weights is None else self._weights.of(targets)
        return self._task.loss(
            _at_targets(logits, targets), targets, smoothing=self._label_smoothing, class_weights=weights
        )


def _at_targets(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the logits of maps at the size of masks, bilinearly; others as they are."""
    if logits.ndim < 4 or logits.shape[2:] == targets.shape[1:]:
        return logits
    return functional.interpolate(logits.float(), targets.shape[1:], mode="bilinear", align_corners=False)


def l1_penalty(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the sum of the absolute values of all elements."""
    return torch.stack([parameter.abs().sum() for parameter in parameters]).sum()


def logits_of(output: Output) -> Tensor:
    """Return the logits [b, out_features, ...] of the output itself, without those of auxiliary classifiers."""
    return output if isinstance(output, Tensor) else output[0]


def statistics_of(task: Task, logits: Tensor, targets: Tensor) -> Statistics:
    """Return what the task keeps of samples, from the logits of a batch and its targets."""
    return task.statistic(task.activate(logits, [tuple(targets.shape[1:])] * len(targets)), targets)
