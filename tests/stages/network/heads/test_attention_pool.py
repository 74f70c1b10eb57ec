"""Attention pooling against torch's own attention, and which rows it takes."""

import pytest
import torch
from torch import nn

from cache.errors import UsageError
from stages.network.heads.attention_pool import AttentionHead


def head_for(row_shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AttentionHead(row_shape, 3).eval()


@pytest.mark.parametrize(("row_shape", "heads"), [((5, 16), 8), ((5, 12), 4), ((5, 6), 2), ((5, 7), 1)])
@torch.no_grad()
def test_it_is_the_attention_of_torch_with_a_learned_query(row_shape, heads):
    head = head_for(row_shape)
    assert head.heads == heads
    channels = row_shape[-1]
    theirs = nn.MultiheadAttention(channels, heads, batch_first=True).eval()
    identity = torch.eye(channels)
    theirs.in_proj_weight.copy_(torch.cat([identity, head.keys_and_values.weight]))
    theirs.in_proj_bias.copy_(torch.cat([torch.zeros(channels), head.keys_and_values.bias]))
    theirs.out_proj.weight.copy_(identity)
    theirs.out_proj.bias.zero_()
    rows = torch.randn(4, *row_shape, generator=torch.Generator().manual_seed(1))
    pooled, _ = theirs(head.query.expand(4, 1, -1), rows, rows)
    expected = head.output(head.norm(pooled[:, 0]))
    torch.testing.assert_close(head(rows), expected)


@torch.no_grad()
def test_a_map_is_tokens_one_for_each_place_wherever_its_channels_are():
    rows = torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(1))
    of_maps, token_rows = head_for((8, 3, 3)), head_for((9, 8))
    tokens = torch.stack([rows[:, :, y, x] for y in range(3) for x in range(3)], dim=1)
    torch.testing.assert_close(of_maps(rows), token_rows(tokens))


@torch.no_grad()
def test_the_order_of_places_has_no_effect():
    head, rows = head_for((6, 8)), torch.randn(2, 6, 8)
    torch.testing.assert_close(head(rows), head(rows[:, torch.tensor([3, 1, 5, 0, 2, 4])]))


def test_vectors_have_no_places_to_attend_to():
    with pytest.raises(UsageError, match=r"maps and tokens.*vectors.*`pool` none"):
        AttentionHead((16,), 3)
