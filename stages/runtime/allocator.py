"""glibc's allocator, told to keep what is freed: eager operators on a CPU otherwise fault in every output anew."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from functools import cache

_M_TRIM_THRESHOLD = -1


_M_MMAP_THRESHOLD = -3


_M_ARENA_MAX = -8


_BEYOND_THREADS_OWN = 1 << 14
"""Bytes of a block that comes from the arena of a thread: of smaller ones each thread keeps some, from wherever."""


def tune_malloc() -> bool:
    """Ask glibc's malloc to keep freed blocks instead of giving them back to the system.

    By default every activation above a threshold is mapped and unmapped again, so each operator of the network
    faults its whole output in page by page: most of the system time of a forward pass on a CPU. Returns
    whether the setting was made; elsewhere than on glibc it is neither needed nor possible.
    """
    libc = _glibc()
    if libc is None or not share_one_arena():
        return False
    settings = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: (1 << 31) - 1}
    return all(bool(libc.mallopt(name, value)) for name, value in settings.items())


def share_one_arena() -> bool:
    """Let threads that start from now on have no arena of their own, and return whether that was possible.

    Arenas that glibc makes for threads cannot hold large blocks, and give them back whatever is set. What has been made
    stays, and is handed to later threads in turn: so commands call this before all else. Where a library is called
    there may be some already, see :func:`in_main_arena`.
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_M_ARENA_MAX, 1))


def count_arenas() -> int:
    """Return how many arenas there are; 1 elsewhere than on glibc."""
    libc = _glibc()
    if libc is None:
        return 1
    text, size = ctypes.c_void_p(), ctypes.c_size_t()
    stream = libc.open_memstream(ctypes.byref(text), ctypes.byref(size))
    if not stream:
        return 1
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    try:
        return max(len(re.findall(rb"<heap nr=", ctypes.string_at(text.value or 0, size.value))), 1)
    finally:
        libc.free(text)


def in_main_arena() -> bool:
    """Return whether large blocks of this thread come from the arena of the main thread, which keeps them.

    That one grows at the end of the process's data, below which nothing of another arena lies. True elsewhere than on
    glibc.
    """
    libc = _glibc()
    if libc is None:
        return True
    block = libc.malloc(_BEYOND_THREADS_OWN)
    libc.free(block)
    return bool(block < libc.sbrk(0))


@cache
def _glibc() -> ctypes.CDLL | None:
    """Return the functions of the process, of its allocator above all, where its C library is glibc.

    Where another allocator was put before glibc's, such as jemalloc, that has one arena, which is never used.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return None
    process = ctypes.CDLL(None)
    process.malloc.argtypes, process.malloc.restype = [ctypes.c_size_t], ctypes.c_size_t
    process.free.argtypes = [ctypes.c_void_p]
    process.sbrk.argtypes, process.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_size_t
    process.open_memstream.restype = ctypes.c_void_p
    process.malloc_info.argtypes, process.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
    return process
