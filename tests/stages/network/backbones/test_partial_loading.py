"""T5: loaded from the image upwards until the first layer that differs, nothing above it, and a report of all that."""

import copy

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cache.errors import WeightsError
from stages.network.backbones.partial_loading import load_partial_state_dict
from stages.network.backbones.registry import load_backbone
from stages.network.graph import trace as tracing
from stages.network.module_paths import has_prefix
from tests.stages.network.networks import graph, network


def load(name, weights, ignored=()):
    """The report, and the names of the tensors of a network that are now those of the file."""
    module = copy.deepcopy(network(name))
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data.zero_()
    report = load_partial_state_dict(module, weights, "x.pth", ignored)
    state = module.state_dict()
    for key in report.loaded:
        assert torch.equal(state[key], weights[key]), key
    assert not any(tensor.any() for key, tensor in state.items() if key not in report.loaded)
    return report


def learnt(state):
    return {name for name, tensor in state.items() if tensor.is_floating_point()}


def noise(module):
    """A state_dict of the same names and shapes, and with no number that is 0."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(tensor.shape, generator=generator) + 1 if tensor.is_floating_point() else tensor + 1
        for name, tensor in module.state_dict().items()
    }


# The family, a layer that has another shape in the file, and layers that run before and after it.
CASES = [
    ("resnet18", "layer4.0.conv1", ("conv1", "bn1", "layer1", "layer2", "layer3"), ("layer4", "fc")),
    ("resnet18", "fc", ("conv1", "bn1", "layer1", "layer4"), ("fc",)),
    ("googlenet", "inception4a.branch2.0.conv", ("inception3b", "inception4a.branch1"), ("inception4a.branch2", "fc")),
    ("densenet121", "features.transition2.conv", ("features.denseblock2", "features.transition2.norm"), ("features.denseblock3", "classifier")),
    ("timm:tf_efficientnet_lite0", "blocks.3.0.bn1", ("conv_stem", "blocks.2", "blocks.3.0.conv_pw"), ("blocks.3.0.conv_dw", "blocks.4")),
    ("timm:convnext_atto", "stages.2.downsample.0", ("stem", "stages.1"), ("stages.2", "stages.3", "head")),
    ("timm:vit_tiny_patch16_224", "pos_embed", ("patch_embed",), ("pos_embed", "blocks", "norm", "head")),
    ("timm:vit_tiny_patch16_224", "blocks.5.attn.qkv", ("patch_embed", "cls_token", "pos_embed", "blocks.4", "blocks.5.norm1"), ("blocks.5.attn", "blocks.5.norm2", "blocks.6", "head")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "differing", "before", "after"), CASES)
def test_loading_ends_at_the_first_layer_of_another_shape(name, differing, before, after):
    weights = noise(network(name))
    key = next(key for key in weights if has_prefix(key, (differing,)))
    weights[key] = weights[key][..., :-1]
    report = load(name, weights)
    loaded = {key for key in weights if has_prefix(key, before)}
    assert loaded <= {*report.loaded}
    assert not any(has_prefix(key, after) for key in report.loaded)
    assert {*report.skipped} == {*weights} - {*report.loaded}
    assert {*report.missing} == learnt(weights) - {*report.loaded}
    shapes = rf"{[*weights[key].shape]} in the file and {[*network(name).state_dict()[key].shape]} in the network"
    assert report.difference.endswith(f"{key} is {shapes}")
    assert all(reason == f"not below {report.difference}" for reason in report.skipped.values())
    assert str(report).startswith(f"{len(report.loaded)} of {len(weights)} tensors up to ")


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_what_is_loaded_is_a_beginning_of_the_network_whatever_is_missing(data):
    weights = noise(network("resnet18"))
    order = [
        step
        for step in tracing.layers_in_order(network("resnet18"))
        if any(has_prefix(key, (step,)) for key in weights)
    ]
    missing = data.draw(st.lists(st.sampled_from(order[1:]), max_size=3))
    first = min((order.index(step) for step in missing), default=len(order))
    report = load("resnet18", {key: tensor for key, tensor in weights.items() if not has_prefix(key, missing)})
    assert {*report.loaded} == {key for key in weights if has_prefix(key, order[:first])}
    assert report.last == order[first - 1]
    assert (report.difference is None) == (not missing)


def test_layers_that_only_the_file_has_end_the_loading_where_they_would_run():
    deeper = noise(torchvision.models.resnet34(num_classes=1000))
    report = load("resnet18", deeper)
    assert {key.partition(".")[0] for key in report.loaded} == {"conv1", "bn1", "layer1"}
    assert report.difference == "layer2.0.conv1: the network has no layer1.2.conv1.weight"
    weights = noise(network("resnet18"))
    assert load("resnet18", {**weights, "layer3.0.conv2.bias": torch.ones(256)}).last == "layer3.0.bn1"
    report = load("resnet18", {**weights, "projector.0.weight": torch.ones(3), "queue": torch.ones(3)})
    assert (report.difference, {*report.loaded}) == (None, {*weights})
    assert report.skipped == dict.fromkeys(("projector.0.weight", "queue"), "the network has no such layer")


def test_what_is_not_learnt_stands_in_no_layers_way():
    weights = noise(network("resnet18"))
    without = {key: tensor for key, tensor in weights.items() if not key.endswith("num_batches_tracked")}
    report = load("resnet18", {**without, "layer1.0.index": torch.arange(3)})
    assert {*report.loaded} == {*without}
    assert (report.difference, report.missing) == (None, ())


def test_ignored_layers_are_left_out_and_do_not_end_the_loading():
    weights = noise(network("timm:vit_tiny_patch16_224"))
    weights["pos_embed"] = weights["pos_embed"][:, :-1]
    assert not any(key.startswith("blocks") for key in load("timm:vit_tiny_patch16_224", weights).loaded)
    report = load("timm:vit_tiny_patch16_224", weights, ("pos_embed", "head"))
    assert {*report.loaded} == {*weights} - {"pos_embed", "head.weight", "head.bias"}
    assert report.ignored == ("pos_embed", "head.weight", "head.bias")
    assert (report.difference, report.missing, report.skipped) == (None, (), {})


def test_lines_say_what_became_of_every_tensor():
    weights = noise(network("resnet18"))
    weights |= {"fc.weight": torch.ones(7, 512), "projector.weight": torch.ones(3)}
    lines = load("resnet18", weights, ("layer4.1.bn2.bias",)).lines
    assert [(line.state, line.tensors, line.layers) for line in lines] == [
        ("loaded", 119, ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")),
        ("skipped", 2, ("fc",)),
        ("skipped", 1, ("projector",)),
        ("missing", 2, ("fc",)),
        ("ignored", 1, ("layer4.1.bn2.bias",)),
    ]
    assert lines[1].why == "not below fc: fc.weight is [7, 512] in the file and [1000, 512] in the network"


class Branching(nn.Module):
    """Cannot be traced: it decides by the numbers in the image. Its layers run in another order than they stand."""

    def __init__(self):
        super().__init__()
        self.top, self.stem = nn.Linear(4, 2), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.top(x.mean((2, 3))) if x.sum() > 0 else x


def test_where_the_network_cannot_be_traced_the_state_dict_tells_the_order():
    module = Branching()
    weights = noise(module)
    del weights["stem.bias"]
    report = load_partial_state_dict(module, weights, "x.pth")
    assert report.loaded == ("top.weight", "top.bias")
    assert report.order == "the order of the state_dict, as the network cannot be traced"


def test_a_file_of_which_nothing_fits_is_refused_with_names_of_both_and_a_rule():
    weights = noise(network("resnet18"))
    with pytest.raises(WeightsError) as refused:
        load_partial_state_dict(
            network("resnet18"), {f"encoder.{key}": tensor for key, tensor in weights.items()}, "x.pth"
        )
    message = str(refused.value)
    assert "`weights` x.pth: not even the first layer fits (conv1: the file has no conv1.weight)" in message
    assert "begins with encoder.conv1.weight, encoder.bn1.weight" in message
    assert "network with conv1.weight, bn1.weight" in message
    assert message.endswith("Try `weights_rename` encoder=.")
    with pytest.raises(WeightsError, match="give `weights_rename` OLD=NEW"):
        load_partial_state_dict(network("resnet18"), noise(network("squeezenet1_1")), "x.pth")
    weights["conv1.weight"] = torch.ones(64, 1, 7, 7)
    with pytest.raises(WeightsError, match=r"conv1\.weight is \[64, 1, 7, 7\] in the file"):
        load_partial_state_dict(network("resnet18"), weights, "x.pth")


def test_features_of_the_loaded_part_are_those_of_the_network_the_file_is_of(tmp_path):
    donor = timm.create_model("resnet18", num_classes=5).eval()
    torch.save({f"encoder.{key}": value for key, value in donor.state_dict().items()}, tmp_path / "five.pth")
    backbone = load_backbone("timm:resnet18", tmp_path / "five.pth", 64, match="partial", rename=("encoder=",))
    assert backbone.weights_source == f"file {tmp_path}/five.pth, 120 of 122 tensors up to layer4.1.bn2"
    assert backbone.num_classes == 1000
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone.module.forward_features(x), donor.forward_features(x))
    reloaded = load_backbone("timm:resnet18", tmp_path / "five.pth", 64, match="partial", rename=("encoder=",))
    assert reloaded.weights == backbone.weights  # what stays random is always the same


def test_order_is_told_by_the_graph_of_the_network():
    assert tracing.layers_in_order(graph("resnet18").module)[:3] == ["conv1", "bn1", "relu"]
