"""T3: what is frozen stays bit for bit as it is, BatchNorm statistics included; what trains changes."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from cache.errors import UsageError
from stages.network.backbones import load_backbone
from stages.network.classifier import output_layers
from stages.network.cut import CutGraph
from stages.network.freezing import freeze, keep_batchnorm_in_evaluation, keep_in_evaluation

CASES = {
    "resnet18": (lambda: torchvision.models.resnet18(), 32, "layer4"),
    "densenet121": (lambda: torchvision.models.densenet121(), 32, "features.denseblock4"),
    "efficientnet_lite0": (lambda: load_backbone("efficientnet_lite0").module, 64, "3"),
    "vit": (lambda: torchvision.models.VisionTransformer(32, 8, 4, 2, 32, 64, dropout=0.1), 32, "2"),
    "layer inside a branch": (lambda: torchvision.models.resnet18(), 32, "layer4.0.conv2"),
}


def train(module, size, steps=3):
    torch.manual_seed(0)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1)
    module.train()
    for _ in range(steps):
        logits = module(torch.randn(4, 3, size, size))
        optimiser.zero_grad()
        nn.functional.cross_entropy(logits, torch.arange(4)).backward()
        optimiser.step()


def changed(module, before):
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("case", CASES)
def test_frozen_tensors_are_bit_identical_after_training(case):
    build, size, unfreeze = CASES[case]
    module = build()
    for layer in output_layers(module):
        nn.init.normal_(module.get_parameter(f"{layer}.weight"), std=0.05)
    trainable = CutGraph(module, size).boundary(unfreeze).trainable
    freeze(module, trainable)
    before = copy.deepcopy(module.state_dict())
    train(module, size)
    should = {name for name in before if any(name == at or name.startswith(f"{at}.") for at in trainable)}
    assert changed(module, before) == should
    assert should != {*before}


def test_the_frozen_part_computes_what_was_cached_even_in_training():
    module = torchvision.models.efficientnet_b0(stochastic_depth_prob=0.9)
    found = CutGraph(module, 32)
    boundary = found.boundary("2")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        cached = found.section(None, boundary.cut).eval()(x)
        freeze(module, boundary.trainable)
        module.train()
        assert torch.equal(module.features[:7](x), cached)


def test_freezing_again_undoes_the_former_freezing():
    module = torchvision.models.resnet18()
    freeze(module, ("fc",))
    freeze(module, ("layer4", "fc"))
    before = copy.deepcopy(module.state_dict())
    train(module, 32)
    assert changed(module, before) == {name for name in before if name.startswith(("layer4", "fc"))}
    freeze(module, ())
    assert not any(layer.training for layer in module.train().modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_copies_of_a_frozen_network_are_frozen_themselves():
    module = torchvision.models.resnet18()
    freeze(module, ("fc",))
    twin = copy.deepcopy(module)
    before = copy.deepcopy(twin.state_dict())
    train(twin, 32)
    assert changed(twin, before) == {"fc.weight", "fc.bias"}
    freeze(twin, ("layer4",))
    assert twin.bn1.train() is twin.bn1
    assert not module.train().layer4[0].bn1.training


def test_single_parameters_can_train():
    module = torchvision.models.VisionTransformer(32, 8, 1, 2, 32, 64)
    freeze(module, ("class_token", "heads"))
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained == {"class_token", "heads.head.weight", "heads.head.bias"}


def test_batchnorm_statistics_can_be_kept_while_its_weights_train():
    module = torchvision.models.resnet18()
    keep_batchnorm_in_evaluation(module)
    before = copy.deepcopy(module.state_dict())
    train(module, 32)
    kept = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert changed(module, before) == {*before} - kept


def test_module_kept_in_evaluation_stays_there_inside_another():
    trunk = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))
    keep_in_evaluation(trunk)
    nn.Sequential(trunk, nn.Linear(3, 2)).train()
    assert not any(layer.training for layer in trunk.modules())


def test_unknown_layers_are_refused():
    with pytest.raises(UsageError, match=r"'layer5'.*'layer"):
        freeze(torchvision.models.resnet18(), ("layer5",))
