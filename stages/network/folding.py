"""Folding BatchNorm into the convolution below it: in evaluation mode the two are one affine map of the input.

Works on the graph of a section (see `cut`). What is folded follows from the graph and the kinds of the layers alone,
so that it is the same on every machine.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

# Exactly these kinds, not those derived from them: some standardise their weights, or do other things, when called.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMALISATIONS = (nn.BatchNorm2d, FrozenBatchNorm2d)
_NORMALISATIONS_WITH_ACTIVATION = (BatchNormAct2d, FrozenBatchNormAct2d)


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
    _open_sequentials(folded)
    graph = folded.graph
    pairs = [node for node in graph.nodes if _ends_a_pair(node, folded)]
    for node in pairs:
        convolution, name = node.all_input_nodes[0], f"{node.name}_folded"
        folded.add_submodule(name, _fold(_layer(convolution, folded), _layer(node, folded)))
        with graph.inserting_after(convolution):
            node.replace_all_uses_with(graph.call_module(name, convolution.args))
        graph.erase_node(node)
        graph.erase_node(convolution)
    return fx.GraphModule(folded, graph), len(pairs)  # made anew, it holds only the layers that the graph calls


def _open_sequentials(section: fx.GraphModule) -> None:
    """Replace each call of a sequence of layers by the calls of its layers: the tracer takes some for one step."""
    graph = section.graph
    waiting = list(graph.nodes)
    while waiting:
        node = waiting.pop()
        layer = _layer(node, section)
        if isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward:
            output = node.args[0]
            with graph.inserting_before(node):
                for name in layer._modules:
                    output = graph.call_module(f"{node.target}.{name}", (output,))
                    waiting.append(output)
            node.replace_all_uses_with(output)
            graph.erase_node(node)


def _ends_a_pair(node: fx.Node, section: fx.GraphModule) -> bool:
    """Say whether a node is a BatchNorm that can be folded into the convolution below it."""
    layer = _layer(node, section)
    if type(layer) not in (*_NORMALISATIONS, *_NORMALISATIONS_WITH_ACTIVATION):
        return False
    below = node.all_input_nodes[0]
    return (
        type(_layer(below, section)) in _CONVOLUTIONS
        and len(below.users) == 1
        and not layer.training
        and layer.running_mean is not None
    )


def _layer(node: fx.Node, section: fx.GraphModule) -> Any:
    """Return the layer that a node calls; None if it calls none."""
    return section.get_submodule(str(node.target)) if node.op == "call_module" else None


def _fold(convolution: nn.Conv2d, normalisation: Any) -> nn.Module:
    """Return one convolution for the two, followed by what the second does besides normalising."""
    tensors = (
        convolution.weight,
        convolution.bias,
        normalisation.running_mean,
        normalisation.running_var,
        normalisation.eps,
        normalisation.weight,
        normalisation.bias,
    )
    exact: Any = [one.detach().double() if isinstance(one, torch.Tensor) else one for one in tensors]
    weight, bias = fuse_conv_bn_weights(*exact)
    folded = copy.deepcopy(convolution)
    folded.weight = nn.Parameter(weight.to(convolution.weight.dtype), requires_grad=False)
    folded.bias = nn.Parameter(bias.to(convolution.weight.dtype), requires_grad=False)
    if isinstance(normalisation, _NORMALISATIONS_WITH_ACTIVATION):
        return nn.Sequential(folded, normalisation.drop, normalisation.act)
    return folded
