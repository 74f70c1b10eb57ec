"""glibc's allocator, told to keep what is freed: eager operators on a CPU otherwise fault in every output anew."""

from __future__ import annotations

import ctypes
import platform
import sys

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
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_ARENA_MAX: 1}
    return all(bool(mallopt(name, value)) for name, value in settings.items())
