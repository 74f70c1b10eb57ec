"""Products of float32 are of float32 within, and the settings of who calls are as they were afterwards."""

import itertools
import threading

import pytest
import torch

from stages.runtime.float32 import float32_products


def older() -> list[object]:
    """What the older names say, and where torch says that they contradict the newer ones."""
    said: list[object] = []
    reads = (
        torch.get_float32_matmul_precision,
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda: torch.backends.cudnn.allow_tf32,
    )
    for read in reads:
        try:
            said.append(read())
        except RuntimeError:
            said.append("contradicted")
    return said


def parts() -> list[object]:
    backends = torch.backends
    cuda = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    return [*cuda, backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]


def newer() -> list[str]:
    owners = (torch.backends, torch.backends.cudnn, *parts())
    return [owner.fp32_precision for owner in owners]


def is_strict() -> bool:
    parts = newer()[2:]
    return older() == ["highest", False, False] and set(parts) <= {"ieee"}


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    for owner in (torch.backends, torch.backends.cudnn, *parts()):
        owner.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for owner in parts()[2:]:
        owner.fp32_precision = "none"


def set_parts(**values: str) -> None:
    for name, value in values.items():
        owner = torch.backends
        for part in filter(None, name.split("_")):
            owner = getattr(owner, part)
        owner.fp32_precision = value


SETTINGS = {
    "nothing": lambda: None,
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "matrices by the older name": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "no convolutions by the older name": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "all by the newer name": lambda: set_parts(_="tf32"),
    "all strict by the newer name": lambda: set_parts(_="ieee"),
    "cudnn by the newer name": lambda: set_parts(cudnn="tf32"),
    "parts by the newer name": lambda: set_parts(cuda_matmul="tf32", cudnn_conv="ieee", mkldnn_matmul="bf16"),
    "a part unlike all": lambda: set_parts(_="ieee", cuda_matmul="tf32", mkldnn_conv="tf32"),
    "a part like all": lambda: set_parts(_="tf32", cuda_matmul="tf32"),
    "both names": lambda: (torch.set_float32_matmul_precision("high"), set_parts(cuda_matmul="ieee")),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_was_set_is_as_it_was_afterwards_even_after_an_error(name):
    SETTINGS[name]()
    before = older(), newer()
    for tf32 in (False, True):
        with pytest.raises(KeyError), float32_products(tf32=tf32):
            assert is_strict() == (not tf32)
            if tf32:
                assert older() == ["high", True, True]
                assert newer()[2:] == ["tf32"] * 3 + ["ieee"] * 3
            raise KeyError
        assert (older(), newer()) == before
    followed = []
    for _ in range(2):
        for value in ("tf32", "ieee", "none"):
            torch.backends.fp32_precision = value
            followed.append(newer()[4:])
        torch.backends.fp32_precision = before[1][0]
        with float32_products():
            pass
    assert followed[:3] == followed[3:]  # what went by the precision of all still does, and nothing else


def test_it_is_as_the_last_one_says_while_anyone_is_within_in_whatever_order_they_leave():
    torch.set_float32_matmul_precision("medium")
    before = older(), newer()
    first, second, third = (float32_products(tf32=tf32) for tf32 in (False, True, False))
    first.__enter__()
    second.__enter__()
    assert not is_strict()
    third.__enter__()
    assert is_strict()
    first.__exit__(None, None, None)
    assert is_strict()
    third.__exit__(None, None, None)
    assert not is_strict()
    second.__exit__(None, None, None)
    assert (older(), newer()) == before


def test_threads_that_come_and_go_leave_what_was_set():
    torch.set_float32_matmul_precision("medium")
    before, wrong = (older(), newer()), []

    def come_and_go() -> None:
        for _ in range(200):
            with float32_products():
                if not is_strict():
                    wrong.append(newer())

    threads = [threading.Thread(target=come_and_go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert (older(), newer()) == before


@float32_products()
def within() -> bool:
    return is_strict()


def test_a_function_of_it_is_within_at_every_call():
    torch.set_float32_matmul_precision("medium")
    assert [within() for _ in range(3)] == [True] * 3
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize(("rows", "threads"), [*itertools.product((40, 2000), (1, 2))])
def test_a_product_on_a_cpu_has_the_bits_that_it_has_where_nothing_is_set(rows, threads):
    numbers = torch.Generator().manual_seed(rows)
    left, right = torch.randn(rows, 1280, generator=numbers), torch.randn(1280, 300, generator=numbers)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        plain = left @ right, torch.cdist(left, left)
        torch.set_float32_matmul_precision("medium")
        with float32_products():
            within = left @ right, torch.cdist(left, left)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in zip(plain, within, strict=True))
