"""The part of a network between two cuts, as a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from stages.network.graph.bn_folding import fold_while_training
from stages.network.graph.trace import check_image_size as check_image_size


class Section(nn.Module):
    """Part of a network, computing with the network's own submodules; made by :meth:`CutGraph.section`."""

    def __init__(
        self, network: nn.Module, graphs: dict[bool, fx.Graph], branches: Mapping[str, nn.Module], *, folded: bool
    ) -> None:
        super().__init__()
        self.training = network.training
        for graph in graphs.values():
            for node in graph.nodes:
                if node.op in ("call_module", "get_attr") and node.target not in branches:
                    _attach(network, self, str(node.target))
        for name, branch in branches.items():
            setattr(self, name, branch)
        if folded:
            for graph in graphs.values():
                fold_while_training(graph, self)
        # The function that fx writes for a graph only reads attributes of its first argument, so that one module can
        # carry one for each mode.
        self._forwards = {mode: type(fx.GraphModule(self, graph)).forward for mode, graph in graphs.items()}

    def forward(self, x: torch.Tensor) -> Any:
        """Compute the section: float [b, *shape of its start] -> [b, *shape of its end].

        With further outputs it returns a tuple: these, and that of its end. In training mode a section with branches
        returns a pair: what it returns without them, and a dict of what each branch gives.
        """
        return self._forwards[self.training](self, x)


def _attach(network: nn.Module, section: nn.Module, path: str) -> None:
    """Give `section` the module, parameter or buffer that `network` has at `path`, under the same path."""
    *parents, name = path.split(".")
    source, target = network, section
    for parent in parents:
        source = getattr(source, parent)
        if not hasattr(target, parent):
            container = nn.Module()
            container.training = network.training
            setattr(target, parent, container)
        target = getattr(target, parent)
    value = getattr(source, name)
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        persistent = name in source.state_dict(keep_vars=True)
        if getattr(target, name, None) is not value:
            target.register_buffer(name, value, persistent=persistent)
    else:
        setattr(target, name, value)
