"""A computation on a GPU recorded once, and launched as a whole: its operators no longer cost the interpreter time."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

_LOG = logging.getLogger("cutonce")

_WARM_UP = 3
"""Calls before recording, in which libraries choose their kernels and take their memory."""


class CudaGraph:
    """What a function makes of a tensor, always of one shape: recorded as a CUDA graph where that goes.

    Where it does not go (the function waits for the GPU, say) it is called as it is, and that is said once.

    Parameters
    ----------
    function : callable
        Tensor [b, ...] -> list of Tensor [b, ...]. It may keep nothing of what it is given.
    """

    def __init__(self, function: Callable[[Tensor], list[Tensor]]) -> None:
        self._function = function
        self._recorded: tuple[torch.Size, torch.cuda.CUDAGraph, Tensor, list[Tensor]] | None = None
        self._is_recordable = True

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return what the function makes of the images."""
        if not self._is_recordable:
            return self._function(images)
        if self._recorded is None or self._recorded[0] != images.shape:
            self._recorded = None  # its memory is free for the next
            try:
                self._recorded = self._record(images)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._is_recordable = False
                _LOG.info(f"the network cannot be recorded as a CUDA graph, and is launched as it is: {error}")
                return self._function(images)
        _, graph, given, rows = self._recorded
        given.copy_(images, non_blocking=True)
        graph.replay()
        # the next call writes where these lie
        return [row.clone() for row in rows]

    def _record(self, images: Tensor) -> tuple[torch.Size, torch.cuda.CUDAGraph, Tensor, list[Tensor]]:
        given = images.clone()
        beside = torch.cuda.Stream(images.device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(images.device))
        try:
            with torch.cuda.stream(beside):
                for _ in range(_WARM_UP):
                    self._function(given)
        finally:
            torch.cuda.current_stream(images.device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # on the stream of this device: torch's own for it is of the first that was ever recorded on; other threads
        # decode meanwhile, and take memory for it. Where recording fails, torch leaves this thread on that stream
        with (
            torch.cuda.device(images.device),
            torch.cuda.stream(beside),
            torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"),
        ):
            rows = self._function(given)
        return images.shape, graph, given, rows
