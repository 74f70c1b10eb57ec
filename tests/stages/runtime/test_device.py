"""What a device can hold; which one is chosen is held by the tests of the machine."""

import pytest
import torch

from stages.runtime.device import free_memory, tf32, to_device


def test_memory_that_torch_holds_for_later_is_free(monkeypatch, pretended_cuda):
    pretended_cuda.free = 100
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 30)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 70)
    assert free_memory(torch.device("cuda")) == 140


def test_apples_gpu_is_given_no_float64(monkeypatch):
    given = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, **_: given.append((device.type, tensor.dtype)))
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


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_as_it_was_afterwards_even_after_an_error(allowed):
    def settings():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = settings()
    with pytest.raises(KeyError), tf32(allowed=allowed):
        assert settings() == (allowed, allowed)
        raise KeyError
    assert settings() == before
