"""Pooling: the row that is cached, for each layout."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import UsageError
from stages.config.registry import POOLINGS
from stages.network.graph.cuts import Cut
from stages.network.graph.pooling import Pool, register_pooling
from tests.plug_ins import forget_afterwards
from tests.stages.network.networks import graph, images


def cut(shape, layout, prefix=0, class_token=False):
    return Cut("here", "", shape, layout, 0, 0, 0, 0, prefix, class_token)


MAP, ROWS, TOKENS = cut((4, 3, 3), "nchw"), cut((3, 3, 4), "nhwc"), cut((11, 4), "tokens", 2, True)


@pytest.mark.parametrize("kind", [kind for kind, known in POOLINGS.known.items() if not known.needs_class_token])
@pytest.mark.parametrize("at", [MAP, ROWS, TOKENS, cut((5,), "vector")])
def test_shape_is_that_of_the_pooled_row(kind, at):
    pool = Pool(kind, at)
    assert pool(torch.randn(2, *at.shape)).shape == (2, *pool.shape)


@given(
    channels=st.integers(1, 4), side=st.integers(1, 4), kind=st.sampled_from(["avg", "max", "avgmax", "grid2", "grid4"])
)
def test_the_same_values_pool_to_the_same_row_in_every_layout(channels, side, kind):
    values = torch.randn(2, channels, side, side)
    by_channel = Pool(kind, cut((channels, side, side), "nchw"))(values)
    by_place = Pool(kind, cut((side, side, channels), "nhwc"))(values.permute(0, 2, 3, 1))
    as_tokens = Pool(kind, cut((side * side, channels), "tokens"))(values.flatten(2).transpose(1, 2))
    torch.testing.assert_close(by_place, by_channel)
    torch.testing.assert_close(as_tokens, by_channel)


def test_pools_are_average_maximum_and_both():
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(Pool("avg", MAP)(x), torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
    assert torch.equal(Pool("max", MAP)(x), torch.nn.functional.adaptive_max_pool2d(x, 1).flatten(1))
    assert torch.equal(Pool("avgmax", MAP)(x), torch.cat([Pool("avg", MAP)(x), Pool("max", MAP)(x)], 1))
    assert torch.equal(Pool("none", MAP)(x), x)


def test_a_grid_tells_where_something_is():
    x = torch.zeros(1, 2, 4, 4)
    x[0, 1, 0, 3] = 4.0  # of the second channel, in the corner at the top, on the right
    assert Pool("grid2", cut((2, 4, 4), "nchw"))(x).tolist() == [[0, 0, 0, 1, 0, 0, 0, 0]]
    assert Pool("grid4", cut((2, 4, 4), "nchw"))(x).view(4, 4, 2)[0, 3].tolist() == [0, 4]
    with pytest.raises(UsageError, match="`pool` grid2: the 7 patches at 'here' are no square"):
        Pool("grid2", cut((7, 4), "tokens"))


def test_tokens_of_no_patch_take_no_part_in_the_average():
    x = torch.randn(2, 11, 4)
    other = x.clone()
    other[:, :2] = 100.0
    assert torch.equal(Pool("avg", TOKENS)(x), Pool("avg", TOKENS)(other))
    assert torch.equal(Pool("max", TOKENS)(x), Pool("max", TOKENS)(other))
    assert torch.equal(Pool("cls", TOKENS)(x), x[:, 0])
    assert torch.equal(Pool("clsavg", TOKENS)(x), torch.cat([x[:, 0], x[:, 2:].mean(1)], 1))


def test_vectors_stay_as_they_are():
    x = torch.randn(2, 5)
    for kind in ("avg", "max", "avgmax", "none"):
        assert torch.equal(Pool(kind, cut((5,), "vector"))(x), x)


@pytest.mark.parametrize("at", [MAP, cut((9, 4), "tokens"), cut((5,), "vector")])
def test_class_token_where_there_is_none_is_refused_with_what_fits(at):
    with pytest.raises(UsageError, match=r"'here' .* has no class token.*avg, max, std, avgmax, grid2, grid4 and none"):
        Pool("cls", at)
    with pytest.raises(UsageError, match=r"`pool` clsavg: .* has no class token"):
        Pool("clsavg", at)
    with pytest.raises(UsageError, match=r"`pool` mean: there is no such pooling\. There are avg, max"):
        Pool("mean", at)


def test_any_pooling_can_say_that_it_needs_a_class_token(monkeypatch):
    forget_afterwards(monkeypatch, POOLINGS)
    register_pooling("first2", needs_class_token=True)(lambda x, at: x[:, :2].flatten(1))
    assert Pool("first2", TOKENS).shape == (8,)
    with pytest.raises(
        UsageError, match=r"`pool` first2: .*no class token.*avg, max, std, avgmax, grid2, grid4 and none"
    ):
        Pool("first2", MAP)


@torch.no_grad()
def test_class_token_of_a_vision_transformer_is_what_its_classifier_sees():
    cut_graph = graph("timm:vit_tiny_patch16_224")
    x = images("timm:vit_tiny_patch16_224", 2)
    tokens = cut_graph.resolve("norm")
    pooled = Pool("cls", tokens)(cut_graph.section(None, tokens)(x))
    assert torch.equal(pooled, cut_graph.section(None, cut_graph.resolve("auto"))(x))
    both = Pool("clsavg", tokens)(cut_graph.section(None, tokens)(x))
    assert torch.equal(both, torch.cat([pooled, Pool("avg", tokens)(cut_graph.section(None, tokens)(x))], dim=1))
