"""Folding: the same function with fewer layers, and hands off everything that only looks alike."""

import copy
import gc
from functools import lru_cache

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d
from timm.layers.std_conv import StdConv2d
from torch import fx, nn
from torchvision.ops import FrozenBatchNorm2d

from stages.network.backbones.registry import load_backbone
from stages.network.graph.bn_folding import fold_batchnorm
from stages.network.graph.cuts import CutGraph
from tests.stages.network.networks import FAMILIES, graph, images

# How many of each network's BatchNorms follow a convolution. DenseNet's others stand before theirs, MaxViT's too.
FOLDED = {
    "resnet18": 20,
    "googlenet": 57,
    "inception_v3": 94,
    "densenet121": 9,
    "vgg11_bn": 8,
    "mobilenet_v3_large": 46,
    "efficientnet_b0": 49,
    "regnet_y_400mf": 53,
    "shufflenet_v2_x1_0": 56,
    "maxvit": 11,
    "mnasnet1_0": 52,
    "timm:tf_efficientnet_lite0": 49,
    "timm:mobilenetv4_conv_small": 46,
}


@lru_cache
def section(name):
    """The trunk of a network whose every BatchNorm does something: none of its four vectors is left at 0 or 1."""
    cut_graph = graph(name)
    trunk = copy.deepcopy(cut_graph.evaluation_section(None, cut_graph.resolve("auto")))
    generator = torch.Generator().manual_seed(1)
    normalizations = [layer for layer in trunk.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in normalizations:
        nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
        nn.init.normal_(layer.bias, 0, 0.3, generator=generator)
        layer.train().momentum = 1.0
    with torch.no_grad():
        trunk(images(name, 2))
    return trunk.eval()


@pytest.fixture(autouse=True, scope="module")
def no_section_outlives_the_file():
    yield
    section.cache_clear()
    gc.collect()


def shaken(layer):
    """A BatchNorm of any kind with statistics, weight and bias that are neither 0 nor 1."""
    generator = torch.Generator().manual_seed(2)
    for tensor in (layer.running_mean, layer.weight, layer.bias):
        tensor.data.normal_(0, 1, generator=generator)
    layer.running_var.uniform_(0.5, 2, generator=generator)
    return layer


def traced(module):
    """The graph of a module whose layers are one step each, in whatever mode they are."""

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m, module_qualified_name):
            return type(m) is not nn.Sequential

    return fx.GraphModule(module, Tracer().trace(module))


def error(output, exact):
    """The largest difference, relative to the scale of the features."""
    return ((output - exact).abs().max() / exact.abs().max()).item()


# A network without any has nothing to fold, which one stands for.
@pytest.mark.parametrize("name", [*FOLDED, "timm:vit_tiny_patch16_224"])
def test_every_batchnorm_behind_a_convolution_is_folded(name):
    cut_graph = graph(name)
    assert fold_batchnorm(cut_graph.evaluation_section(None, cut_graph.resolve("auto")))[1] == FOLDED.get(name, 0)


@pytest.mark.parametrize("name", FOLDED)
@torch.no_grad()
def test_folding_keeps_the_function_of_every_family(name):
    unfolded, x = section(name), images(name, 1 if FAMILIES[name] == 224 else 2, seed=3)
    folded, count = fold_batchnorm(unfolded)
    assert count == FOLDED[name]

    double = copy.deepcopy(unfolded).double()
    exact = double(x.double())
    assert error(fold_batchnorm(double)[0](x.double()), exact) < 1e-10
    # Deep networks with random weights magnify float32 rounding, with and without folding.
    assert error(folded(x), exact) < max(1e-5, 3 * error(unfolded(x), exact))


@torch.no_grad()
def test_features_of_pretrained_weights_change_by_less_than_one_in_a_hundred_thousand():
    cut_graph = CutGraph(load_backbone("efficientnet_lite0").module, 224)
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for cut in ("auto", "blocks.4"):
        unfolded = cut_graph.evaluation_section(None, cut_graph.resolve(cut))
        assert error(fold_batchnorm(unfolded)[0](x), unfolded(x)) < 1e-5


@torch.no_grad()
def test_the_given_section_is_left_as_it_is_and_shares_what_is_not_folded():
    unfolded = section("densenet121")
    steps, state = str(unfolded.graph), copy.deepcopy(unfolded.state_dict())
    folded, _ = fold_batchnorm(unfolded)
    assert str(unfolded.graph) == steps
    assert all(torch.equal(tensor, state[name]) for name, tensor in unfolded.state_dict().items())
    last = "features.norm5"
    assert folded.get_submodule(last) is unfolded.get_submodule(last)
    assert "features.conv0.weight" not in folded.state_dict()


def sections_that_train(name):
    """A network as a section, plain and folded, each with layers of its own, and an input; in float64."""
    cut_graph = graph(name)
    end = cut_graph.resolve("auto")
    plain, folded = (
        copy.deepcopy(cut_graph.section(None, end, folded=is_folded)).double() for is_folded in (False, True)
    )
    count = 1 if FAMILIES[name] == 224 else 2
    return plain.requires_grad_(True), folded.requires_grad_(True), images(name, count, seed=4).double()


def gradients_of(section, x):
    """The output, and the gradients of all parameters and of the input by their names."""
    x = x.clone().requires_grad_()
    torch.manual_seed(5)
    output = section(x)
    generator = torch.Generator().manual_seed(6)
    (output * torch.randn(output.shape, generator=generator, dtype=output.dtype)).sum().backward()
    parameter_gradients = {name: parameter.grad for name, parameter in section.named_parameters()}
    return output.detach(), {"x": x.grad, **parameter_gradients}


