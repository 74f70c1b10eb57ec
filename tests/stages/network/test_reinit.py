"""T4: below the prefixes everything is drawn anew, by its kind; elsewhere nothing changes; and what is drawn learns."""

import copy
import math

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from cache.errors import UsageError
from stages.network.graph.cuts import CutGraph
from stages.network.module_paths import has_prefix
from stages.network.reinit import reinit_parameters
from tests.photographs import COLOURS, photograph
from tests.stages.network.networks import graph, network

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
FAMILIES = [
    *("resnet18", "googlenet", "densenet121", "squeezenet1_1", "mobilenet_v3_large", "shufflenet_v2_x1_0"),
    *("timm:tf_efficientnet_lite0", "timm:convnext_atto", "timm:vit_tiny_patch16_224", "timm:eva02_tiny_patch14_224"),
]
# Kinds of parameters that the families above do not have.
OTHERS = {
    "torchvision ViT": lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64),
    "torchvision Swin V2": lambda: torchvision.models.swin_transformer.SwinTransformer(
        [2, 2], 16, [1, 1], [2, 2], [4, 4], block=torchvision.models.swin_transformer.SwinTransformerBlockV2
    ),
    "torchvision ConvNeXt": lambda: torchvision.models.ConvNeXt(
        [torchvision.models.convnext.CNBlockConfig(16, None, 2)]
    ),
    "timm BEiT": lambda: timm.create_model("beit_base_patch16_224", depth=1, embed_dim=48, num_heads=2),
    "timm ConvNeXt V2": lambda: timm.create_model("convnextv2_atto"),
    "timm layer scale": lambda: timm.create_model("deit3_small_patch16_224", depth=1, init_values=0.25),
    "timm distilled": lambda: timm.create_model("deit_tiny_distilled_patch16_224", depth=1),
    "timm standardised weights": lambda: timm.create_model("eca_nfnet_l0"),
    "timm group normalisation": lambda: timm.create_model("resnetv2_50x1_bit"),
    "timm LeViT": lambda: timm.create_model("levit_128s"),
    "timm MViT": lambda: timm.create_model("mvitv2_tiny"),
    "timm frozen BatchNorm": lambda: timm.layers.freeze_batch_norm_2d(timm.create_model("tf_efficientnet_lite0")),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(32, 64, 3, groups=4), nn.Conv1d(16, 16, 3, groups=16)),
    "attention of several widths": lambda: nn.Sequential(nn.MultiheadAttention(64, 2, kdim=32, vdim=16)),
}


def expected_deviation(layer, weight, scheme):
    """Of the weights of a layer, found with torch's own rule on the weights of one group."""
    if isinstance(layer, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)
        one_group = weight[: layer.out_channels // layer.groups, : layer.in_channels // layer.groups]
    else:
        one_group = weight[: len(weight) // getattr(layer, "groups", 1)]
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(one_group)
    return math.sqrt(2 / fan_out if scheme == "kaiming" else 2 / (fan_in + fan_out))


def assert_drawn(name, tensor, deviation):
    """Mean and deviation are what they should be, within five of their standard errors."""
    values = tensor.detach().double()
    assert abs(values.mean()) < 5 * deviation / math.sqrt(values.numel()), name
    if values.numel() > 50:
        assert values.std().item() == pytest.approx(deviation, rel=5 / math.sqrt(2 * values.numel()) + 1e-3), name


def assert_all(name, tensor, value):
    torch.testing.assert_close(tensor.detach(), torch.full_like(tensor, value), msg=name)


def check(module, scheme):
    """Every parameter and statistic of a network has what its kind begins with."""
    for path, layer in module.named_modules():
        state = {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers(recurse=False))}
        for name, tensor in state.items():
            full = f"{path}.{name}"
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d) and name == "weight":
                assert_drawn(full, tensor, expected_deviation(layer, tensor, scheme))
            elif name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
                projection = tensor[: layer.embed_dim]
                assert_drawn(full, tensor, expected_deviation(layer, projection, scheme))
            elif name in STATISTICS:
                assert_all(full, tensor, float(name == "running_var"))
            elif not isinstance(tensor, nn.Parameter) and name not in ("weight", "bias"):
                pass  # indices and other constants
            elif "token" in name or "pos" in name or name == "attention_biases":
                assert tensor.std().item() == pytest.approx(0.02, rel=0.35), full
                assert tensor.abs().max() < 0.1, full
            elif "gamma" in name or name == "layer_scale":
                assert_all(full, tensor, getattr(layer, "init_values", 1e-6))
            elif name == "logit_scale":
                assert_all(full, tensor, math.log(10))
            elif "bias" in name:
                assert_all(full, tensor, 0.0)
            elif name in ("weight", "gain"):
                assert_all(full, tensor, float(type(layer).__name__ != "GlobalResponseNorm"))
            else:
                pytest.fail(f"{full} is of a kind this test does not know")


