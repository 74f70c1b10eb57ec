"""From the images of a sample to one row."""

import pytest
import torch

from cache.errors import UsageError
from stages.network.aggregate import Aggregate, fit_aggregate, padded
from stages.network.heads.aggregated import AggregatedHead
from stages.network.heads.linear import LinearHead
from stages.network.heads.serialization import load_head, save_head

ROWS = torch.arange(10.0).view(5, 2)
"""Of two samples: places 0, 1, 2 of the first, 0 and 2 of the second."""


@pytest.fixture
def bags():
    return padded(ROWS, [3, 2], [0, 1, 2, 0, 2])


def test_bags_have_rows_at_their_places_and_say_where_there_are_none(bags):
    assert bags.shape == (2, 3, 3)
    assert torch.equal(bags[0], torch.cat([ROWS[:3], torch.ones(3, 1)], dim=1))
    assert bags[1].tolist() == [[6, 7, 1], [0, 0, 0], [8, 9, 1]]


def test_mean_and_maximum_are_over_the_images_that_there_are(bags):
    assert Aggregate("mean", 3, 2)(bags).tolist() == [[2, 3], [7, 8]]
    assert Aggregate("max", 3, 2)(-bags.mul(torch.tensor([1, 1, -1])))[1].tolist() == [-6, -7]
    wider = torch.cat([bags, torch.zeros(2, 4, 3)], dim=1)
    for kind in ("mean", "max"):
        assert torch.equal(Aggregate(kind, 3, 2)(wider), Aggregate(kind, 3, 2)(bags))


def test_side_by_side_a_missing_view_has_the_training_mean_and_is_said(bags):
    train = padded(torch.tensor([[1.0, 2], [3, 4], [5, 8]]), [2, 1], [0, 1, 0], 2)
    aggregate = fit_aggregate("concat", 2, 2, [train[:1], train[1:]])
    assert aggregate.indicators == [1]
    assert aggregate.width == 5
    assert aggregate.fill.tolist() == [[3, 5], [3, 4]]
    assert aggregate(train).tolist() == [[1, 2, 3, 4, 0], [5, 8, 3, 4, 1]]
    unseen = padded(torch.tensor([[7.0, 7]]), [1], [1], 2)
    assert aggregate(unseen).tolist() == [[3, 5, 7, 7, 0]]
    with pytest.raises(UsageError, match="was fitted to samples of 2 images, and these have 3"):
        aggregate(bags)


def test_a_head_on_aggregated_rows_is_saved_with_what_makes_them(bags, tmp_path):
    aggregate = fit_aggregate("concat", 3, 2, [bags])
    head = AggregatedHead(aggregate, LinearHead((7,), 2))
    save_head(tmp_path / "head", head, {})
    loaded, _ = load_head(tmp_path / "head")
    assert torch.equal(loaded(bags), head(bags))
    assert loaded.takes_bags