@pytest.mark.parametrize(
    ("name", "training"),
    [
        *((name, False) for name in [*FOLDED, "timm:convnext_atto"]),
        *((name, True) for name in ("resnet18", "densenet121", "timm:tf_efficientnet_lite0")),
    ],
)
def test_folding_while_training_keeps_function_gradients_and_statistics(name, training):
    plain, folded, x = sections_that_train(name)
    (expected, plain_gradients), (actual, folded_gradients) = (
        gradients_of(section.train(training), x) for section in (plain, folded)
    )
    assert error(actual, expected) < 1e-10
    assert list(folded_gradients) == list(plain_gradients)
    largest = max(gradient.abs().max() for gradient in plain_gradients.values())
    for parameter, gradient in plain_gradients.items():
        assert (folded_gradients[parameter] - gradient).abs().max() < 1e-8 * largest, parameter
    for buffer, value in plain.state_dict().items():
        torch.testing.assert_close(folded.state_dict()[buffer], value, rtol=1e-10, atol=1e-10, msg=buffer)


def test_which_of_the_two_is_asked_in_every_pass():
    plain, folded, x = sections_that_train("resnet18")
    for section in (plain, folded):
        section.train()
        section.layer1.eval()
    before = {name: value.clone() for name, value in folded.state_dict().items()}
    assert error(gradients_of(folded, x)[0], gradients_of(plain, x)[0]) < 1e-10
    moved = {name for name, value in folded.state_dict().items() if not torch.equal(value, before[name])}
    statistics = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert moved == {name for name in statistics if not name.startswith("layer1")}


def test_a_folded_convolution_and_its_batchnorm_are_not_run_one_after_the_other():
    _, folded, x = sections_that_train("timm:tf_efficientnet_lite0")
    run = []
    for layer in folded.modules():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            layer.register_forward_hook(lambda layer, inputs, output: run.append(layer))
    folded.eval()(x)
    assert run == []
    folded.train()(x)
    assert {type(layer) for layer in run} == {BatchNormAct2d}


@pytest.mark.parametrize("normalization", [nn.BatchNorm2d, FrozenBatchNorm2d, BatchNormAct2d, FrozenBatchNormAct2d])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_kinds_of_batchnorm(normalization, bias):
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, bias=bias), shaken(normalization(8)), nn.Conv2d(8, 2, 1)).eval()
    x = torch.randn(2, 3, 6, 6)
    folded, count = fold_batchnorm(traced(layers))
    assert count == 1
    torch.testing.assert_close(folded(x), layers(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_batchnorm_without_weight_and_bias():
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)).eval()
    layers[1].running_mean.normal_()
    layers[1].running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 6, 6)
    folded, count = fold_batchnorm(traced(layers))
    assert count == 1
    torch.testing.assert_close(folded(x), layers(x), rtol=1e-5, atol=1e-5)


class OtherUser(nn.Module):
    """Needs the convolution's output itself, too."""

    def __init__(self):
        super().__init__()
        self.convolution, self.normalization = nn.Conv2d(3, 8, 1), shaken(nn.BatchNorm2d(8))

    def forward(self, x):
        x = self.convolution(x)
        return x + self.normalization(x)


class Changed(OtherUser):
    """Changes the convolution's output in a statement."""

    def forward(self, x):
        x = self.convolution(x)
        x.mul_(2)
        return self.normalization(x)


def in_training():
    layers = nn.Sequential(nn.Conv2d(3, 8, 1), shaken(nn.BatchNorm2d(8))).eval()
    layers[1].train()
    return layers


UNUSUAL = {
    "another user": OtherUser,
    "changed in place": Changed,
    "training mode": in_training,
    "no statistics": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)),
    "weights standardised when called": lambda: nn.Sequential(StdConv2d(3, 8, 1), shaken(nn.BatchNorm2d(8))),
    "another layer between": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), shaken(nn.BatchNorm2d(8))),
    "no convolution": lambda: nn.Sequential(shaken(nn.BatchNorm2d(3)), nn.Conv2d(3, 8, 1)),
}


@pytest.mark.parametrize("case", UNUSUAL)
@torch.no_grad()
def test_what_is_unusual_is_left_alone(case):
    module = UNUSUAL[case]()
    if case != "training mode":
        module.eval()
    x = torch.randn(2, 3, 6, 6)
    folded, count = fold_batchnorm(traced(module))
    assert count == 0
    torch.testing.assert_close(folded(x), module(x))


class Shared(nn.Module):
    """Uses one convolution under two BatchNorms, and one BatchNorm over two convolutions."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.first, self.second = shaken(nn.BatchNorm2d(3)), nn.BatchNorm2d(3)
        self.second.running_mean.fill_(5)

    def forward(self, x):
        x = self.second(self.stem(self.first(self.stem(x)).relu()))
        return self.second(self.body(x))


@torch.no_grad()
def test_layers_used_twice_are_folded_for_each_use_alone():
    module, x = Shared().eval(), torch.randn(2, 3, 6, 6)
    folded, count = fold_batchnorm(traced(module))
    assert count == 3
    torch.testing.assert_close(folded(x), module(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_convolution_whose_output_is_cached_is_not_folded():
    cut_graph = graph("resnet18")
    stem = cut_graph.resolve("conv1")
    assert fold_batchnorm(cut_graph.evaluation_section(None, stem))[1] == 0
    assert fold_batchnorm(cut_graph.evaluation_section(stem, cut_graph.resolve("auto")))[1] == FOLDED["resnet18"] - 1
