"""The training loop of torchvision's transfer learning tutorial, in which the head alone learns.

Chilamkurthy, "Transfer Learning for Computer Vision Tutorial", section "ConvNet as fixed feature extractor"
(docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html): SGD with momentum, a step schedule, an epoch of
training and one of validation in turn. Both sides of the comparison call it, the tutorial with the whole network and
images, cutonce with the head and cached features, so that nothing but the source of the features differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

BATCH_SIZE = 8

Batches = Callable[[str, int], Iterable[tuple[Tensor, Tensor]]]
"""(split, epoch) -> batches of inputs and labels."""


def new_head(width: int, out_features: int) -> nn.Linear:
    """Return the new output layer, the same for the same shape."""
    torch.manual_seed(0)
    return nn.Linear(width, out_features)


def order(split: str, epoch: int, count: int) -> list[int]:
    """Return the order in which the samples of a split are seen in an epoch; the same on both sides."""
    if split == "val":
        return list(range(count))
    indices: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(epoch)).tolist()
    return indices


def train(network: nn.Module, head: nn.Linear, batches: Batches, epochs: int) -> float:
    """Train `head`, the part of `network` that learns, and return the best validation accuracy."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.001, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    best = 0.0
    for epoch in range(epochs):
        for inputs, labels in batches("train", epoch):
            optimizer.zero_grad()
            criterion(network(inputs), labels).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            right = [network(inputs).argmax(dim=1) == labels for inputs, labels in batches("val", epoch)]
        best = max(best, torch.cat(right).float().mean().item())
    return best
