"""Batches of one size through steps, each of which is recorded for itself; what does not fit goes in parts."""

import weakref

import pytest
import torch

from cache.errors import CutonceError
from stages.extraction.full_batches import FullBatches

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


def images_of(count):
    return torch.arange(count * 3 * 2 * 2).view(count, 3, 2, 2).to(torch.uint8)


class Steps:
    """Two steps that tell how many images they are given."""

    def __init__(self, most=None):
        self.sizes, self.most = [], most

    def first(self, images):
        self.sizes.append(len(images))
        if self.most is not None and len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [images.float().mean((2, 3))]

    def second(self, means):
        return [means * 2, means.sum(1)]


def expected(images):
    means = images.float().mean((2, 3))
    return [means * 2, means.sum(1)]


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_a_batch_is_filled_up_and_gives_its_own_rows(gpu, device):
    steps = Steps()
    batches = FullBatches(steps.first, steps.second, device=device, size=5, recorded=device == CUDA)
    for count in (5, 2, 5, 1):
        images = images_of(count)
        for rows, wanted in zip(batches(images), expected(images), strict=True):
            assert torch.equal(rows.cpu(), wanted)
    assert set(steps.sizes) == {5}
    assert [graph.replays for graph in gpu.graphs] == ([4, 4] if device == CUDA else [])
    with pytest.raises(ValueError, match="6 images are more than a batch of 5"):
        batches(images_of(6))


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_is_recorded_is_let_go_of_without_the_garbage_collector(gpu, device, no_collector):
    steps = Steps()
    batches = FullBatches(steps.first, steps.second, device=device, size=5, recorded=device == CUDA)
    batches(images_of(2))
    gone = weakref.ref(batches), weakref.ref(steps)
    del batches, steps
    assert [reference() for reference in gone] == [None, None]


def test_batches_that_are_left_as_they_come_are_of_any_size():
    steps = Steps()
    batches = FullBatches(steps.first, steps.second, device=CPU, size=None, recorded=False)
    for count in (5, 2, 9):
        assert len(batches(images_of(count))[0]) == count
    assert steps.sizes == [5, 2, 9]


@pytest.mark.parametrize("size", [8, None])
def test_what_does_not_fit_goes_in_parts_that_are_full(size):
    steps = Steps(most=3)
    batches = FullBatches(steps.first, steps.second, device=CPU, size=size, recorded=False)
    with pytest.warns(UserWarning, match="not enough memory on cpu for the forward pass of 7 images: 4 at a time"):
        rows = batches(images_of(7))
    assert all(map(torch.equal, rows, expected(images_of(7))))
    steps.sizes.clear()
    batches(images_of(3))
    assert steps.sizes == ([2, 2] if size else [2, 1])
    steps.most = 0
    with pytest.warns(UserWarning, match="not enough"), pytest.raises(CutonceError, match="one image"):
        batches(images_of(2))
