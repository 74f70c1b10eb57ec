"""Functions in processes that were forked."""

import contextvars
import inspect
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import sklearn.exceptions
import sklearn.utils.parallel
import torch
from threadpoolctl import ThreadpoolController

from cache.errors import UsageError
from stages.runtime import threads
from stages.runtime.threads import one_thread_per_fit, single_thread_pool, usable_after_fork

ROOT = Path(__file__).parents[3]

SETTING = contextvars.ContextVar("setting", default="default")


@usable_after_fork
def product(size: int, *, setting: str = "none") -> tuple[str, float, str]:
    """Over several threads, where there are several cores."""
    return (
        threading.current_thread().name,
        float(torch.ones(size, size).mm(torch.ones(size, size)).sum()),
        SETTING.get(),
    )


@usable_after_fork
def refused(message):
    raise RuntimeError(message)


@pytest.fixture
def forked():
    before, setting = torch.get_num_threads(), SETTING.set("changed")
    torch.set_num_threads(max(before, 2))
    product(512)  # makes a team of threads, which the fork has not
    with multiprocessing.get_context("fork").Pool(1) as process_pool:
        yield lambda function, argument: process_pool.apply_async(function, [argument]).get(timeout=120)
    SETTING.reset(setting)
    torch.set_num_threads(before)


def test_a_forked_process_computes_in_a_thread_of_its_own_with_the_context_of_the_caller(forked):
    name, total, setting = forked(product, 512)
    assert name.startswith("forked")
    assert total == 512**3
    assert setting == "changed"


def test_elsewhere_the_function_is_called_as_it_is():
    assert product(8)[0] == threading.current_thread().name
    assert list(inspect.signature(product).parameters) == ["size", "setting"]


@pytest.mark.parametrize(
    "message",
    [
        "Unable to handle autograd's threading in combination with fork-based multiprocessing. See .../Autograd-and-Fork",
        "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use ...",
    ],
)
def test_what_torch_refuses_in_a_fork_is_told_with_what_helps(forked, message):
    with pytest.raises(UsageError, match=r"was forked from one that had trained or used a GPU.*get_context\('spawn'\)"):
        forked(refused, message)
    with pytest.raises(RuntimeError, match="another"):
        forked(refused, "another")


@pytest.mark.parametrize("fit", ["all", "some", "none"])
def test_of_the_threads_of_a_pool_those_work_whose_memory_is_kept(monkeypatch, fit):
    asked, works, together = [], [], threading.Barrier(3)

    def in_main_arena():
        asked.append(threading.current_thread().name)
        return {"all": True, "some": len(asked) % 4 == 0, "none": False}[fit]

    def work(number):
        together.wait(timeout=60)  # as many at a time as the pool is for, not one fewer
        works.append(threading.current_thread().name)
        return number * torch.get_num_threads()

    monkeypatch.setattr(threads, "count_arenas", lambda: 4)
    monkeypatch.setattr(threads, "in_main_arena", in_main_arena)
    before = threading.active_count()
    with single_thread_pool(3, "compute") as pool:
        assert list(pool.map(work, range(30))) == list(range(30))
    assert len(set(works)) == 3
    assert fit != "some" or set(works) == {asked[3], asked[7], asked[11]}
    assert threading.active_count() == before


def test_a_pool_that_cannot_be_filled_ends(monkeypatch):
    monkeypatch.setattr(threads, "count_arenas", lambda: 4)
    monkeypatch.setattr(threads, "in_main_arena", lambda: True)
    start = threading.Thread.start

    def fails_at_last(thread):
        if thread.name.endswith("_1"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fails_at_last)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="can't start new thread"), single_thread_pool(2, "compute"):
        pass
    assert threading.active_count() == before


def blas_threads():
    return [library["num_threads"] for library in ThreadpoolController().info() if library["user_api"] == "blas"]


def test_libraries_are_looked_for_once_and_again_when_another_blas_was_loaded(monkeypatch):
    made = []
    monkeypatch.setattr(threads, "_POOLS", threads._BLASPools())
    monkeypatch.setattr(threads, "ThreadpoolController", lambda: made.append(1) or ThreadpoolController())
    files = [frozenset({b"/libopenblas.so"})]
    monkeypatch.setattr(threads, "_blas_files", lambda: files[0])
    for _ in range(3):
        with one_thread_per_fit():
            assert set(blas_threads()) == {1}
    assert len(made) == 1
    monkeypatch.setitem(sys.modules, "a_module_without_blas", sys)
    with one_thread_per_fit():
        pass
    assert len(made) == 1
    files[0] |= {b"/libmkl_rt.so"}
    monkeypatch.setitem(sys.modules, "a_module_with_blas", sys)
    with one_thread_per_fit():
        pass
    assert len(made) == 2
    files[0] = None  # where the system does not tell, each module may have brought one
    monkeypatch.setitem(sys.modules, "one_more_module", sys)
    with one_thread_per_fit():
        pass
    assert len(made) == 3


def test_a_blas_that_is_loaded_later_is_held_too():
    script = """
from threadpoolctl import ThreadpoolController
from stages.runtime.threads import _POOLS

def held():
    with _POOLS.current().limit(limits=1, user_api="blas"):
        return [library["num_threads"] for library in ThreadpoolController().info() if library["user_api"] == "blas"]

first = held()
import scipy.linalg
then = held()
print(len(first) < len(then), set(first) | set(then))
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.strip() == "True {1}"


def test_what_scikit_learn_says_while_another_thread_has_taken_the_filters_away_is_not_shown():
    with warnings.catch_warnings(record=True) as shown, one_thread_per_fit():
        warnings.resetwarnings()  # as its workers do, to all threads
        warnings.warn_explicit("delayed without Parallel", UserWarning, sklearn.utils.parallel.__file__, 1)
        warnings.warn("not converged", sklearn.exceptions.ConvergenceWarning, stacklevel=1)
        warnings.warn("of somebody else", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["of somebody else"]
