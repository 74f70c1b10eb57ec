"""A computation on a GPU recorded once, and launched as a whole: its operators no longer cost the interpreter time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stages.runtime.device import RECORDING
from stages.runtime.memory import is_out_of_memory
from stages.runtime.own_streams import own_stream

_LOG = logging.getLogger("cutonce")

_WARM_UP = 3
"""Calls before recording, in which libraries choose their kernels and take their memory."""

_WAITING = frozenset(
    {
        "_local_scalar_dense",  # item, tolist, bool, int and float
        "nonzero",
        "masked_select",
        "equal",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "bincount",
        "repeat_interleave",
        "lift_fresh",  # torch.tensor(..., device=...), which brings numbers to the device
    }
)
"""Operators that the host waits for, by torch's names for them, besides copies between devices and masks as indices."""

_INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"})


class _WaitsError(RuntimeError):
    """A function waits for the GPU, or brings it numbers each time, so that it cannot be recorded."""


class CudaGraph:
    """What a function makes of a tensor, always of one shape: recorded as a CUDA graph where that goes.

    Where it does not go (the function waits for the GPU, say) it is called as it is, and that is said once. Whether it
    waits is found out before anything is recorded: after a recording that failed, torch before 2.12 never again gives
    back memory that was used by a stream other than its own, as each batch of decoded images is (pytorch pull request
    180395).

    Threads may call it at once, as those do that share a remembered network: one batch goes through after the other.

    Parameters
    ----------
    function : callable
        Tensor [b, ...] -> list of Tensor [b, ...]. It may keep nothing of what it is given.
    """

    def __init__(self, function: Callable[[Tensor], list[Tensor]]) -> None:
        self._function = function
        self._recorded: tuple[torch.Size, torch.cuda.CUDAGraph, Tensor, list[Tensor]] | None = None
        self._is_recordable = True
        self._one_at_a_time = threading.Lock()  # what is recorded has one place for its batch, and one for the rows
        self._last: torch.cuda.Stream | None = None

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return what the function makes of the images."""
        with self._one_at_a_time:
            return self._launched(images)

    def _launched(self, images: Tensor) -> list[Tensor]:
        if not self._is_recordable:
            return self._function(images)
        if self._recorded is None or self._recorded[0] != images.shape:
            self._recorded = None  # its memory is free for the next
            try:
                with RECORDING:
                    self._recorded = self._record(images)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self._is_recordable = False
                _LOG.info(f"the network cannot be recorded as a CUDA graph, and is launched as it is: {error}")
                return self._function(images)
        _, graph, given, rows = self._recorded
        stream = torch.cuda.current_stream(images.device)
        if self._last is not None and self._last != stream:
            stream.wait_stream(self._last)
        self._last = stream
        given.copy_(images, non_blocking=True)
        graph.replay()
        # the next call writes where these lie
        return [row.clone() for row in rows]

    def _record(self, images: Tensor) -> tuple[torch.Size, torch.cuda.CUDAGraph, Tensor, list[Tensor]]:
        given = images.clone()
        beside = own_stream(images.device)
        beside.wait_stream(torch.cuda.current_stream(images.device))
        try:
            with torch.cuda.stream(beside):
                for _ in range(_WARM_UP - 1):
                    self._function(given)
                # at last: what is brought to the GPU once is there by now
                with _WithoutWaiting():  # type: ignore[no-untyped-call]
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


class _WithoutWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, this thread raises :class:`_WaitsError` at the first operator that cannot be recorded."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do an operator; of a composed one, which in inference mode nobody has taken apart, each of its parts."""
        kwargs = kwargs or {}
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        if _waits(func, args, kwargs):
            raise _WaitsError(f"{func.name()} waits for the GPU, or copies between it and the processor")
        return func(*args, **kwargs)


def _waits(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether the host waits for an operator, or brings its numbers, as far as operators tell."""
    name = func.overloadpacket.__name__
    given = [value for value in args if isinstance(value, Tensor)]
    on_gpu = any(tensor.is_cuda for tensor in given)
    if name == "_to_copy":
        asked = kwargs.get("device")
        return asked is not None and (torch.device(asked).type == "cpu") == on_gpu
    if name == "copy_":
        return given[0].is_cuda != given[1].is_cuda
    if not on_gpu:
        return False
    if name in _INDEXING:
        indices = [index for index in args[1] if index is not None]
        return any(index.dtype in (torch.bool, torch.uint8) or not index.is_cuda for index in indices)
    return name in _WAITING
