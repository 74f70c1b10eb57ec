"""What a model answers: losses, scores and predictions, in evaluation mode and in full precision."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cache.errors import DataError
from stages.runtime.device import to_device
from stages.runtime.distributed import SINGLE_PROCESS, Rank
from stages.runtime.memory import InHalves
from stages.tasks.base import Task, find_metric
from stages.tasks.running_score import RunningScore
from stages.training.losses import TaskLoss, logits_of, statistics_of
from stages.training.outcomes import BYTES_AT_ONCE, Outcome, copied_together, is_time_to_read, on_host, reads_late
from stages.training.sample_images import Inputs

Batches = Iterable[tuple[Inputs, Tensor]]
"""Inputs of the model, and targets as the task collates or blends them."""


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
    predicted: list[Tensor] = []
    unread: list[Tensor] = []
    for block in blocks:
        output = logits_of(model(block.to(device, non_blocking=True).float()))
        activated = output if task is None else task.activate(output)
        assert isinstance(activated, Tensor)
        unread.append(activated)
        if not reads_late(device) or sum(part.nbytes for part in unread) >= BYTES_AT_ONCE:
            predicted += copied_together(unread)
            unread.clear()
    return torch.cat([*predicted, *copied_together(unread)])


@torch.no_grad()
def evaluate_loss(model: nn.Module, batches: Batches, task: Task, rank: Rank = SINGLE_PROCESS) -> tuple[float, float]:
    """Return the mean loss and the task's primary metric of `model`, in evaluation mode, over all samples.

    Parameters
    ----------
    model : nn.Module
        Auxiliary classifiers do not count.
    batches : iterable of (inputs, targets)
    task : Task
    rank : Rank
        One of several processes has a share of the batches, which may be none; all return the same.

    Returns
    -------
    loss, score : float
        A model whose loss is not finite has no score: nan.

    Raises
    ------
    DataError
        If there is no sample at all.
    """
    model.eval()
    device = next(model.parameters()).device
    criterion, running = TaskLoss(task), RunningScore(find_metric(task))
    loss, count = 0.0, 0
    unread: list[Outcome] = []

    def read() -> None:
        nonlocal loss
        for outcome in on_host(unread):
            loss += float(outcome.sums)
            if math.isfinite(loss):  # statistics of other outputs are refused
                for logits, targets in outcome.outputs:
                    running.add(statistics_of(task, logits, targets))
        unread.clear()

    answer = InHalves(lambda inputs: logits_of(model(inputs.to(device, non_blocking=True))), device, "validation")
    for inputs, given in batches:
        targets = to_device(given, device)
        # the images of a sample stay together, and are computed in turns by the model itself
        logits = answer(inputs) if isinstance(inputs, Tensor) else logits_of(model(inputs.to(device)))
        unread.append(Outcome(criterion.terms(logits, targets)["main"], ((logits, given),)))
        count += len(given)
        if is_time_to_read(unread, device):
            read()
    read()
    losses, counts, states = zip(*rank.all_gather((loss, count, running.state)), strict=True)
    loss, count = sum(losses), sum(counts)
    if not count:
        raise DataError("there is no image to validate on; give more images, or a larger `val_size` share")
    if not math.isfinite(loss):
        return loss / count, math.nan
    score = RunningScore(find_metric(task))
    for state in states:
        score.merge(state)
    return loss / count, score.value()
