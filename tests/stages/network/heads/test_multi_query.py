"""Pooling by many queries as the paper writes it, which projects the features of every place."""

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import train_head
from stages.network.heads.multi_query import MultiQueryHead
from stages.network.heads.registry import build_head
from tests.stages.fitting.rows_of_digits import fit_problem
from tests.stages.network.networks import graph, images


def head_for(row_shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = MultiQueryHead(row_shape, 3).eval()
        with torch.no_grad():
            head.queries.normal_(0, 2)  # as drawn they look at all places alike
        return head


@pytest.mark.parametrize(("channels", "queries"), [(64, 32), (48, 16), (12, 4), (7, 1)])
@torch.no_grad()
def test_each_query_gathers_its_own_part_of_the_projected_places(channels, queries):
    head = head_for((5, channels))
    assert len(head.queries) == queries
    rows = torch.randn(4, 5, channels, generator=torch.Generator().manual_seed(1))
    weights = (rows @ head.queries.T / channels**0.5).softmax(dim=1)
    parts = head.values(rows).chunk(queries, dim=2)
    pooled = [(weights[:, :, query, None] * part).sum(dim=1) for query, part in enumerate(parts)]
    torch.testing.assert_close(head(rows), head.output(head.norm(torch.cat(pooled, dim=1))))
    average = head.output(head.norm(head.values(rows.mean(dim=1))))
    assert (head(rows) - average).abs().max() > 1e-2


@torch.no_grad()
def test_a_map_is_tokens_one_for_each_place_wherever_its_channels_are():
    rows = torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(1))
    tokens = torch.stack([rows[:, :, y, x] for y in range(3) for x in range(3)], dim=1)
    expected = head_for((9, 8))(tokens)
    torch.testing.assert_close(head_for((8, 3, 3))(rows), expected)
    torch.testing.assert_close(head_for((3, 3, 8))(rows.permute(0, 2, 3, 1)), expected)
    torch.testing.assert_close(head_for((9, 8))(tokens.flip(1)), expected)


def test_it_finds_the_place_that_says_what_an_average_drowns():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 600)
    tokens = random.normal(size=(600, 16, 8)).astype(np.float32)
    places = random.integers(0, 16, 600)
    tokens[np.arange(600), places, 0] = 8  # what marks the place
    tokens[np.arange(600), places, 1 + labels] += 3

    def score(name, rows):
        train, val = FeatureRows(rows[:400], labels[:400]), FeatureRows(rows[400:], labels[400:])
        options = HeadConfig(c_values=(1e-2, 1.0), fit_epochs=40, fit_lr=(1e-2,))
        return train_head(name, fit_problem(train, val, classes=3, options=options)).val_score

    assert score("multi_query", tokens) > 0.9
    assert score("logistic", tokens.mean(axis=1)) < 0.7


def test_it_trains_on_the_tokens_of_a_vision_transformer():
    cut_graph = graph("timm:vit_tiny_patch16_224")
    tokens = cut_graph.section(None, cut_graph.resolve("norm"))(images("timm:vit_tiny_patch16_224", 4)).detach()
    head = build_head("multi_query", tuple(tokens.shape[1:]), 3, {"dropout": 0.0})
    logits = head(tokens)
    logits.square().sum().backward()
    assert logits.shape == (4, 3)
    assert all(parameter.grad.any() for parameter in head.parameters())


def test_several_are_trained_at_once():
    assert MultiQueryHead.stackable


def test_vectors_have_no_places_to_attend_to():
    with pytest.raises(UsageError, match=r"multi_query takes maps and tokens.*vectors.*`pool` none"):
        MultiQueryHead((16,), 3)
