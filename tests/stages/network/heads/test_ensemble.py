"""The mean of what several heads say, as one head that is saved and loaded like any other."""

import pytest
import torch

from cache.errors import UsageError
from stages.network.aggregate import Aggregate
from stages.network.heads.aggregated import AggregatedHead
from stages.network.heads.ensemble import EnsembleHead, StackedHead
from stages.network.heads.linear import LinearHead
from stages.network.heads.rbf import RBFHead
from stages.network.heads.registry import build_head, unfilled_head
from stages.network.heads.serialization import load_head, save_head

ACTIVATIONS = {
    "softmax": lambda outputs: outputs.softmax(dim=1),
    "sigmoid": torch.sigmoid,
    "identity": lambda outputs: outputs,
}


def heads(width=6):
    torch.manual_seed(0)
    support = torch.randn(4, width).numpy()
    kernel = RBFHead.from_support(support, torch.randn(4, 3).numpy(), torch.randn(3).numpy(), 0.1)
    return [build_head("mlp", (width,), 3, {"hidden": 5, "dropout": 0.5}).eval(), LinearHead((width,), 3), kernel]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_says_the_weighted_mean_of_what_its_members_say(activation):
    members, weights, activate = heads(), [0.5, 0.3, 0.2], ACTIVATIONS[activation]
    ensemble, rows = EnsembleHead.weighted(members, weights, activation), torch.randn(7, 6)
    expected = sum(weight * activate(member(rows)) for weight, member in zip(weights, members, strict=True))
    torch.testing.assert_close(activate(ensemble(rows)), expected)
    assert not ensemble.training


def test_labels_that_all_are_sure_of_keep_their_logits():
    members = [LinearHead((1,), 1) for _ in range(2)]
    for member, logit in zip(members, (30.0, 40.0), strict=True):
        with torch.no_grad():
            member.output.weight.zero_()
            member.output.bias.fill_(logit)
    ensemble = EnsembleHead.weighted(members, [0.5, 0.5], "sigmoid")
    # 1 - p is the mean of exp(-30) and exp(-40), which p in float32 does not show
    assert ensemble(torch.zeros(1, 1)).item() == pytest.approx(30 + 0.6931, abs=1e-2)


def test_it_is_saved_and_loaded_with_all_its_members(tmp_path):
    ensemble, rows = EnsembleHead.weighted(heads(), [0.5, 0.3, 0.2], "softmax"), torch.randn(7, 6)
    save_head(tmp_path / "head", ensemble, {})
    loaded, _ = load_head(tmp_path / "head")
    assert torch.equal(loaded(rows), ensemble(rows))
    assert loaded.config == ensemble.config


def test_members_may_take_all_images_of_a_sample(tmp_path):
    aggregate = Aggregate("mean", 2, 6)
    ensemble = EnsembleHead.weighted([AggregatedHead(aggregate, head) for head in heads()], [0.5, 0.3, 0.2], "softmax")
    save_head(tmp_path / "head", ensemble, {})
    loaded, _ = load_head(tmp_path / "head")
    bags = torch.cat([torch.randn(3, 2, 6), torch.ones(3, 2, 1)], dim=2)
    assert loaded.takes_bags
    assert torch.equal(loaded(bags), ensemble(bags))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_linear_model_on_its_members_is_saved_and_loaded_with_them(activation, tmp_path):
    stacked, rows = StackedHead(heads(), LinearHead((9,), 3), activation, 1e-7).eval(), torch.randn(7, 6)
    save_head(tmp_path / "head", stacked, {})
    loaded, _ = load_head(tmp_path / "head")
    assert torch.equal(loaded(rows), stacked(rows))
    assert loaded.config == stacked.config


def test_what_cannot_be_one_is_refused():
    with pytest.raises(ValueError, match="heads on the same rows"):
        EnsembleHead([LinearHead((2,), 3), LinearHead((3,), 3)], "softmax")
    top = {"head": "top", "row_shape": [4, 2, 2], "out_features": 3, "cut": "x"}
    with pytest.raises(UsageError, match="the head top is made of the blocks of its network"):
        unfilled_head({**EnsembleHead(heads(), "softmax").config, "members": [top]}, None)
