"""Folding BatchNorm into the convolution below it: in evaluation mode the two are one affine map of the input.

Works on the graph of a section (see `cut`). What is folded follows from the graph and the kinds of the layers alone,
so that it is the same on every machine. What is frozen is folded once (`fold_batchnorm`); what trains, anew in every
pass (`fold_while_training`).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from stages.network.graph.depthwise_conv import conv2d_with_weight
from stages.network.graph.layer_kinds import (
    convolutions,
    frozen_normalizations,
    normalizations,
    normalizations_with_activation,
)


def fold_batchnorm(section: fx.GraphModule) -> tuple[fx.GraphModule, int]:
    """Return a section in which each convolution with its BatchNorm is one convolution, and how many there are.

    A pair is folded where both are layers of a known kind, nothing but the BatchNorm uses the convolution's output,
    and the BatchNorm is in evaluation mode with running statistics; everything else stays as it is. Weights are
    multiplied in float64 and rounded once. An activation that belongs to the BatchNorm layer stays behind it.

    Parameters
    ----------
    section
        An evaluation graph and its layers. They are left as they are, and shared with the result where not folded.
    """
    folded = fx.GraphModule(section, copy.deepcopy(section.graph))
    graph = folded.graph
    open_sequentials(graph, folded)
    pairs = [node for node in graph.nodes if _ends_a_pair(node, folded) and _is_fixed(layer_of(node, folded))]
    for node in pairs:
        convolution, name = node.all_input_nodes[0], f"{node.name}_folded"
        folded.add_submodule(name, _fold(layer_of(convolution, folded), layer_of(node, folded)))
        with graph.inserting_after(convolution):
            node.replace_all_uses_with(graph.call_module(name, convolution.args))
        graph.erase_node(node)
        graph.erase_node(convolution)
    return fx.GraphModule(folded, graph), len(pairs)  # made anew, it holds only the layers that the graph calls


def fold_while_training(graph: fx.Graph, network: nn.Module) -> None:
    """Make each convolution of a section's graph with its BatchNorm one call.

    While the BatchNorm is in evaluation mode, which is asked in every pass, the call folds the two: the gradients of
    both are the same, and the map is gone through once less forward, twice less backward. Else one runs after the
    other. Layers stay where they are, under their names. Convolutions that stand alone are run by
    :func:`~stages.network.graph.depthwise_conv.conv2d_with_weight`, too.

    Parameters
    ----------
    graph
        Of either mode; it is rewritten.
    network
        What the graph computes with.
    """
    open_sequentials(graph, network)
    for node in [node for node in graph.nodes if _ends_a_pair(node, network)]:
        convolution = node.all_input_nodes[0]
        with graph.inserting_before(node):
            layers = [graph.get_attr(str(layer_node.target)) for layer_node in (convolution, node)]
            node.replace_all_uses_with(graph.call_function(_convolve_and_normalize, (*layers, *convolution.args)))
        graph.erase_node(node)
        graph.erase_node(convolution)
    for node in [node for node in graph.nodes if type(layer_of(node, network)) in convolutions()]:
        with graph.inserting_before(node):
            layer = graph.get_attr(str(node.target))
            node.replace_all_uses_with(graph.call_function(_convolve, (layer, *node.args)))
        graph.erase_node(node)


def _convolve(convolution: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    return conv2d_with_weight(convolution, x, convolution.weight, convolution.bias)


def _convolve_and_normalize(convolution: nn.Conv2d, normalization: Any, x: torch.Tensor) -> torch.Tensor:
    if not _is_fixed(normalization):
        normalized: torch.Tensor = normalization(_convolve(convolution, x))
        return normalized
    scale = torch.rsqrt(normalization.running_var + normalization.eps)
    if normalization.weight is not None:
        scale = scale * normalization.weight
    shift = -normalization.running_mean if convolution.bias is None else convolution.bias - normalization.running_mean
    bias = shift * scale if normalization.bias is None else shift * scale + normalization.bias
    output = conv2d_with_weight(convolution, x, convolution.weight * scale[:, None, None, None], bias)
    if isinstance(normalization, normalizations_with_activation()):
        after: Any = normalization
        activated: torch.Tensor = after.act(after.drop(output))
        return activated
    return output


def open_sequentials(graph: fx.Graph, network: nn.Module) -> None:
    """Replace each call of a sequence of layers by the calls of its layers: the tracer takes some for one step."""
    waiting = list(graph.nodes)
    while waiting:
        node = waiting.pop()
        layer = layer_of(node, network)
        if isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward:
            output = node.args[0]
            with graph.inserting_before(node):
                for name in _child_names(layer):
                    output = graph.call_module(f"{node.target}.{name}", (output,))
                    waiting.append(output)
            node.replace_all_uses_with(output)
            graph.erase_node(node)


def _child_names(layer: nn.Module) -> list[str]:
    """Return the names of the layers in a layer, in order; one that is there twice has two."""
    return [name for name, _ in layer.named_modules(remove_duplicate=False) if name and "." not in name]


def _ends_a_pair(node: fx.Node, network: nn.Module) -> bool:
    """Say whether a node is a BatchNorm that, with fixed statistics, can be folded into the convolution below it."""
    layer = layer_of(node, network)
    if type(layer) not in (*normalizations(), *normalizations_with_activation()):
        return False
    below = node.all_input_nodes[0]
    return type(layer_of(below, network)) in convolutions() and len(below.users) == 1


def _is_fixed(normalization: Any) -> bool:
    """Say whether a BatchNorm normalises by its running statistics, and leaves them as they are."""
    if isinstance(normalization, frozen_normalizations()):
        return True
    return not normalization.training and normalization.running_mean is not None


def layer_of(node: fx.Node, network: nn.Module) -> Any:
    """Return the layer that a node calls; None if it calls none."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _fold(convolution: nn.Conv2d, normalization: Any) -> nn.Module:
    """Return one convolution for the two, followed by what the second does besides normalising."""
    tensors = (
        convolution.weight,
        convolution.bias,
        normalization.running_mean,
        normalization.running_var,
        normalization.eps,
        normalization.weight,
        normalization.bias,
    )
    exact: Any = [tensor.detach().double() if isinstance(tensor, torch.Tensor) else tensor for tensor in tensors]
    weight, bias = fuse_conv_bn_weights(*exact)
    folded = copy.deepcopy(convolution)
    folded.weight = nn.Parameter(weight.to(convolution.weight.dtype), requires_grad=False)
    folded.bias = nn.Parameter(bias.to(convolution.weight.dtype), requires_grad=False)
    if isinstance(normalization, normalizations_with_activation()):
        after: Any = normalization
        return nn.Sequential(folded, after.drop, after.act)
    return folded
