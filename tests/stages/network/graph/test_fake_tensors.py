import torch
from torch import nn

from stages.network.graph.fake_tensors import PeakMemoryMode, storages, without_computing


def test_nothing_is_computed_and_shapes_are_known():
    with without_computing():
        output = nn.Conv2d(3, 8, 3, stride=2)(torch.zeros(10_007, 3, 224, 224))
    assert output.shape == (10_007, 8, 111, 111)
    assert torch.backends.mha.get_fastpath_enabled()


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
