"""What is minimised: cross-entropy, of auxiliary classifiers too, and a penalty on weights. Each term is kept apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Output = Tensor | tuple[Tensor, Sequence[tuple[float, Tensor]]]
"""What a model answers: logits [b, classes], alone or with auxiliary classifiers, each as (weight, logits)."""


class CrossEntropy:
    """Cross-entropy of the output, plus that of each auxiliary classifier times its weight.

    Parameters
    ----------
    label_smoothing : float
        In [0, 1): the share of each label that is spread evenly over all classes (Szegedy et al. 2016, section 7).
    class_weights : sequence of float, optional
        How much a sample of each class counts. A mean over samples stays a mean over samples, so
        weights whose mean over the training samples is 1 keep the loss what it was.
    """

    def __init__(self, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> None:
        self._label_smoothing = label_smoothing
        self._class_weights = None if class_weights is None else torch.tensor(class_weights)

    def terms(self, output: Output, labels: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss, each summed over the samples; they add up to what is minimised.

        Parameters
        ----------
        output : Tensor or tuple
        labels : int64 [b], or float [b, classes] for mixed samples (mixup, cutmix)
        """
        auxiliary = () if isinstance(output, Tensor) else output[1]
        terms = {"main": self._sum(logits_of(output), labels)}
        for number, (weight, logits) in enumerate(auxiliary, start=1):
            terms[f"auxiliary {number}"] = weight * self._sum(logits, labels)
        return terms

    def _sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        weights = None if self._class_weights is None else self._class_weights.to(logits.device)
        return functional.cross_entropy(
            logits.float(), labels, weights, reduction="sum", label_smoothing=self._label_smoothing
        )


def l1_penalty(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the sum of the absolute values of all elements."""
    return torch.stack([parameter.abs().sum() for parameter in parameters]).sum()


def logits_of(output: Output) -> Tensor:
    """Return the logits [b, classes] of the output itself, without those of auxiliary classifiers."""
    return output if isinstance(output, Tensor) else output[0]


def correct(output: Output, labels: Tensor) -> Tensor:
    """Return how many samples are predicted right, an int64 scalar; a mixed sample's label is its largest part."""
    true = labels if labels.ndim == 1 else labels.argmax(dim=1)
    return (logits_of(output).detach().argmax(dim=1) == true).sum()
