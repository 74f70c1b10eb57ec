"""Threads that compute: pools whose members do not start threads of their own, and code held to one thread."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


def usable_cores() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def single_thread_pool(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
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


@contextmanager
def one_thread_per_fit() -> Iterator[None]:
    """Fit on one thread, and without warnings of models at the weak end of the grid: their scores say enough.

    BLAS threads inside small fits cost more than they bring; the fits themselves run side by side instead. The
    limit belongs to a process, so each task sets it where it runs; so does the caller, because tasks that are threads
    of one process would otherwise lift it for each other.
    """
    from sklearn.exceptions import ConvergenceWarning  # what never fits does not wait for scikit-learn

    with threadpool_limits(1, "blas"), single_threaded(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
