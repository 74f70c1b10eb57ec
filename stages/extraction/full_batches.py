"""Rendered images through a network, always as many at a time: those of stage 1, and those that are predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stages.network.graph.cuda_graph import CudaGraph
from stages.runtime.memory import InHalves

Step = Callable[[Tensor], list[Tensor]]
"""Tensor [b, ...] -> list of Tensor [b, ...], each row of its own thing."""


class FullBatches(InHalves[list[Tensor]]):
    """What steps make of rendered images, one step after the other; what does not fit into the memory goes in parts.

    What goes through them is always of the same size: a smaller batch is filled up with black. So a row depends on its
    own image alone, bit for bit, and not on how many are left.

    Parameters
    ----------
    steps : callable
        The first is given images, uint8 [b, 3, S, S] on the device, each other one the only tensor of the step before.
    device : torch.device
    size : int or None
        Images of a full batch; None where batches are left as they come.
    recorded : bool
        Whether an NVIDIA GPU launches each step as one, where that goes. Each is recorded for itself, so that a step
        that waits for the GPU, as a head may, does not keep the others from it.
    """

    def __init__(self, *steps: Step, device: torch.device, size: int | None, recorded: bool) -> None:
        self._size, self._is_recorded = size, recorded
        self._steps = [CudaGraph(step) if recorded else step for step in steps]
        # nothing here holds a method of its own: what is recorded is let go of, with its memory, as soon as this is
        super().__init__(partial(_after_each_other, self._steps, device), device, "the forward pass")

    def __call__(self, items: Tensor | Sequence[Any]) -> list[Tensor]:
        """Return what the last step makes of images, uint8 [b, 3, S, S], b at most the size of a full batch.

        Raises
        ------
        ValueError
            If there are more images than that.
        CutonceError
            If there is too little memory even for one.
        """
        if self._size is not None and len(items) > self._size:
            raise ValueError(f"{len(items)} images are more than a batch of {self._size}")
        return super().__call__(items)

    def recorded_for(self, *shape: int) -> FullBatches:
        """Return this, all of it recorded for images of a shape where it is to be: by way of a black batch.

        While a step is recorded, much of what other threads may have a GPU do is forbidden, or ends the recording. So
        this is for before they begin.
        """
        if self._is_recorded and self._size is not None:
            black = torch.zeros((self._size, *shape), dtype=torch.uint8)
            self(black.contiguous(memory_format=torch.channels_last))  # as images are rendered
        return self

    def _computed(self, items: Tensor | Sequence[Any]) -> list[Tensor]:
        """Return the rows of images in one pass, which is filled up to what such passes take."""
        assert isinstance(items, Tensor)
        missing = 0 if self._size is None else (self.most or self._size) - len(items)
        filled = torch.cat([items, items.new_zeros((missing, *items.shape[1:]))]) if missing else items
        rows = super()._computed(filled)
        return [of_all[: len(items)] for of_all in rows]


def _after_each_other(steps: Sequence[Step], device: torch.device, images: Tensor) -> list[Tensor]:
    rows = [images.to(device, non_blocking=True)]
    for step in steps:
        rows = step(*rows)
    return rows
