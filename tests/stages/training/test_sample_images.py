"""Batches of samples that have unlike numbers of images."""

import pytest
import torch

from stages.training.sample_images import SampleImages, bounded_runs, parts_of

SIZES = (2, 1, 3, 5, 1)


def batch(at_a_time=100):
    places = tuple(place for size in SIZES for place in range(size))
    return SampleImages(torch.arange(12), SIZES, places, at_a_time), torch.arange(5) * 10


@pytest.mark.parametrize(
    ("count", "at_a_time", "sizes"),
    [
        (1, 100, [(2, 1, 3, 5, 1)]),
        (2, 100, [(2, 1, 3), (5, 1)]),
        (1, 4, [(2, 1), (3,), (5,), (1,)]),
        (2, 6, [(2, 1, 3), (5, 1)]),
        (5, 100, [(2,), (1,), (3,), (5,), (1,)]),
    ],
)
def test_no_part_has_more_images_than_may_be_computed_at_once_but_for_a_sample_that_does_itself(
    count, at_a_time, sizes
):
    inputs, targets = batch(at_a_time)
    parts = list(parts_of(inputs, targets, count))
    assert [part.sizes for part, _ in parts] == sizes
    assert torch.equal(torch.cat([part.images for part, _ in parts]), inputs.images)
    assert sum((part.places for part, _ in parts), ()) == inputs.places
    assert torch.equal(torch.cat([part_targets for _, part_targets in parts]), targets)
    assert all(len(part) == len(part_targets) for part, part_targets in parts)


def test_a_tensor_is_split_as_torch_splits_it():
    rows, targets = torch.arange(20).reshape(10, 2), torch.arange(10)
    parts = list(parts_of(rows, targets, 3))
    assert [part.tolist() for part, _ in parts] == [part.tolist() for part in rows.tensor_split(3)]
    assert [part.tolist() for _, part in parts] == [part.tolist() for part in targets.tensor_split(3)]


def test_runs_follow_each_other():
    assert bounded_runs([1] * 7, 3) == [range(3), range(3, 6), range(6, 7)]
    assert bounded_runs([], 3) == []
