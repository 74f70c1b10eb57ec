"""Rows of features where an accelerator gets at them: resident in the type they are stored in, or sent in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.prefetch import prefetch_map
from stages.fitting.folds import Selection
from stages.runtime.device import free_memory
from stages.runtime.own_streams import own_stream

RESIDENT_SHARE = 0.5
"""Share of the memory that is free which rows may take for good; the rest is for scores and what the solver keeps."""

_SENT_BYTES = 64 << 20
"""Rows that are sent at a time, where they stay with the host: the next are on the way while some are computed with."""


SOLVER_BYTES = 2 << 30
"""What a solver keeps of models that are fitted in one batch: of so large ones a few are work enough."""


@dataclass(frozen=True)
class DeviceRows:
    """Rows, float16 or float32, for a device to compute with.

    Attributes
    ----------
    device : torch.device
    resident : Tensor [n, d] or None
        All rows on the device, where they fit.
    host : sequence of Tensor [m, d]
        Else they, one part after the other, in the memory of the host.
    stream : torch.cuda.Stream or None
        On which these are sent, where the device is CUDA's. Always the same: memory that torch was given on one stream
        is for that stream.
    """

    device: torch.device
    resident: Tensor | None
    host: Sequence[Tensor]
    stream: torch.cuda.Stream | None = None

    @classmethod
    def of(cls, parts: Sequence[NDArray[np.floating]], device: torch.device) -> DeviceRows:
        """Return the rows of arrays of one type, resident where they fit `RESIDENT_SHARE` of the free memory.

        For a CPU they are where they are.
        """
        host = [torch.from_numpy(part) for part in parts if len(part)]
        if device.type == "cpu":
            return cls(device, None, host)
        if sum(part.nbytes for part in host) > RESIDENT_SHARE * free_memory(device):
            stream = own_stream(device) if device.type == "cuda" else None
            return cls(device, None, host, stream)
        resident = torch.empty(sum(map(len, host)), host[0].shape[1], dtype=host[0].dtype, device=device)
        for start, part in _placed(host):
            resident[start : start + len(part)].copy_(part)
        return cls(device, resident, ())

    @property
    def solver_bytes(self) -> int:
        """Most bytes that a solver is to keep of its models beside the rows."""
        if self.device.type != "cuda":
            return SOLVER_BYTES
        return min(SOLVER_BYTES, max(int(RESIDENT_SHARE * free_memory(self.device)), 1))

    @property
    def dtype(self) -> torch.dtype:
        """The type that rows are stored in."""
        return self.host[0].dtype if self.resident is None else self.resident.dtype

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return (self.host[0] if self.resident is None else self.resident).shape[1]

    def __len__(self) -> int:
        return sum(map(len, self.host)) if self.resident is None else len(self.resident)

    def at(self, selection: Selection) -> DeviceRows:
        """Return some of the rows, where these are; of a slice no copy is made."""
        if self.resident is not None:
            chosen = selection if isinstance(selection, slice) else torch.from_numpy(selection).to(self.device)
            return replace(self, resident=self.resident[chosen])
        if not isinstance(selection, slice):
            return replace(self, host=[self._gathered(selection)])
        first, last, _ = selection.indices(len(self))
        cut = [part[max(first - start, 0) : max(last - start, 0)] for start, part in _placed(self.host)]
        return replace(self, host=[part for part in cut if len(part)])

    def sample(self, places: NDArray[np.int64]) -> Tensor:
        """Return a copy of some of the rows on the device, as they are stored, [m, d]."""
        if self.resident is not None:
            return self.resident[torch.from_numpy(places).to(self.device)]
        return self._gathered(places).to(self.device)

    def blocks(self, most: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield all rows in order, up to so many at a time, on the device, and which they are."""
        if self.resident is not None:
            for start in range(0, len(self), most):
                part = slice(start, min(start + most, len(self)))
                yield part, self.resident[part]
            return
        step = max(min(most, _SENT_BYTES // max(self.width * self.dtype.itemsize, 1)), 1)
        parts = [
            (start + first, part[first : first + step])
            for start, part in _placed(self.host)
            for first in range(0, len(part), step)
        ]
        with (
            ThreadPoolExecutor(1, "rows") as thread,
            closing(prefetch_map(self._sent, [rows for _, rows in parts], pool=thread, ahead=2)) as sent,
        ):
            for (start, _), (rows, arrived) in zip(parts, sent, strict=True):
                if arrived is not None:
                    stream = torch.cuda.current_stream(self.device)
                    stream.wait_event(arrived)
                    rows.record_stream(stream)
                yield slice(start, start + len(rows)), rows

    def _sent(self, rows: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """Send rows, out of pinned memory where there is a stream for it; return them, and what says they came."""
        if self.stream is None:
            return rows.to(self.device), None
        with torch.cuda.stream(self.stream):
            sent = rows.pin_memory().to(self.device, non_blocking=True)
            return sent, self.stream.record_event()

    def _gathered(self, places: NDArray[np.int64]) -> Tensor:
        found = torch.empty(len(places), self.width, dtype=self.dtype)
        for start, part in _placed(self.host):
            inside = np.flatnonzero((places >= start) & (places < start + len(part)))
            found[torch.from_numpy(inside)] = part[torch.from_numpy(places[inside] - start)]
        return found


def _placed(parts: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Yield parts, each with how many rows stand before it."""
    start = 0
    for part in parts:
        yield start, part
        start += len(part)
