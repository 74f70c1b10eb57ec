"""Heads on rows of several parts: they take rows as they are, whatever was done to them while they were fitted."""

import pytest
import torch

from stages.network.aggregate import Aggregate, padded
from stages.network.heads.blocks import AggregatedBlocksHead, JoinedHead, WeightedBlocksHead, weigh_blocks
from stages.network.heads.linear import LinearHead
from stages.network.heads.mlp import MLPHead
from stages.network.heads.serialization import load_head, save_head

ROWS = torch.randn(9, 7, generator=torch.Generator().manual_seed(0)) * 5 + 3
OFFSET, FACTOR = torch.linspace(-1, 3, 7), torch.linspace(0.1, 30, 7)


@pytest.mark.parametrize(("head_class", "wrapped"), [(LinearHead, False), (MLPHead, True)])
@pytest.mark.parametrize("outputs", [1, 3])
def test_what_was_done_to_rows_becomes_part_of_the_head(head_class, wrapped, outputs):
    torch.manual_seed(0)
    head = head_class((7,), outputs).eval()
    weighed = weigh_blocks(head, OFFSET.numpy(), FACTOR.numpy())
    assert isinstance(weighed, WeightedBlocksHead) == wrapped
    torch.testing.assert_close(weighed(ROWS), head((ROWS - OFFSET) * FACTOR), rtol=1e-4, atol=1e-4)


def test_the_features_of_images_are_brought_to_length_one_where_they_were():
    torch.manual_seed(0)
    head = LinearHead((7,), 2).eval()
    weighed = weigh_blocks(head, OFFSET.numpy(), FACTOR.numpy(), normalized=5)
    rows = torch.cat([ROWS[:, :5] / ROWS[:, :5].norm(dim=1, keepdim=True), ROWS[:, 5:]], dim=1)
    torch.testing.assert_close(weighed(ROWS), head((rows - OFFSET) * FACTOR))


@pytest.mark.parametrize("encoder", ["linear", "mlp", "cosine"])
def test_a_head_of_two_encoders_comes_back_from_disk(tmp_path, encoder):
    torch.manual_seed(0)
    joined = JoinedHead((7,), 3, encoder, columns=2, hidden=8).eval()
    head = weigh_blocks(joined, OFFSET.numpy(), FACTOR.numpy())
    save_head(tmp_path / "head", head, {})
    loaded, _ = load_head(tmp_path / "head")
    assert torch.equal(loaded(ROWS), head(ROWS))
    moved = ROWS.clone()
    moved[:, 5:] += 1  # both parts tell
    assert not torch.equal(loaded(moved), head(ROWS))
    assert joined.stackable == (encoder != "concat")


@pytest.mark.parametrize("kind", ["mean", "concat"])
def test_samples_of_several_images_become_a_row_before_the_columns_are_beside_it(tmp_path, kind):
    torch.manual_seed(0)
    aggregate = Aggregate(kind, places=2, features=4)
    inner = LinearHead((aggregate.width + 3,), 2).eval()
    save_head(tmp_path / "head", AggregatedBlocksHead(aggregate, inner, 3), {})
    loaded, _ = load_head(tmp_path / "head")
    bags = padded(torch.randn(3, 4), [2, 1], [0, 1, 1], 2)
    columns = torch.randn(2, 3)
    expected = inner(torch.cat([aggregate(bags), columns], dim=1))
    torch.testing.assert_close(loaded(torch.cat([bags.flatten(1), columns], dim=1)), expected)
