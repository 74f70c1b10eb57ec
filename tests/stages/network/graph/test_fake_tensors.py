from threading import Thread

import torch
from torch import nn

from stages.network.graph.fake_tensors import PeakMemoryMode, storages, without_computing


def test_nothing_is_computed_and_shapes_are_known():
    with without_computing(nn.Identity()):
        output = nn.Conv2d(3, 8, 3, stride=2)(torch.zeros(10_007, 3, 224, 224))
    assert output.shape == (10_007, 8, 111, 111)
    assert torch.backends.mha.get_fastpath_enabled()


def test_threads_that_ended_before_leave_nothing_that_the_next_would_stumble_over(monkeypatch):
    """With torch 2.11 and no GPU it is the end of the process."""
    entered = []

    def enter() -> None:
        with without_computing(nn.Identity()):
            entered.append(torch.zeros(2).shape)

    kept_by_threads = torch._C._ensureCUDADeviceGuardSet
    monkeypatch.setattr(torch._C, "_ensureCUDADeviceGuardSet", lambda: (entered.append("kept"), kept_by_threads()))
    for _ in range(3):
        thread = Thread(target=enter)
        thread.start()
        thread.join()
    assert entered == [(2,)] * 3


def test_the_peak_is_what_is_there_at_one_time_and_views_take_nothing():
    with PeakMemoryMode() as memory:
        first = torch.zeros(1000)
        second = first.view(10, 100) + 1
        del first
        second.mul_(2)
        torch.zeros(500)
    assert memory.peak == 8000


def test_views_of_one_piece_of_memory_are_one():
    tensor = torch.zeros(6)
    assert list(storages([tensor, [tensor[2:], {"a": tensor.view(2, 3)}], torch.zeros(3), 5]).values()) == [24, 12]


class Remembering(nn.Module):
    """Keeps what it computed, in each of the ways that networks do."""

    def __init__(self):
        super().__init__()
        self.last = torch.zeros(1)
        self.by_size = {"4": torch.ones(4)}
        self.seen = []
        self.register_buffer("sums", torch.zeros(2))

    def forward(self, x):
        self.last, self.new, self.sums = x + 1, x + 2, x.sum(0)
        self.by_size[str(len(x))] = x * 2
        self.seen.append(x.mean())
        return x


def test_what_a_network_keeps_of_a_pass_is_as_it_was_before_the_dry_run():
    network = nn.Sequential(Remembering())
    with without_computing(network):
        network(torch.zeros(3, 2))
    (kept,) = network
    assert kept.last.tolist() == [0]
    assert {size: tensor.tolist() for size, tensor in kept.by_size.items()} == {"4": [1, 1, 1, 1]}
    assert kept.seen == []
    assert kept.sums.tolist() == [0, 0]
    assert not hasattr(kept, "new")
