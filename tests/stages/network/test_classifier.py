"""T1: any supported network gets an output layer of the right size."""

import math

import pytest
import timm
import torch
import torchvision
from torch import nn

from cache.errors import UsageError
from stages.network.classifier import detach_auxiliary_heads, output_layers, replace_classifier

TORCHVISION = [
    *("resnet18", "alexnet", "vgg11_bn", "squeezenet1_1", "densenet121", "efficientnet_b0", "vit_b_32", "swin_t"),
    *(
        "googlenet",
        "inception_v3",
        "convnext_tiny",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
        "mnasnet0_5",
        "maxvit_t",
    ),
]
TIMM = [
    *("tf_efficientnet_lite0", "convnext_atto", "mobilenetv4_conv_small", "vit_tiny_patch16_224", "resnet18", "dla34"),
    *("deit_tiny_distilled_patch16_224", "levit_128s", "repvit_m0_9", "swin_tiny_patch4_window7_224"),
    *("eva02_tiny_patch14_224", "regnety_002", "caformer_s18", "ghostnet_100", "inception_next_tiny"),
]


def without_numbers(name):
    """A network whose tensors have shapes and no data: enough to see what fits, and quick."""
    if name.startswith("timm:"):
        return timm.create_model(name[5:]).to("meta")
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        return torchvision.models.get_model(name, **options)


@pytest.mark.parametrize("name", [*TORCHVISION, *(f"timm:{name}" for name in TIMM)])
def test_new_classifier_has_the_right_size(name):
    module = without_numbers(name).eval()
    with torch.device("meta"):
        assert replace_classifier(module, 7) is module
        assert module(torch.empty(2, 3, 224, 224)).shape == (2, 7)
    assert all(len(module.get_parameter(f"{layer}.weight")) == 7 for layer in output_layers(module))


@pytest.mark.parametrize(
    ("name", "size", "names"), [("googlenet", 224, ("aux1", "aux2")), ("inception_v3", 299, ("AuxLogits",))]
)
def test_auxiliary_classifiers_are_resized_along(name, size, names):
    with torch.device("meta"):
        module = torchvision.models.get_model(name, init_weights=False)
        outputs = replace_classifier(module, 7, names).train()(torch.empty(2, 3, size, size))
        assert [tuple(logits.shape) for logits in outputs] == [(2, 7)] * len(outputs)
        assert [*detach_auxiliary_heads(module, names)] == [*names]
        assert not detach_auxiliary_heads(module, names)
        assert module.train()(torch.empty(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ("fc",)),
        ("squeezenet1_1", ("classifier.1",)),
        ("vit_b_32", ("heads.head",)),
        ("timm:deit_tiny_distilled_patch16_224", ("head", "head_dist")),
        ("timm:eva02_tiny_patch14_224", ()),
    ],
)
def test_output_layers_are_found(name, layers):
    assert output_layers(without_numbers(name)) == layers


@pytest.mark.parametrize("build", [torchvision.models.resnet18, torchvision.models.squeezenet1_1])
def test_new_classifier_starts_without_favoring_a_class(build):
    torch.manual_seed(0)
    module = replace_classifier(build(), 5).eval()
    with torch.no_grad():
        logits = module(torch.randn(16, 3, 64, 64))
    loss = nn.functional.cross_entropy(logits, torch.arange(16) % 5)
    assert loss.item() == pytest.approx(math.log(5), abs=0.1)
    assert all(module.get_parameter(f"{layer}.weight").requires_grad for layer in output_layers(module))


def test_new_classifier_is_where_the_old_one_was():
    module = torchvision.models.resnet18().double().eval()
    replace_classifier(module, 3)
    assert module.fc.weight.dtype == torch.float64
    assert not module.fc.training


def test_network_without_an_output_layer_is_refused():
    with pytest.raises(UsageError, match="Sequential has no linear layer"):
        replace_classifier(nn.Sequential(nn.ReLU()), 3)
