"""Heads on all images of a sample: what is missing has no part, and order counts where it should alone."""

import pytest
import torch

from cache.errors import UsageError
from stages.network.aggregate import padded
from stages.network.heads.registry import build_head
from stages.network.heads.serialization import load_head, save_head

BAG_HEADS = ("mil", "gru", "lstm", "transformer")
IN_ORDER = ("gru", "lstm", "transformer")


def made(name):
    torch.manual_seed(0)
    return build_head(name, (5, 9), 3).eval()


@pytest.fixture
def bags():
    torch.manual_seed(1)
    return padded(torch.randn(9, 8), [4, 2, 3], [0, 1, 2, 3, 0, 1, 0, 1, 2], 5)


@pytest.mark.parametrize("name", BAG_HEADS)
def test_padding_and_missing_images_have_no_part(name, bags):
    head = made(name)
    expected = head(bags)
    disturbed = bags.clone()
    disturbed[..., :-1][bags[..., -1] == 0] = 1e3
    assert torch.allclose(head(disturbed), expected, atol=1e-6)
    assert torch.allclose(head(torch.cat([bags, torch.zeros(3, 7, 9)], dim=1)), expected, atol=1e-6)
    assert torch.allclose(torch.cat([head(bags[[row]]) for row in range(3)]), expected, atol=1e-6)
    apart = torch.zeros(3, 9, 9)
    apart[:, ::2] = bags  # an image at every second place: the order is what counts
    assert torch.allclose(head(apart), expected, atol=1e-6)


@pytest.mark.parametrize("name", BAG_HEADS)
def test_the_order_of_frames_counts_for_sequences_alone(name, bags):
    head = made(name)
    reversed_bags = bags[:1, [3, 2, 1, 0, 4]]
    assert torch.allclose(head(reversed_bags), head(bags[:1]), atol=1e-6) == (name not in IN_ORDER)


@pytest.mark.parametrize("name", BAG_HEADS)
def test_heads_on_bags_are_saved_and_loaded(name, bags, tmp_path):
    head = made(name)
    save_head(tmp_path / "head", head, {})
    assert torch.equal(load_head(tmp_path / "head")[0](bags), head(bags))


def test_weights_of_images_add_up_to_one_and_say_what_counts(bags):
    head = made("mil")
    weights = head.image_weights(bags)
    assert torch.allclose(weights.sum(dim=1), torch.ones(3))
    assert torch.equal(weights == 0, bags[..., -1] == 0)
    rows = torch.relu(head.embed(bags[..., :-1]))
    assert torch.allclose(head(bags), head.output((weights[..., None] * rows).sum(dim=1)), atol=1e-6)


@pytest.mark.parametrize("name", BAG_HEADS)
def test_rows_of_single_images_are_refused(name):
    with pytest.raises(UsageError, match=rf"`head` {name} takes samples of several images, and these rows .* \[8\]"):
        build_head(name, (8,), 3)
