"""Functions in processes that were forked."""

import contextvars
import inspect
import multiprocessing
import threading

import pytest
import torch

from cache.errors import UsageError
from stages.runtime.threads import usable_after_fork

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
