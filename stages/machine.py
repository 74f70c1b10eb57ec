"""The machine the stages run on: which device, how its allocator behaves, and what the report says of it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch

from cache.errors import UsageError

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` is CUDA, then Apple's MPS, then the CPU, whichever is there first.

    Raises
    ------
    UsageError
        If the device is unknown or not available on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name} is not a device; use auto, cpu, cuda, cuda:1 or mps") from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise UsageError(f"--device {name} is not available on this machine; use --device auto or cpu")
    return device


def keep_freed_memory() -> bool:
    """Ask glibc's malloc to keep freed blocks instead of giving them back to the system.

    By default every activation above a threshold is mapped and unmapped again, so each operator of the network
    faults its whole output in page by page: most of the system time of a forward pass on a CPU. Threads share one
    arena: those that glibc makes for them cannot hold large blocks, and give them back whatever the settings. Returns
    whether the setting was made; elsewhere than on glibc it is neither needed nor possible.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_ARENA_MAX: 1}
    return all(bool(mallopt(name, value)) for name, value in settings.items())


def usable_cores() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def multiplies_bfloat16(device: torch.device) -> bool:
    """Say whether a device has instructions for products of bfloat16; elsewhere they are emulated, which is slow.

    Of processors those with AVX-512 BF16 or AMX, read from ``/proc/cpuinfo``: on others torch has not been seen to
    convolve in it quickly, and where there is no such file the answer is no. Of Apple's GPUs none: no gain was seen.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpuinfo = Path("/proc/cpuinfo")
    if device.type != "cpu" or not cpuinfo.exists():
        return False
    return lists_bfloat16(cpuinfo.read_text(encoding="utf-8"))


def lists_bfloat16(cpuinfo: str) -> bool:
    """Say whether the flags of an x86 processor, as ``/proc/cpuinfo`` has them, hold products of bfloat16."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpuinfo.split())


@contextmanager
def computing_threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Open a pool of threads that each compute alone, so that they do not fight each other for the cores.

    torch keeps a number of threads for each thread, taken from a process-wide one when the thread first asks. Setting
    it in a thread of the pool changes the process-wide one too. So this thread asks before that can happen, and says
    its own number again at the end, for threads that are started later. A thread of the pool asks, too, before it sets
    its number: else its first operator would take whatever another pool has said by then, and with another number of
    threads a sum comes out with other bits.
    """

    def compute_alone() -> None:
        torch.get_num_threads()
        torch.set_num_threads(1)

    torch.get_num_threads()
    pool = ThreadPoolExecutor(count, name, initializer=compute_alone)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(torch.get_num_threads())


@contextmanager
def single_threaded() -> Iterator[None]:
    """Run torch's CPU operators of the block on one thread.

    Steps over a few dozen rows are too small to share: the threads cost more in waiting for each other than they
    save, and many times more where other processes use the cores too.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def describe_machine() -> dict[str, str]:
    """Return what a reader needs to repeat a run: system, processor, devices and the versions of the libraries."""
    packages = ("cutpoint", "torch", "torchvision", "timm", "h5py", "numpy", "scikit-learn")
    versions = {name: metadata.version(name) for name in packages if _installed(name)}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": str(usable_cores()),
        "accelerators": ", ".join(gpus) or ("Apple MPS" if torch.backends.mps.is_available() else "none"),
        "torch threads": str(torch.get_num_threads()),
        **versions,
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
