"""Memory that does not suffice: what is computed at once is halved, and that is said once."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from cache.errors import CutonceError

Rows = TypeVar("Rows", bound=Tensor | list[Tensor])
"""What is computed: a row for each thing, in one tensor or in each of several."""


_OF_THE_HOST = "can't allocate memory"
"""In torch's error of the processor's memory, whatever device computes."""

_TELLING = (
    "out of memory",
    _OF_THE_HOST,
    "STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
)
"""In errors of torch. The last but one is of cuBLAS and cuSOLVER, which take memory beside torch's; the last is all it
says of a convolution for which no algorithm of cuDNN's found room (ATen/native/cudnn/Conv_v8.cpp)."""


class MemoryShortError(CutonceError):
    """Memory did not suffice; with more of it the same may be tried again."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short; on CPU and MPS, and of libraries of CUDA's, torch says so by the message alone."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(phrase in str(error) for phrase in _TELLING)


def is_out_of_device_memory(error: BaseException, device: torch.device) -> bool:
    """Whether the memory of a device was short that is another than the processor's."""
    return device.type != "cpu" and is_out_of_memory(error) and _OF_THE_HOST not in str(error)


@contextmanager
def shortage_told(what: str) -> Iterator[None]:
    """Have what ends for want of memory end with an error in words.

    Parameters
    ----------
    what : str
        What it was to be.

    Raises
    ------
    MemoryShortError
        In place of NumPy's or torch's own error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0].rstrip(".") or "no more is free"
        raise MemoryShortError(f"memory does not suffice for {what}: {reason}") from error


def free_cached(device: torch.device) -> None:
    """Give back what the allocator of a GPU holds for later, in pieces that may not fit, and what nobody has any more.

    Tensors and CUDA graphs that hold each other in a circle, as those of torch's modules may, Python frees when it
    counts enough of its own objects, however large they are on the GPU.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]


class InHalves(Generic[Rows]):
    """A function of a batch that is computed in parts once the memory has not sufficed for the whole.

    Parameters
    ----------
    function : callable
        Sequence of things, or a tensor [b, ...] -> Tensor [b, ...], or several of them; each row of its own thing.
    device : torch.device
    what : str
        What is computed, in words: "the frozen part", for one.

    Attributes
    ----------
    most : int or None
        How many are computed at once; None for any number.
    """

    def __init__(self, function: Callable[[Any], Rows], device: torch.device, what: str) -> None:
        self._function = function
        self._device, self._what = device, what
        self.most: int | None = None

    def __call__(self, items: Tensor | Sequence[Any]) -> Rows:
        """Return what the function makes of the items.

        Raises
        ------
        CutonceError
            If there is too little memory even for one.
        """
        while True:
            size = len(items) if self.most is None else min(self.most, len(items))
            try:
                if size == len(items):
                    return self._computed(items)
                parts = [self._computed(items[start : start + size]) for start in range(0, len(items), size)]
                return cast("Rows", _joined(parts))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if size <= 1:
                    raise CutonceError(
                        f"the memory of {self._device} is not enough for {self._what} of one image; choose a smaller "
                        "`image_size`"
                    ) from error
            self.most = -(-size // 2)
            free_cached(self._device)  # only here has the error let go of what was computed
            warnings.warn(
                f"not enough memory on {self._device} for {self._what} of {size} images: {self.most} at a time from "
                "now on",
                stacklevel=2,
            )

    def _computed(self, items: Tensor | Sequence[Any]) -> Rows:
        """Return what the function makes of so many items as are computed at once."""
        return self._function(items)
