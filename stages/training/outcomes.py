"""What came of batches, while it is still on the device: read when many batches are through, in a few copies.

A GPU works off what it was told while the program goes on to tell it more. Whoever reads a number from it waits until
all of that is done, and meanwhile it is told nothing. So losses and outputs of a batch stay where they are; those of
several batches are brought to the host together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

BATCHES_AT_ONCE = 32
"""Batches whose outcomes wait on a device at most."""

BYTES_AT_ONCE = 64 << 20
"""Bytes of outputs that wait there at most; maps of classes are large."""


@dataclass(frozen=True)
class Outcome:
    """What came of a batch, or of the few batches of a step.

    Attributes
    ----------
    sums : Tensor, float32 [k]
        Sums over the samples: the terms of the loss, and whatever else.
    outputs : tuple of (Tensor, Tensor)
        Logits and targets of samples.
    """

    sums: Tensor
    outputs: tuple[tuple[Tensor, Tensor], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the outputs."""
        return sum(logits.nbytes for logits, _ in self.outputs)


def reads_late(device: torch.device) -> bool:
    """Return whether reading a number from a device makes the program wait for it, so that it is put off."""
    return device.type != "cpu"


def is_time_to_read(outcomes: Sequence[Outcome], device: torch.device) -> bool:
    """Return whether so many outcomes wait that they are to be read."""
    if not reads_late(device) or len(outcomes) >= BATCHES_AT_ONCE:
        return True
    return sum(outcome.nbytes for outcome in outcomes) >= BYTES_AT_ONCE


def on_host(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return outcomes in the memory of the host; maps of classes, which are scored where they are, stay there."""
    tensors: list[Tensor] = []
    for outcome in outcomes:
        tensors.append(outcome.sums)
        for logits, targets in outcome.outputs:
            tensors += [logits, targets] if logits.ndim == 2 else []
    read = iter(copied_together(tensors))
    return [
        replace(
            outcome,
            sums=next(read),
            outputs=tuple((next(read), next(read)) if pair[0].ndim == 2 else pair for pair in outcome.outputs),
        )
        for outcome in outcomes
    ]


def copied_together(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors in the memory of the host, copied there at once, those of each type; what is there stays as it is.

    Every copy waits for the device.
    """
    copied = list(tensors)
    for dtype in {tensor.dtype for tensor in tensors if tensor.device.type != "cpu"}:
        numbers = [
            number for number, tensor in enumerate(tensors) if tensor.dtype == dtype and tensor.device.type != "cpu"
        ]
        flat = torch.cat([tensors[number].flatten() for number in numbers]).cpu()
        sizes = [tensors[number].numel() for number in numbers]
        for number, part in zip(numbers, torch.split(flat, sizes), strict=True):
            copied[number] = part.view(tensors[number].shape)
    return copied
