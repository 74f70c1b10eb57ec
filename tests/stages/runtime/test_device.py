"""What a device can hold; which one is chosen is held by the tests of the machine."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cache.errors import CutonceError, UsageError
from stages.runtime.device import free_memory, is_lost, require_computing, resolve_device, tf32, to_device
from tests.pretended_cuda import DeviceError

CUDA = torch.device("cuda:0")


def test_threads_at_once_compute_each_in_its_own_arithmetic_and_leave_the_settings_as_they_were():
    def settings():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    def inside(number):
        with tf32(allowed=number % 2 == 1):
            time.sleep(1e-4)  # others go on
            return settings() == (number % 2 == 1,) * 2

    before = settings()
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(inside, range(100)))
    assert settings() == before


def test_memory_that_torch_holds_for_later_is_free(monkeypatch, pretended_cuda):
    pretended_cuda.free = 100
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 30)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 70)
    assert free_memory(torch.device("cuda")) == 140


def test_apples_gpu_is_given_no_float64(monkeypatch):
    given = []
    waits = []

    def to(tensor, device, *, non_blocking):
        given.append((device.type, tensor.dtype))
        waits.append((device.type, not non_blocking))

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # there may be nobody to pin it for
    for name in ("mps", "cuda"):
        for dtype in (torch.float64, torch.int64):
            to_device(torch.zeros(1, dtype=dtype), torch.device(name))
    assert given == [
        ("mps", torch.float32),
        ("mps", torch.int64),
        ("cuda", torch.float64),
        ("cuda", torch.int64),
    ]
    assert set(waits) == {("mps", True), ("cuda", False)}  # whose memory is kept until it is copied


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_as_it_was_afterwards_even_after_an_error(allowed):
    def settings():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = settings()
    with pytest.raises(KeyError), tf32(allowed=allowed):
        assert settings() == (allowed, allowed)
        raise KeyError
    assert settings() == before


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has one name for it yet")
def test_who_has_set_it_by_torchs_newer_name_finds_it_as_it_was():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cudnn.allow_tf32, matmul.allow_tf32
    try:
        matmul.fp32_precision, cudnn.conv.fp32_precision = "tf32", "ieee"
        with pytest.raises(RuntimeError):
            matmul.allow_tf32  # noqa: B018
        with tf32(allowed=False):
            assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
        assert (matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("tf32", "ieee", "tf32")
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def test_short_memory_is_no_lost_device_whoever_says_so():
    assert is_lost(RuntimeError("CUDA error: unspecified launch failure"))
    assert is_lost(DeviceError("CUDA error: misaligned address")) == (DeviceError is not RuntimeError)
    assert not is_lost(DeviceError("CUDA error: out of memory"))
    assert not is_lost(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_lost(RuntimeError("decoding failed"))


OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)


def test_why_there_is_no_gpu_is_told(monkeypatch):
    def told():
        with pytest.raises(
            UsageError, match=r"`device` cuda:7 is not available on this machine .*; use `device` auto"
        ) as error:
            resolve_device("cuda:7")
        return str(error.value).split("(", 1)[1].rsplit(")", 1)[0]

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", lambda: (_ for _ in ()).throw(RuntimeError(OLD_DRIVER)))
    assert told() == "The NVIDIA driver on your system is too old (found version 11040)"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert told() == "it has cuda:0 to cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert told() == f"torch {torch.__version__} is a build for CPUs alone"


def test_a_device_that_does_not_compute_is_told_before_anything_is_begun(pretended_cuda, monkeypatch):
    require_computing(torch.device("cpu"))
    require_computing(CUDA)
    pretended_cuda.largest_allocation = 1
    with pytest.raises(CutonceError, match="the memory of cuda:0 is taken: free some of it, or use `device` cpu"):
        require_computing(CUDA)
    pretended_cuda.largest_allocation = None
    no_code = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be"
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: (_ for _ in ()).throw(DeviceError(no_code)))
    if DeviceError is RuntimeError:
        pytest.skip("torch has no error of its own for that yet")
    with pytest.raises(
        UsageError,
        match=r"`device` cuda:0, Pretended GPU \(compute capability 9.0\) does not compute with torch .*"
        r"\(CUDA error: no kernel image is available for execution on the device\); use a torch",
    ):
        require_computing(CUDA)
