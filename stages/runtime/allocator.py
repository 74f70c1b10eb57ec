"""glibc's allocator, told to keep what is freed: eager operators on a CPU otherwise fault in every output anew."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD = -1


_M_MMAP_THRESHOLD = -3


_M_ARENA_MAX = -8


def tune_malloc() -> bool:
    """Ask glibc's malloc to keep freed blocks instead of giving them back to the system.

    By default every activation above a threshold is mapped and unmapped again, so each operator of the network
    faults its whole output in page by page: most of the system time of a forward pass on a CPU. Threads share one
    arena: those that glibc makes for them cannot hold large blocks, and give them back whatever the settings. Returns
    whether the setting was made; elsewhere than on glibc it is neither needed nor possible.
    """
    if not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_ARENA_MAX: 1}
    return all(bool(mallopt(name, value)) for name, value in settings.items())


@contextmanager
def freed_memory_returned() -> Iterator[None]:
    """Give back to the system, when the block ends, what malloc was told to keep: hundreds of megabytes of a large job.

    For a process that goes on: a command's ends. It takes some hundredths of a second, and the next large blocks are
    faulted in anew, so it is for what is done once and not for each answer.
    """
    try:
        yield
    finally:
        if _is_glibc():
            ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    return sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"
