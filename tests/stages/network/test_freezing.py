"""T3: what is frozen stays bit for bit as it is, BatchNorm statistics included; what trains changes."""

import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn

from cache.errors import UsageError
from stages.network.backbones.registry import load_backbone
from stages.network.classifier import output_layers
from stages.network.freezing import freeze, frozen_layers, keep_batchnorm_in_evaluation, lock_eval_mode
from stages.network.graph.cuts import CutGraph
from stages.network.module_paths import has_prefix
from tests.stages.network.networks import NOISY, graph, images

CASES = {
    "resnet18": (lambda: torchvision.models.resnet18(), 32, "layer4"),
    "densenet121": (lambda: torchvision.models.densenet121(), 32, "features.denseblock4"),
    "efficientnet_lite0": (lambda: load_backbone("efficientnet_lite0").module, 64, "3"),
    "vit": (lambda: torchvision.models.VisionTransformer(32, 8, 4, 2, 32, 64, dropout=0.1), 32, "2"),
    "layer inside a branch": (lambda: torchvision.models.resnet18(), 32, "layer4.0.conv2"),
}


def noise(size):
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))


def train(module, x, steps=3):
    torch.manual_seed(0)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1)
    module.train()
    for _ in range(steps):
        logits = module(x)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, torch.arange(4)).backward()
        optimizer.step()


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
    train(module, noise(size))
    should = {name for name in before if any(name == at or name.startswith(f"{at}.") for at in trainable)}
    assert changed(module, before) == should
    assert should != {*before}


# What trains in each family, and whether it is inverted: from a layer on, some layers, one layer in the middle, all below
# the top blocks. Frozen layers lie below, above and between what trains.
SELECTIONS = {
    "resnet18": (("layer4", False), ("layer2,layer4.0.conv2", False), ("layer3", True), ("layer2,layer4", True)),
    "googlenet": (("inception5a", False), ("inception3b,inception5a.branch2", False), ("1", True)),
    "densenet121": (("features.denseblock4", False), ("features.transition1,classifier", False), ("2", True)),
    "timm:tf_efficientnet_lite0": (("3", False), ("blocks.2,blocks.5", False), ("blocks.4", True)),
    "timm:convnext_atto": (("stages.3", False), ("stages.1,", False), ("stages.2", True)),
    "timm:vit_tiny_patch16_224": (("2", False), ("cls_token,blocks.4", False), ("blocks.3", True)),
}


@pytest.mark.parametrize(
    ("name", "unfreeze", "invert", "batchnorm"),
    [(name, *selection, "train") for name, selections in SELECTIONS.items() for selection in selections]
    + [(name, *SELECTIONS[name][1], "eval") for name in ("resnet18", "googlenet", "timm:tf_efficientnet_lite0")],
)
def test_each_selection_trains_exactly_what_it_says_in_every_family(name, unfreeze, invert, batchnorm):
    cut_graph = graph(name)
    trainable = cut_graph.boundary(unfreeze, invert=invert).trainable
    section = copy.deepcopy(cut_graph.section(None, None, trainable))
    freeze(section, trainable)
    if batchnorm == "eval":
        keep_batchnorm_in_evaluation(section)
    before = copy.deepcopy(section.state_dict())
    train(section, images(name, 4), steps=2)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    should = {key for key in before if has_prefix(key, trainable)}
    if batchnorm == "eval":
        should = {key for key in should if not key.endswith(statistics)}
    assert changed(section, before) == should
    assert {*before} > should > set()


@pytest.mark.parametrize("case", NOISY)
@torch.no_grad()
def test_frozen_layers_above_what_trains_are_without_noise_in_training(case):
    """Also where their mode is part of the graph: functional dropout, timm's stochastic depth."""
    size, build = NOISY[case]
    cut_graph = CutGraph(build().eval(), size)
    lowest = (cut_graph.blocks[0],)
    x = noise(size)
    section = cut_graph.section(None, cut_graph.resolve("auto"), lowest)
    freeze(section, lowest)
    keep_batchnorm_in_evaluation(section)
    expected = section.eval()(x)
    assert torch.equal(section.train()(x), expected)


def test_the_frozen_part_computes_what_was_cached_even_in_training():
    module = torchvision.models.efficientnet_b0(stochastic_depth_prob=0.9)
    cut_graph = CutGraph(module, 32)
    boundary = cut_graph.boundary("2")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        cached = cut_graph.section(None, boundary.cut).eval()(x)
        freeze(module, boundary.trainable)
        module.train()
        assert torch.equal(module.features[:7](x), cached)


def test_freezing_again_undoes_the_former_freezing():
    module = torchvision.models.resnet18()
    freeze(module, ("fc",))
    freeze(module, ("layer4", "fc"))
    before = copy.deepcopy(module.state_dict())
    train(module, noise(32))
    assert changed(module, before) == {name for name in before if name.startswith(("layer4", "fc"))}
    freeze(module, ())
    assert not any(layer.training for layer in module.train().modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_copies_of_a_frozen_network_are_frozen_themselves():
    module = torchvision.models.resnet18()
    freeze(module, ("fc",))
    twin = copy.deepcopy(module)
    before = copy.deepcopy(twin.state_dict())
    train(twin, noise(32))
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
    train(module, noise(32))
    kept = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert changed(module, before) == {*before} - kept


def test_module_kept_in_evaluation_stays_there_inside_another():
    trunk = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))
    lock_eval_mode(trunk)
    nn.Sequential(trunk, nn.Linear(3, 2)).train()
    assert not any(layer.training for layer in trunk.modules())


def test_frozen_layers_are_those_of_which_nothing_trains():
    frozen = frozen_layers(torchvision.models.resnet18(), ("layer4.1.bn2", "fc.bias"))
    assert {"conv1", "layer1", "layer1.0.bn1", "layer4.0", "layer4.1.conv2"} <= {*frozen}
    assert not {"", "layer4", "layer4.1", "layer4.1.bn2", "fc", "relu", "avgpool"}.intersection(frozen)


def test_unknown_layers_are_refused():
    with pytest.raises(UsageError, match=r"'layer5'.*'layer"):
        freeze(torchvision.models.resnet18(), ("layer5",))


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["copy", "pickle"]
)
def test_what_is_frozen_stays_so_in_a_copy_and_through_pickle_and_holds_on_to_itself_alone(again):
    module = torchvision.models.resnet18()
    freeze(module, ("layer4",))
    copied = again(module)
    copied.train()
    modes = {path: layer.training for path, layer in copied.named_modules()}
    assert modes["layer4.0.bn1"]
    assert not modes["layer3.0.bn1"]
    assert copied.layer3.train() is copied.layer3
    freeze(copied, ("layer3",))
    assert copied.train().layer3[0].bn1.training
    assert not module.train().layer3[0].bn1.training
