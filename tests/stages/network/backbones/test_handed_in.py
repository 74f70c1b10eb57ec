"""Networks where names could stand: what is made of them, and what is refused."""

import pytest
import torch
from torch import nn

from cache.errors import UsageError
from stages.data.images.preprocessing import Preprocessing
from stages.network.backbones.handed_in import as_backbone, require_network
from stages.network.backbones.user_module import backbone_from_module
from tests.own_network import OwnNetwork, SilentNetwork, unreadable_network


def test_of_a_module_a_copy_is_taken_and_it_stays_as_it_is():
    network = OwnNetwork().train()
    backbone = as_backbone(network, 32)
    assert backbone.handed_in
    assert backbone.preprocessing == Preprocessing(32, 37)
    assert not backbone.module.training
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    nn.init.zeros_(network.fc.weight)
    assert backbone.module.fc.weight.any()


def test_its_identity_is_what_it_is_or_where_nobody_asks_again_its_class():
    ours = backbone_from_module(OwnNetwork(), image_size=32)
    assert (as_backbone(OwnNetwork(), 32).identity, as_backbone(OwnNetwork(), 32).weights) == (
        ours.identity,
        ours.weights,
    )
    assert as_backbone(unreadable_network(), 32, cached=False).identity == "Hidden"
    with pytest.raises(UsageError, match=r"source of nowhere\.Hidden cannot be read"):
        as_backbone(unreadable_network(), 32)


def test_a_backbone_is_taken_as_it_is_or_for_another_size():
    backbone = backbone_from_module(OwnNetwork(), Preprocessing(32, 40))
    assert as_backbone(backbone) is backbone
    assert as_backbone(backbone, 32) is backbone
    assert as_backbone(backbone, 64).preprocessing == Preprocessing(64, 80)
    with pytest.raises(UsageError, match="cannot be run on images of 4 x 4"):
        as_backbone(backbone, 4)


def test_a_backbone_whose_tensors_have_changed_is_refused():
    backbone = backbone_from_module(OwnNetwork(), image_size=32)
    with torch.no_grad():
        backbone.module.features[0].bias += 1
    with pytest.raises(UsageError, match="tensors of the backbone OwnNetwork have changed since it was made"):
        as_backbone(backbone)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (OwnNetwork, "not the class OwnNetwork"),
        (OwnNetwork().forward, "not a method"),
        (None, "backbone has to be a name, a torch.nn.Module, or what backbone_from_module returns, not a NoneType"),
    ],
)
def test_what_is_no_network_is_told(given, message):
    with pytest.raises(UsageError, match=message):
        require_network(given)
    with pytest.raises(UsageError, match=message):
        as_backbone(given, 32)


def test_a_network_that_gives_no_tensor_is_refused():
    with pytest.raises(UsageError, match=r"SilentNetwork gave a NoneType for 3 images"):
        as_backbone(SilentNetwork(), 32)
