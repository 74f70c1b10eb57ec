"""The output layer of a classification network: finding it, and replacing it (T1).

Works on any torchvision or timm classifier, without a list of names. Heads that train on cached features are in
`heads`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from torch import nn

from cache.errors import UsageError

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def output_layers(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers whose outputs are the logits.

    A timm network says which they are (a distilled one has two); in torchvision's it is the linear layer or
    convolution registered last. A network without a classifier has none.
    """
    names = {id(layer): name for name, layer in module.named_modules()}
    if not hasattr(module, "get_classifier"):
        return tuple(names[id(layer)] for layer in _layers(module)[-1:])
    network: Any = module
    classifier = network.get_classifier()
    outputs: list[str] = []
    for part in classifier if isinstance(classifier, tuple | list) else [classifier]:
        layers = _layers(part)
        # A classifier made of several heads whose logits are averaged: all that end in the same width.
        outputs += [names[id(layer)] for layer in layers if len(layer.weight) == len(layers[-1].weight)]
    return tuple(outputs)


def detach_auxiliary_heads(module: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Take those of the auxiliary classifiers called `names` that a network has off it, and return them."""
    network: Any = module
    heads = {name: module.get_submodule(name) for name in names if getattr(module, name, None) is not None}
    for name in heads:
        setattr(network, name, None)
        network.aux_logits = False
    return heads


def replace_classifier(module: NetworkT, num_classes: int, auxiliary: Iterable[str] = ()) -> NetworkT:
    """Give a network a new output layer, and return the network.

    The input width is the old layer's. Weights are drawn from a normal distribution with standard deviation 0.01 and
    biases are 0, so that all classes start about equally likely. The auxiliary classifiers that are named get new
    output layers too.

    Raises
    ------
    UsageError
        If the network has no output layer to replace.
    """
    network: Any = module
    if not output_layers(module) and hasattr(module, "reset_classifier"):
        network.reset_classifier(num_classes)
    names = {id(layer): name for name, layer in module.named_modules()}
    auxiliary_layers = [layer for name in auxiliary for layer in _layers(module.get_submodule(name))[-1:]]
    outputs = [*output_layers(module), *(names[id(layer)] for layer in auxiliary_layers)]
    if not outputs:
        raise UsageError(f"{type(module).__name__} has no linear layer or convolution that could be its output layer.")
    for name in outputs:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, _resized(module.get_submodule(name), num_classes))
    if hasattr(module, "num_classes"):
        network.num_classes = num_classes
    return module


def _layers(part: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [layer for layer in part.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def _resized(layer: nn.Module, num_classes: int) -> nn.Module:
    new_layer: Any
    if isinstance(layer, nn.Conv2d):
        new_layer = nn.Conv2d(layer.in_channels, num_classes, kernel_size=1, bias=layer.bias is not None)
    else:
        assert isinstance(layer, nn.Linear)
        new_layer = nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None)
    nn.init.normal_(new_layer.weight, std=0.01)
    if new_layer.bias is not None:
        nn.init.zeros_(new_layer.bias)
    resized: nn.Module = new_layer.to(layer.weight.device, layer.weight.dtype).train(layer.training)
    return resized
