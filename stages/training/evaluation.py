"""What a model answers: losses and probabilities, in evaluation mode and in full precision."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed
from torch import Tensor, nn

from cache.errors import DataError
from stages.runtime.distributed import SINGLE_PROCESS, Rank
from stages.tasks.base import Task
from stages.training.losses import CrossEntropy, correct, logits_of

Batches = Iterable[tuple[Tensor, Tensor]]
"""Inputs of the model, and labels: int64 [b], or float [b, classes] for mixed samples."""


@torch.no_grad()
def predict(model: nn.Module, blocks: Iterable[Tensor], task: Task | None) -> Tensor:
    """Return what `model` says in evaluation mode of inputs, which are taken as float32, [n, out_features] on the CPU.

    Parameters
    ----------
    model : nn.Module
        Auxiliary classifiers do not count.
    blocks : iterable of Tensor [b, ...]
    task : Task or None
        What makes probabilities or values of the outputs; without one, the outputs stay logits.
    """
    model.eval()
    device = next(model.parameters()).device
    predicted = []
    for block in blocks:
        output = logits_of(model(block.to(device).float()))
        activated = output if task is None else task.activate(output)
        assert isinstance(activated, Tensor)
        predicted.append(activated.cpu())
    return torch.cat(predicted)


@torch.no_grad()
def evaluate_loss(model: nn.Module, batches: Batches, rank: Rank = SINGLE_PROCESS) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy of `model`, in evaluation mode, over all samples.

    Parameters
    ----------
    model : nn.Module
        Auxiliary classifiers do not count.
    batches : iterable of (inputs, labels)
    rank : Rank
        One of several processes has a share of the batches, which may be none; all return the same.

    Raises
    ------
    DataError
        If there is no sample at all.
    """
    model.eval()
    device = next(model.parameters()).device
    loss, right, count = 0.0, 0, 0
    for inputs, labels in batches:
        labels = labels.to(device, non_blocking=True)
        logits = logits_of(model(inputs.to(device, non_blocking=True)))
        loss += float(CrossEntropy().terms(logits, labels)["main"])
        right += int(correct(logits, labels))
        count += len(labels)
    if rank.world_size > 1:
        sums = torch.tensor([loss, right, count], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(sums)
        loss, right, count = float(sums[0]), int(sums[1]), int(sums[2])
    if not count:
        raise DataError("there is no image to validate on; give more images, or a larger `val_size` share")
    return loss / count, right / count
