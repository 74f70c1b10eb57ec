"""Networks with random weights for the tests, each made once, and let go when the tests of this room are done."""

import gc
from functools import lru_cache

import timm
import torch
import torchvision
from torch import nn

from stages.network.backbones.registry import load_backbone
from stages.network.classifier import output_layers
from stages.network.graph.cuts import CutGraph

# The least that runs quickly: small images wherever the architecture takes them.
FAMILIES = {
    "resnet18": 64,
    "googlenet": 64,
    "inception_v3": 80,
    "densenet121": 64,
    "squeezenet1_1": 64,
    "alexnet": 64,
    "vgg11_bn": 32,
    "mobilenet_v3_large": 64,
    "efficientnet_b0": 64,
    "vit_b_16": 224,
    "swin_t": 64,
    "convnext_tiny": 64,
    "regnet_y_400mf": 64,
    "shufflenet_v2_x1_0": 64,
    "maxvit": 128,
    "mnasnet1_0": 64,
    "timm:tf_efficientnet_lite0": 64,
    "timm:convnext_atto": 64,
    "timm:mobilenetv4_conv_small": 64,
    "timm:vit_tiny_patch16_224": 64,
    "timm:eva02_tiny_patch14_224": 56,
}


def vgg11_bn(size: int) -> nn.Module:
    """The network but for the hundred million weights of its classifier, which has fewer."""
    with torch.device("meta"):
        module = torchvision.models.vgg11_bn(init_weights=False)
    module.classifier = nn.Sequential(nn.Linear(512 * 7 * 7, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 10))
    module.features.to_empty(device="cpu")
    for layer in module.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
    return module


# Smaller than any that is published.
SMALL = {
    "vgg11_bn": vgg11_bn,
    "densenet121": lambda size: torchvision.models.DenseNet(32, (2, 2, 2, 2), 64),
    "timm:eva02_tiny_patch14_224": lambda size: timm.create_model("eva02_tiny_patch14_224", img_size=size, depth=3),
    "maxvit": lambda size: torchvision.models.MaxVit(
        (size, size), 16, 4, [16, 32, 64, 128], [1, 1, 2, 1], head_dim=16, stochastic_depth_prob=0.2
    ),
}

# Networks with dropout and stochastic depth of every kind: the size of their images, and how they are made.
NOISY = {
    "torchvision dropout and stochastic depth": (
        64,
        lambda: torchvision.models.efficientnet_b0(stochastic_depth_prob=0.5),
    ),
    "torchvision functional dropout": (
        32,
        lambda: torchvision.models.DenseNet(8, (2, 2), 16, drop_rate=0.3),
    ),
    "torchvision attention": (
        32,
        lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, dropout=0.3, attention_dropout=0.3),
    ),
    "torchvision window attention": (
        32,
        lambda: torchvision.models.SwinTransformer([2, 2], 16, [2, 2], [2, 2], [4, 4], 4.0, 0.3, 0.3),
    ),
    "timm functional dropout": (
        64,
        lambda: timm.create_model("tf_efficientnet_lite0", drop_rate=0.5, drop_path_rate=0.5),
    ),
    "timm attention and drop path": (
        32,
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, drop_path_rate=0.5, attn_drop_rate=0.3),
    ),
    "timm drop path": (32, lambda: timm.create_model("convnext_atto", drop_path_rate=0.5, drop_rate=0.5)),
}


@lru_cache
def network(name: str) -> nn.Module:
    """A network in evaluation mode whose activations neither vanish nor explode, and whose logits are not all 0."""
    size = None if FAMILIES[name] == 224 else FAMILIES[name]
    module = SMALL[name](FAMILIES[name]) if name in SMALL else load_backbone(name, "none", size).module
    for layer in output_layers(module):
        nn.init.normal_(module.get_parameter(f"{layer}.weight"), std=0.05)
    normalizations = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in normalizations:
        layer.momentum = 1.0
    if normalizations:
        module.train()
        module(images(name, 4))
    for layer in normalizations:
        layer.momentum = 0.1
    return module.eval()


@lru_cache
def graph(name: str) -> CutGraph:
    return CutGraph(network(name), FAMILIES[name])


def forget_networks() -> None:
    """Let go of all that were made: they take two gigabytes, which no test of another room needs."""
    graph.cache_clear()
    network.cache_clear()
    gc.collect()  # graphs refer to themselves


def images(name: str, count: int, seed: int = 0) -> torch.Tensor:
    size = FAMILIES[name]
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
