"""The network's own blocks above the cut as a head."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from cache.errors import UsageError
from stages.network.freezing import keep_batchnorm_in_evaluation
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.graph.pooling import Pool
from stages.network.heads.base import Head
from stages.network.heads.registry import register_torch_head


@register_torch_head("top", label="top", rows="map", tasks=("single_label", "multi_label", "regression"))
class TopHead(Head):
    """The network's own blocks above the cut, on maps.

    Takes rows as they leave the cut, float [b, *cut.shape], and gives logits [b, classes]. Made by :meth:`from_graph`.

    Dropout and stochastic depth of the blocks are on in training: a section of a graph has a graph for each mode. Their
    BatchNorm normalises with the pretrained statistics, always, and as stage 3 does by default; its weights and biases
    train.
    """

    needs_graph = True
    pretrained = ("blocks.",)

    def __init__(self, blocks: nn.Module, pool: Pool, cut: Cut, out_features: int) -> None:
        super().__init__("top", cut.shape, out_features, cut=cut.name)
        self.blocks = blocks
        self.pool = pool
        self.output = nn.Linear(pool.shape[0], out_features)
        # all classes start about equally likely, and the first steps leave the blocks nearly as they are
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)
        keep_batchnorm_in_evaluation(self.blocks)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        logits: torch.Tensor = self.output(self.pool(self.blocks(rows)))
        return logits

    @classmethod
    def build(
        cls, row_shape: tuple[int, ...], out_features: int, settings: Mapping[str, Any], at: tuple[CutGraph, Cut] | None
    ) -> TopHead:
        """Return a new head on the output of a cut; it has no settings.

        Raises
        ------
        UsageError
            If there is not one cut, the rows are not its output, or nothing above it has weights.
        """
        if at is None:
            raise UsageError("`head` top goes on from one cut of one network: name one `cut`, with `pool` none.")
        graph, cut = at
        head = cls.from_graph(graph, cut, out_features)
        if tuple(row_shape) != cut.shape:
            raise UsageError(
                f"`head` top takes the output of the cut {cut.name!r} as it is, {[*cut.shape]}, and these rows have "
                f"the shape {[*row_shape]}. Cache them with `pool` none."
            )
        return head

    @classmethod
    def rebuild(
        cls, row_shape: tuple[int, ...], out_features: int, settings: Mapping[str, Any], graph: CutGraph | None
    ) -> TopHead:
        """Return a head with the rest of a `config`, made of the blocks of its network.

        Raises
        ------
        UsageError
            If `graph` is another network.
        """
        assert graph is not None
        rest = {name: value for name, value in settings.items() if name != "cut"}
        cut = graph.resolve(settings["cut"])
        head = cls.from_graph(graph, cut, out_features, **rest)
        if cut.shape != row_shape:
            raise UsageError(
                f"it takes rows of shape {[*row_shape]}, and {cut.name!r} gives {[*cut.shape]} here, where the network "
                "or the size of the images is another"
            )
        return head

    @classmethod
    def from_graph(cls, graph: CutGraph, cut: Cut, out_features: int) -> TopHead:
        """Return copies of a network's blocks above `cut`, all of which train, with a new output layer.

        The few networks that pool after their output layer (SqueezeNet) are averaged over the places before it.

        Raises
        ------
        UsageError
            If nothing with weights lies between the cut and the output layer.
        """
        end = graph.resolve("auto")
        order = [graph_cut.name for graph_cut in graph.cuts]
        blocks = nn.Module()
        if order.index(cut.name) < order.index(end.name):
            blocks = copy.deepcopy(graph.section(cut, end, folded=True)).requires_grad_(True)
        if not [*blocks.parameters()]:
            raise UsageError(
                f"`head` top trains the blocks between the cut and the output layer, and above {cut.name!r} there are "
                "none with weights. Name a lower `cut` (`list-cuts` lists them), with `pool` none; or take "
                "another head."
            )
        return cls(blocks, Pool("avg", end), cut, out_features).train()
