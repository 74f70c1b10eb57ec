"""Fewer passes through the maps of a frozen network, and every bit of its features as it was."""

import copy

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from stages.network.graph.fused_convolutions import FusedConvolution, can_fuse, fuse_convolutions
from stages.network.graph.pooling import Pool
from stages.network.graph.trunk import FrozenTrunk
from stages.runtime.device import supports_bf16
from tests.stages.network.networks import graph, images

CPU = torch.device("cpu")
LITE = "timm:tf_efficientnet_lite0"

# How many convolutions of each have a ReLU behind them that nothing else is between, or are padded as in TensorFlow.
FUSED = {
    "resnet18": 9,
    "googlenet": 57,
    "densenet121": 9,
    "squeezenet1_1": 25,
    "vgg11_bn": 8,
    "mobilenet_v3_large": 11,
    "efficientnet_b0": 0,
    LITE: 33,
    "timm:mobilenetv4_conv_small": 30,
    "timm:vit_tiny_patch16_224": 0,
}

PRECISIONS = ["fp32", pytest.param("bf16", marks=pytest.mark.skipif(not supports_bf16(CPU), reason="emulated"))]


class Operators(TorchDispatchMode):
    """Notes which operators run, and on what."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        first = args[0].shape if args and isinstance(args[0], torch.Tensor) else None
        self.seen.append((str(function), first))
        return function(*args, **(kwargs or {}))

    def of(self, name):
        return [shape for function, shape in self.seen if name in function]


def trunk(name, precision="fp32"):
    cut = graph(name).resolve("auto")
    return FrozenTrunk(graph(name), [(cut, Pool("avg", cut))], precision, CPU)


def fused_layers(network):
    return [layer for layer in network.modules() if isinstance(layer, FusedConvolution)]


def plain(network):
    """The same trunk, one operator after the other."""
    apart = copy.deepcopy(network)
    for layer in fused_layers(apart):
        layer._at_once = layer._one_after_the_other
    return apart


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", FUSED)
@torch.inference_mode()
def test_features_have_the_same_bits_and_activations_are_no_operators(name, precision):
    network, x = trunk(name, precision), images(name, 16)
    assert len(fused_layers(network)) == FUSED[name]
    expected = plain(network)(x)[0]
    for _ in range(2):  # the first goes through both ways
        assert torch.equal(network(x)[0], expected)
    with Operators() as operators:
        network(x)
    at_once = [all(layer._is_same.values()) for layer in fused_layers(network)]
    assert len(operators.of("mkldnn._convolution_pointwise")) == sum(at_once)
    assert sum(at_once) >= 0.9 * FUSED[name]


@torch.inference_mode()
def test_no_map_of_lite0_is_copied_to_be_padded_but_the_images():
    network, x = trunk(LITE), images(LITE, 16)
    network(x)
    with Operators() as operators:
        network(x)
    assert padded_batches(operators, len(x)) == [x.shape]
    with Operators() as operators:
        plain(network)(x)
    assert len(padded_batches(operators, len(x))) == 5


def padded_batches(operators, size):
    """Return the shapes of what is padded of a whole batch; outside of inference mode the operator is its part."""
    padded = operators.of("aten.pad") + operators.of("aten.constant_pad_nd")
    return [shape for shape in padded if len(shape) == 4 and shape[0] == size]


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 11), (12, 7)])
@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@torch.inference_mode()
def test_padding_as_in_tensorflow_is_the_kernels_for_every_size(size, kernel, stride):
    torch.manual_seed(0)
    convolution = Conv2dSame(32, 32, kernel, stride, groups=32).to(memory_format=torch.channels_last)
    x = torch.randn(16, 32, *size).contiguous(memory_format=torch.channels_last)
    layer = FusedConvolution(convolution, nn.ReLU())
    torch.testing.assert_close(layer._at_once(x), convolution(x).relu(), rtol=1e-5, atol=1e-6)
    assert torch.equal(layer(x), convolution(x).relu())


@torch.inference_mode()
def test_what_is_no_number_comes_out_as_none():
    convolution = nn.Conv2d(8, 16, 3, padding=1).to(memory_format=torch.channels_last)
    convolution.weight[3] = torch.nan
    x = torch.randn(4, 8, 16, 16).contiguous(memory_format=torch.channels_last)
    layer = FusedConvolution(convolution, nn.ReLU())
    assert not layer._at_once(x).isnan().any()  # which is why it is not done
    for _ in range(2):
        assert layer(x)[:, 3].isnan().all()


@torch.inference_mode()
def test_another_kernel_with_other_bits_is_not_taken(monkeypatch):
    layer = FusedConvolution(nn.Conv2d(4, 8, 3), nn.ReLU())
    monkeypatch.setattr(layer, "_at_once", lambda x: layer._one_after_the_other(x) + 1e-6)
    x = torch.randn(2, 4, 9, 9)
    expected = functional.relu(layer.convolution(x))
    for _ in range(2):
        assert torch.equal(layer(x), expected)
    assert not any(layer._is_same.values())
    monkeypatch.undo()
    smaller = x[:, :, :5]
    layer(smaller)
    assert [*layer._is_same.values()] == [False, True]  # each shape for itself


@torch.inference_mode()
def test_black_images_that_come_first_decide_nothing(monkeypatch):
    layer = FusedConvolution(nn.Conv2d(4, 8, 3), nn.ReLU())
    monkeypatch.setattr(layer, "_at_once", lambda x: layer._one_after_the_other(x) + 1e-6 * x.abs().amax())
    x = torch.randn(2, 4, 9, 9)
    for given in (torch.zeros_like(x), x, x):
        assert torch.equal(layer(given), functional.relu(layer.convolution(given)))


class Forked(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding="same"), nn.Conv2d(4, 4, 3)
        self.third = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.second(functional.relu(self.first(x)))
        both = functional.relu(x) + x
        return functional.relu6(functional.leaky_relu(self.third(both)))


@torch.inference_mode()
def test_what_something_else_uses_and_other_activations_stay():
    section = torch.fx.symbolic_trace(Forked().eval())
    fused = fuse_convolutions(section)
    assert not fused_layers(fused)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(fused(x), section(x))


def test_gradients_programs_and_autocast_go_one_after_the_other():
    layer = FusedConvolution(nn.Conv2d(3, 8, 3), nn.ReLU6()).eval().requires_grad_(False)
    x = torch.randn(2, 3, 8, 8)
    expected = functional.relu6(layer.convolution(x))
    layer(x)
    with_gradients = x.clone().requires_grad_()
    layer(with_gradients).sum().backward()
    assert with_gradients.grad.abs().sum() > 0
    exported = torch.export.export(layer, (x,))
    assert "mkldnn" not in str(exported.graph)
    traced = torch.jit.trace(layer, x)
    assert "mkldnn" not in str(traced.inlined_graph)
    for program in (exported.module(), traced, layer):
        torch.testing.assert_close(program(x), expected)
    with torch.autocast("cpu", torch.bfloat16), Operators() as operators:
        assert layer(x).dtype == torch.bfloat16
    assert not operators.of("_convolution_pointwise")


def test_only_where_onednn_computes():
    assert can_fuse("fp32", CPU) == torch.backends.mkldnn.is_available()
    assert not can_fuse("fp16", CPU)
    assert not can_fuse("fp32", torch.device("cuda"))
