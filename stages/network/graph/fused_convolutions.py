"""Convolutions of a frozen network as oneDNN does them best, which computes them for torch on CPUs: to the same bits.

- The activation behind one is applied to what is still in registers, instead of going through all outputs once more.
  torch asks for that in what it compiles alone (`torch.compile`), by the operator that is called here. A ReLU rounds
  nothing, so the bits are the same. In bfloat16 it takes as long as many a convolution: its own kernel unpacks every
  number and packs it again.
- Padding as in TensorFlow is one row and one column more below and on the right than above and on the left, where a
  stride meets an even side. torch's convolutions have no such, so timm copies the map into a larger one. A kernel with
  a row and a column of zeros in front, and as much padding on all sides, sums the same products.

What oneDNN has kernels for is its own affair, so that the bits are the same is no belief: see `FusedConvolution`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from stages.network.graph.bn_folding import layer_of, open_sequentials
from stages.network.graph.depthwise_conv import padded
from stages.network.graph.layer_kinds import convolutions, padding_as_in_tensorflow
from stages.runtime.device import has_numbers_here

_CLIPPING: dict[type[nn.Module], tuple[str, tuple[float, ...]]] = {
    nn.Identity: ("none", ()),
    nn.ReLU: ("relu", ()),
    nn.ReLU6: ("hardtanh", (0.0, 6.0)),
}
"""Activations that do not round, as oneDNN names them, with their numbers."""

_FUNCTIONS: dict[Any, type[nn.Module]] = {
    **dict.fromkeys((functional.relu, torch.relu, torch.relu_, "relu", "relu_"), nn.ReLU),
    functional.relu6: nn.ReLU6,
}
"""Functions and names of methods that are one of these activations."""


class FusedConvolution(nn.Module):
    """A convolution and the activation behind it: one call where that gives the same bits, else one after the other.

    Which of its kernels oneDNN takes hangs on the shape of what comes in and on the number of threads, and of few
    images it takes others for some convolutions where it clips. So what comes in first in a shape goes through both
    ways; of nothing but zeros, of which all sums are alike, no more is known than before. That finds a damaged network,
    too, whose numbers are none: oneDNN's ReLU makes them 0, and they have to come out.

    Parameters
    ----------
    convolution
        One of `convolutions`.
    activation
        One that does not round; the identity, where nothing is to be joined.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.convolution, self.activation = convolution, activation
        self._name, self._numbers = _CLIPPING[type(activation)]
        self._is_same: dict[tuple[torch.Size, int], bool] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [b, c', h', w'] of x, [b, c, h, w]."""
        if not has_numbers_here(x):
            return self._one_after_the_other(x)
        seen = x.shape, torch.get_num_threads()
        if seen not in self._is_same:
            apart = self._one_after_the_other(x)
            if x.any():
                self._is_same[seen] = torch.equal(apart, self._at_once(x))
            return apart
        return self._at_once(x) if self._is_same[seen] else self._one_after_the_other(x)

    def _at_once(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.convolution
        x, weight, padding = _padded_by_zeros_of_the_kernel(layer, x)
        clipped: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            *(x, weight, layer.bias, padding, layer.stride, layer.dilation, layer.groups),
            *(self._name, self._numbers, ""),
        )
        return clipped

    def _one_after_the_other(self, x: torch.Tensor) -> torch.Tensor:
        activated: torch.Tensor = self.activation(self.convolution(x))
        return activated


def _padded_by_zeros_of_the_kernel(layer: nn.Conv2d, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Return the map, the kernel and the zeros on each side that give a convolution, the map as it is if possible.

    It is of depthwise ones, whose kernels are small: others would compute more for it than a copy takes.
    """
    if not isinstance(layer, padding_as_in_tensorflow()) or layer.groups < layer.in_channels or max(layer.dilation) > 1:
        x, padding = padded(layer, x)
        return x, layer.weight, padding
    from timm.layers.padding import get_same_padding

    sides = zip(x.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True)
    both = [get_same_padding(*side) for side in sides]
    after = [total - total // 2 for total in both]
    more_above, more_left = [2 * zeros - total for zeros, total in zip(after, both, strict=True)]
    return x, functional.pad(layer.weight, (more_left, 0, more_above, 0)), after


def can_fuse(precision: str, device: torch.device) -> bool:
    """Return whether a device has such convolutions, with this torch and this processor."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return precision == "fp32" or (precision == "bf16" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def fuse_convolutions(section: fx.GraphModule) -> fx.GraphModule:
    """Return a section in which each convolution is one layer with the activation that alone uses what it gives.

    Parameters
    ----------
    section
        An evaluation graph and its layers, folded. They are left as they are, and shared with the result.
    """
    fused = fx.GraphModule(section, copy.deepcopy(section.graph))
    graph = fused.graph
    open_sequentials(graph, fused)
    for node in [node for node in graph.nodes if type(layer_of(node, fused)) is nn.Identity]:
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    for node in list(graph.nodes):
        convolution = layer_of(node, fused)
        if type(convolution) not in convolutions() or isinstance(convolution.padding, str):
            continue
        behind = next(iter(node.users), None) if len(node.users) == 1 else None
        activation = None if behind is None else _activation(behind, fused)
        if activation is None and not isinstance(convolution, padding_as_in_tensorflow()):
            continue
        name = f"{node.name}_fused"
        fused.add_submodule(name, FusedConvolution(convolution, activation or nn.Identity()))
        with graph.inserting_after(node):
            together = graph.call_module(name, node.args)
        if behind is not None and activation is not None:
            behind.replace_all_uses_with(together)
            graph.erase_node(behind)
        node.replace_all_uses_with(together)
        graph.erase_node(node)
    return fx.GraphModule(fused, graph)


def _activation(node: fx.Node, network: nn.Module) -> nn.Module | None:
    """Return the activation that a node is, if it is one of those that do not round."""
    layer = layer_of(node, network)
    if isinstance(layer, nn.Module):
        return layer if type(layer) in _CLIPPING else None
    if node.op in ("call_function", "call_method") and node.target in _FUNCTIONS:
        return _FUNCTIONS[node.target]()
    return None