def disturb(module):
    """Give every tensor that can be learnt numbers that no initialisation gives."""
    for layer in module.modules():
        for name, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
            if isinstance(tensor, nn.Parameter) or name in ("weight", "bias", *STATISTICS):
                tensor.data.fill_(7)
    return module


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_every_tensor_of_every_family_begins_as_its_kind_does(name):
    module = disturb(OTHERS[name]() if name in OTHERS else copy.deepcopy(network(name)))
    scheme = "xavier" if name in ("resnet18", "torchvision ViT", "transposed") else "kaiming"
    names = reinit_parameters(module, ("",), scheme)
    check(module, scheme)
    parameters = {key for key, _ in module.named_parameters()}
    assert parameters <= {*names} <= {*module.state_dict()}


@pytest.mark.parametrize(
    ("name", "unfreeze", "invert"),
    [
        ("resnet18", "layer4", False),
        ("resnet18", "layer3", True),
        ("timm:tf_efficientnet_lite0", "blocks.2,conv_head", False),
        ("timm:vit_tiny_patch16_224", "cls_token,blocks.2", False),
        ("densenet121", "2", False),
    ],
)
def test_only_what_lies_below_the_prefixes_changes(name, unfreeze, invert):
    module = copy.deepcopy(network(name)).requires_grad_(False)
    trainable = graph(name).boundary(unfreeze, invert=invert).trainable
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    names = reinit_parameters(module, trainable)
    assert torch.equal(torch.rand(2), expected), "random numbers were taken from the program"
    assert {*names} == {key for key in before if has_prefix(key, trainable)}
    for key, tensor in module.state_dict().items():
        if key not in names:
            assert torch.equal(tensor, before[key]), key
        elif tensor.ndim > 1:
            assert not torch.equal(tensor, before[key]), key
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_a_layers_weights_depend_on_the_seed_and_its_name_alone():
    cut_graph = graph("resnet18")
    whole, top = copy.deepcopy(cut_graph.module), copy.deepcopy(cut_graph.section(cut_graph.resolve("layer3"), None))
    reinit_parameters(whole, ("layer3", "layer4", "fc"), seed=5)
    reinit_parameters(top, ("layer4",), seed=5)
    for key, tensor in top.state_dict().items():
        if key.startswith("layer4"):
            assert torch.equal(tensor, whole.state_dict()[key]), key
    other = copy.deepcopy(cut_graph.module)
    reinit_parameters(other, ("layer4",), seed=6)
    assert not torch.equal(other.layer4[0].conv1.weight, whole.layer4[0].conv1.weight)
    assert not torch.equal(whole.layer4[0].conv2.weight, whole.layer4[1].conv1.weight)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_section_that_was_traced_through_its_layers_is_drawn_as_the_network_is(name):
    cut_graph = graph(name)
    section = copy.deepcopy(cut_graph.section(None, None))
    whole = copy.deepcopy(cut_graph.module)
    names = {key for key, _ in section.named_parameters()}
    assert names <= {*reinit_parameters(section, ("",), network=cut_graph.module)}
    reinit_parameters(whole, ("",))
    for key, tensor in section.named_parameters():
        assert torch.equal(tensor, whole.state_dict()[key]), key


def test_layer_scale_in_a_section_begins_at_what_the_network_was_made_with():
    network = timm.create_model("deit3_small_patch16_224", depth=1, init_values=0.25).eval()
    section = copy.deepcopy(CutGraph(network, 224).section(None, None))
    reinit_parameters(section, ("",), network=network)
    assert_all("gamma", section.state_dict()["blocks.0.ls1.gamma"], 0.25)


def test_the_numbers_are_the_same_on_every_machine():
    layer = nn.Sequential(nn.Linear(64, 32))
    reinit_parameters(layer, ("0",))
    expected = [-0.457889, -0.264425]
    assert layer[0].weight[0, :2].tolist() == pytest.approx(expected, abs=1e-6)
    half = nn.Sequential(nn.Linear(64, 32)).to(torch.bfloat16)
    reinit_parameters(half, ("0",))
    assert torch.equal(half[0].weight, layer[0].weight.to(torch.bfloat16))


LEARNERS = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=3), 32, "kaiming"),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=3), 64, "xavier"),
    "vit": (lambda: torchvision.models.VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=3), 32, "kaiming"),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_network_drawn_anew_learns_to_tell_photographs_apart(name):
    build, size, scheme = LEARNERS[name]
    module = disturb(build())
    reinit_parameters(module, CutGraph(build().eval(), size).boundary("all").trainable, scheme)
    labels = torch.arange(24) % 3
    colors = list(COLOURS.values())
    pixels = [np.asarray(photograph(colors[label], 50 + at, side=size)) for at, label in enumerate(labels)]
    images = torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2) / 127.5 - 1
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    module.train()
    for _ in range(12):
        loss = nn.functional.cross_entropy(module(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.4 < math.log(3)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.gate = nn.Parameter(torch.ones(3))


def test_an_unknown_kind_of_parameter_is_named_and_nothing_is_changed():
    module = nn.Sequential(Gated())
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(UsageError, match=r"'0\.gate' cannot be re-initialised: how a Gated begins with its 'gate'"):
        reinit_parameters(module, ("0",))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert reinit_parameters(module, ("0.stem",)) == ("0.stem.weight", "0.stem.bias")


def test_unknown_layers_are_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"'layer5'.*'layer"):
        reinit_parameters(network("resnet18"), ("layer5",))
