"""What a piece of work costs: wall and processor seconds, and the most memory it held."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch


@dataclass
class Cost:
    """The cost of one piece of work; filled when the ``with measured()`` block ends.

    Attributes
    ----------
    seconds : float
        Wall-clock time.
    cpu_seconds : float
        Processor time of this process and the child processes that ended within the block.
    peak_memory_bytes : int
        Largest resident size of this process, with what its children hold beyond what they share with it, sampled
        every 100 ms, plus what CUDA allocated at most.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both, one after the other."""
        return Cost(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_memory_bytes, other.peak_memory_bytes),
        )


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure the block: ``with measured() as cost: ...``; `cost` is filled even where the block raises."""
    process = psutil.Process()
    cost = Cost()
    finished = threading.Event()

    def sample_until_finished() -> None:
        while True:
            cost.peak_memory_bytes = max(cost.peak_memory_bytes, _resident_bytes(process))
            if finished.wait(0.1):
                return

    for device in _gpus_in_use():
        torch.cuda.reset_peak_memory_stats(device)
    sampler = threading.Thread(target=sample_until_finished, name="peak-memory", daemon=True)
    wall, cpu = time.perf_counter(), _cpu_seconds(process)
    sampler.start()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - wall
        cost.cpu_seconds = _cpu_seconds(process) - cpu
        finished.set()
        sampler.join()
        cost.peak_memory_bytes += sum(torch.cuda.max_memory_allocated(device) for device in _gpus_in_use())


def _gpus_in_use() -> range:
    """Return the numbers of the GPUs if this process uses any yet: to ask begins with one, on a run of the CPU too."""
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)  # type: ignore[no-untyped-call]


def _resident_bytes(process: psutil.Process) -> int:
    total = int(process.memory_info().rss)
    for child in process.children(recursive=True):
        try:
            total += int(child.memory_full_info().uss)  # what it does not share with the process that forked it
        except psutil.NoSuchProcess:  # a worker that ended between the listing and the reading holds nothing
            continue
    return total


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
