"""Several processes that do one job: who this one is among those that ``torchrun`` started, and how they meet.

torch.distributed does it all: over gloo, which every build of torch has, and over NCCL, as gradients are, where each
process has a GPU of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # documented, if not declared
from torch.distributed.rendezvous import rendezvous

from cache.errors import CutonceError

_PATIENCE = timedelta(days=7)
"""How long one rank waits for the others: the slowest may have to read the keys of millions of files first."""

_CALLS, _CALL_SECONDS = 20, 0.05
"""How often a process looks for the answer of the first, before it asks again who that is; and how long apart."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Rank:
    """One of `world_size` processes that do a job together.

    Attributes
    ----------
    index, world_size : int
        Number of this process among all, on all machines.
    local : int
        Number of this process on its machine.
    """

    index: int = 0
    world_size: int = 1
    local: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that does what must be done once."""
        return self.index == 0

    def device(self, name: str) -> str:
        """Return the device this process uses where all were given `name`: GPUs are dealt out.

        Several processes take no Apple GPU by themselves: they would share one, and gloo carries no tensors of it.
        """
        if self.world_size > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
            index = self.local % torch.cuda.device_count()
            torch.cuda.set_device(index)  # what names none, as pinned memory does, would take the first one too
            return f"cuda:{index}"
        return "cpu" if self.world_size > 1 and name == "auto" else name

    def broadcast_from_first(self, make: Callable[[], Value]) -> Value:
        """Return, in every process, what `make` returned in the first; the others do not call it."""
        if self.world_size == 1:
            return make()
        values: list[Any] = [make() if self.is_main else None]
        torch.distributed.broadcast_object_list(values, src=0)
        value: Value = values[0]
        return value

    def all_gather(self, value: Value) -> list[Value]:
        """Return, in every process, what each of them has, in the order of their indices."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def barrier(self) -> None:
        """Return when all processes have come to this point."""
        if self.world_size > 1:
            torch.distributed.barrier()


SINGLE_PROCESS = Rank()


def is_distributed() -> bool:
    """Return whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group() -> Iterator[Rank]:
    """Join the other processes for a while; alone where there are none."""
    if not is_distributed():
        yield SINGLE_PROCESS
        return
    store, index, count = next(rendezvous("env://", timeout=_PATIENCE))
    store = PrefixStore(rendezvous_name(store, index, count), store)
    rank = Rank(index, count, int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group(
        _backend(rank, store), store=store, rank=index, world_size=count, timeout=_PATIENCE
    )
    try:
        yield rank
    except RuntimeError as error:
        if not _says_that_a_peer_is_gone(error):
            raise
        raise CutonceError(
            f"process {index} of {count} stops, since another of them has ended: what that one said tells why"
        ) from error
    finally:
        torch.distributed.destroy_process_group()


def _says_that_a_peer_is_gone(error: RuntimeError) -> bool:
    """Return whether an error is the one that waiting for another process ends with when that is there no more."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()


def _backend(rank: Rank, store: Any) -> str:
    """Return what carries the tensors of each kind of device, the same in all processes.

    NCCL refuses two processes on one GPU. Gloo, which goes through the CPU's memory, does not: it serves all, if one
    machine has fewer GPUs than processes.
    """
    has_nccl = torch.cuda.is_available() and torch.distributed.is_nccl_available()
    has_gpu_of_its_own = has_nccl and rank.local < torch.cuda.device_count()
    store.set(f"gpu/{rank.index}", str(has_gpu_of_its_own))
    answers = [store.get(f"gpu/{index}").decode() for index in range(rank.world_size)]
    return "cpu:gloo,cuda:nccl" if all(answer == "True" for answer in answers) else "gloo"


def rendezvous_name(store: Any, index: int, count: int) -> str:
    """Return a name for this life of the job, the same in all its processes, once all of them are there.

    torchrun keeps one store over all restarts, with the addresses that dead processes have left in it; a process that
    reads one of those waits for nobody (pytorch issue 135712). The number of restarts cannot tell the lives apart, as
    each machine counts its own. So the first process invents a name, and answers those that call it by that name.
    """
    life = uuid4().hex
    if index == 0:
        store.set("life", life)
        for peer in range(1, count):
            store.set(f"{life}/answer/{peer}", store.get(f"{life}/call/{peer}"))
        return life
    while True:
        name: str = store.get("life").decode()
        store.set(f"{name}/call/{index}", life)
        for _ in range(_CALLS):
            if store.check([f"{name}/answer/{index}"]) and store.get(f"{name}/answer/{index}").decode() == life:
                return name
            time.sleep(_CALL_SECONDS)
