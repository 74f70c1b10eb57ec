"""Threads that compute: pools whose members do not start threads of their own, code held to one thread, and forks."""

from __future__ import annotations

import gc
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial, wraps
from pathlib import Path
from typing import ParamSpec, TextIO, TypeVar

import torch
from threadpoolctl import ThreadpoolController

from cache.errors import UsageError
from stages.runtime.allocator import count_arenas, in_main_arena
from stages.runtime.cgroup import cores_allowed

_LOADED_IN = os.getpid()
"""The process that imported this; where another one has it, that was forked."""

_MOST_WAITING = 256
"""Threads that a pool starts at most beyond those that work."""

_REFUSED_AFTER_FORK = ("Autograd-and-Fork", "in forked subprocess")
"""In the errors of torch for what it cannot do in a forked process."""

_BLAS_FILES = re.compile(rb"/[^/\n]*(?:blas|blis|mkl_rt|flexiblas)[^/\n]*$", re.MULTILINE)
"""Ends of lines of ``/proc/self/maps`` that name a library with BLAS in it, or one that is called so."""

ParametersT = ParamSpec("ParametersT")
ResultT = TypeVar("ResultT")


def usable_after_fork(function: Callable[ParametersT, ResultT]) -> Callable[ParametersT, ResultT]:
    """Let a function be called in a process that was forked from one that computed: there it has a thread of its own.

    GNU's OpenMP, which torch computes with, keeps a team of threads for each thread that once computed on several. A
    fork takes over what it knows of the team, but none of its threads, and the next operator waits for them for ever. A
    new thread begins with a team of its own.

    Raises
    ------
    UsageError
        In a forked process, where torch refuses to train, since the one before had, or to use a GPU that that used.
    """

    @wraps(function)
    def call(*args: ParametersT.args, **kwargs: ParametersT.kwargs) -> ResultT:
        if os.getpid() == _LOADED_IN:
            return function(*args, **kwargs)
        with ThreadPoolExecutor(1, "forked") as pool:
            try:
                return pool.submit(copy_context().run, partial(function, *args, **kwargs)).result()
            except RuntimeError as error:
                if any(phrase in str(error) for phrase in _REFUSED_AFTER_FORK):
                    raise UsageError(
                        "this process was forked from one that had trained or used a GPU, and torch cannot do so again "
                        "in it: start it with multiprocessing.get_context('spawn')"
                    ) from error
                raise

    return call


def keep_what_is_inherited(worker: int = 0) -> None:
    """Leave what a forked process has from the one before out of its searches for garbage, while it lives.

    Sessions of ONNX Runtime and scalers of FFmpeg have threads, which they wait for when they are destroyed. A fork
    takes over the objects and none of the threads: destroying one that was garbage, or becomes it, never ends. So the
    process before looks for its own garbage (`gc.collect`) just before it forks, and the new one calls this first.

    Parameters
    ----------
    worker : int
        Number of a loading process: this is for `worker_init_fn` of torch's loaders.
    """
    gc.freeze()


def usable_cores() -> int:
    """Return how many processors this process may use at a time, as the limits of a container or a job are."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = cores_allowed()
    return cores if allowed is None else max(min(cores, math.ceil(allowed)), 1)


@contextmanager
def single_thread_pool(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Open a pool of threads that each compute alone, so that they do not fight each other for the cores.

    torch keeps a number of threads for each thread, taken from a process-wide one when the thread first asks. Setting
    it in a thread of the pool changes the process-wide one too. So this thread asks before that can happen, and says
    its own number again at the end, for threads that are started later. A thread of the pool asks, too, before it sets
    its number: else its first operator would take whatever another pool has said by then, and with another number of
    threads a sum comes out with other bits.

    Where some of the threads that glibc hands out could not keep large blocks of memory
    (:func:`~stages.runtime.allocator.in_main_arena`), more are started, and those work that can.
    """
    torch.get_num_threads()
    arenas = count_arenas()
    most = count if arenas == 1 else min((count + 1) * arenas, count + _MOST_WAITING)
    admission = _Admission(count)
    pool = ThreadPoolExecutor(most, name, initializer=admission.enter)
    try:
        if most > count:
            admission.fill(pool, most)
        yield pool
    finally:
        admission.end()
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(torch.get_num_threads())


class _Admission:
    """Lets as many threads of a pool work as it is for, of those first whose large blocks of memory are kept.

    A thread gets its arena when it starts, in turn, and cannot change it: one in another arena than the main one would
    fault every large block in anew. Others wait until the pool ends, since the arena of a thread that ended would go to
    the next.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._settled = 0
        self._choosing = False
        self._ended = False
        self._changed = threading.Condition()

    def enter(self) -> None:
        """Begin to work, in a new thread of the pool, or wait until the pool ends."""
        torch.get_num_threads()
        torch.set_num_threads(1)
        with self._changed:
            kept = not self._choosing or in_main_arena()
            self._settled += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ended or bool(self._free and (kept or not self._choosing)))
            self._free -= 1

    def fill(self, pool: ThreadPoolExecutor, most: int) -> None:
        """Start threads, `most` at most, until enough of them work; where too few are fit, others do, too."""
        self._choosing = True
        filled = threading.Event()
        try:
            for started in range(1, most + 1):
                pool.submit(filled.wait)  # those that work have work, so that each call starts one more
                with self._changed:
                    self._changed.wait_for(partial(self._has_settled, started))
                    if not self._free:
                        break
            with self._changed:
                self._choosing = False
                self._changed.notify_all()
        finally:
            filled.set()

    def _has_settled(self, threads: int) -> bool:
        return self._settled == threads

    def end(self) -> None:
        """Let those that wait see that the pool ends."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()


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

    Filters of warnings belong to a process too, and scikit-learn's own workers take all of them away for a moment, each
    in its thread; what another says meanwhile, that there are no filters too, is left unsaid.
    """
    from sklearn.exceptions import ConvergenceWarning  # what never fits does not wait for scikit-learn

    show = warnings.showwarning

    def show_others(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, ConvergenceWarning) and "sklearn" not in Path(filename).parts:
            show(message, category, filename, lineno, file, line)

    with _POOLS.current().limit(limits=1, user_api="blas"), single_threaded(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.showwarning = show_others
        yield


class _BLASPools:
    """The thread pools of the BLAS libraries of this process, which are looked for again once another one is loaded.

    Looking takes a second where CUDA's libraries are there, and a search asks for each of its fits. A library comes
    with a module that is imported: so long as there are as many modules, nothing is looked at, and so long as the
    process maps the same files of such names, nothing is looked for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._controller: ThreadpoolController | None = None
        self._modules = 0
        self._files: frozenset[bytes] | None = None

    def current(self) -> ThreadpoolController:
        """Return what holds all of them that are loaded."""
        with self._lock:
            modules = len(sys.modules)
            if self._controller is None or modules != self._modules:
                files = _blas_files()
                if self._controller is None or files is None or files != self._files:
                    self._controller = ThreadpoolController()
                self._modules, self._files = modules, files
            return self._controller


def _blas_files() -> frozenset[bytes] | None:
    """Return the names of the libraries of this process that may hold BLAS; None where the system does not tell."""
    try:
        return frozenset(_BLAS_FILES.findall(Path("/proc/self/maps").read_bytes()))
    except OSError:
        return None


_POOLS = _BLASPools()
