"""Several processes that do one job: who this one is among those that ``torchrun`` started, and how they meet.

torch.distributed does it all, over gloo, which every build of torch has; only small things are said this way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed

_PATIENCE = timedelta(days=7)
"""How long one rank waits for the others: the slowest may have to read the keys of millions of files first."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Rank:
    """One of `count` processes that do a job together.

    Attributes
    ----------
    index, count : int
        Number of this process among all, on all machines.
    local : int
        Number of this process on its machine.
    """

    index: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that does what must be done once."""
        return self.index == 0

    def device(self, name: str) -> str:
        """Return the device this process uses where all were given `name`: GPUs are dealt out."""
        if self.count > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local % torch.cuda.device_count()}"
        return name

    def share(self, make: Callable[[], Value]) -> Value:
        """Return, in every process, what `make` returned in the first; the others do not call it."""
        if self.count == 1:
            return make()
        made: list[Any] = [make() if self.first else None]
        torch.distributed.broadcast_object_list(made, src=0)
        value: Value = made[0]
        return value

    def wait(self) -> None:
        """Return when all processes have come to this point."""
        if self.count > 1:
            torch.distributed.barrier()


ALONE = Rank()


def several() -> bool:
    """Return whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined() -> Iterator[Rank]:
    """Join the other processes for a while; alone where there are none."""
    if not several():
        yield ALONE
        return
    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        yield Rank(torch.distributed.get_rank(), torch.distributed.get_world_size(), local)
    finally:
        torch.distributed.destroy_process_group()
