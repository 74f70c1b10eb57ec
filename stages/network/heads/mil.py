"""Attention over the images of a sample: multiple-instance learning."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.network.aggregate import split_bags
from stages.network.heads.base import Head, bag_width
from stages.network.heads.registry import register_torch_head


@register_torch_head("mil", label="MIL attention", rows="bag", tasks=("single_label", "multi_label", "regression"))
class MILHead(Head):
    """Attention over the images of a sample: bags, float [b, F, d + 1] -> logits [b, classes].

    Dropout, a linear layer with ReLU, and the weighted mean of what that gives of each image, before the output. The
    weights, which add up to 1, are softmax(w . (tanh(V h) * sigmoid(U h))) (Ilse, Tomczak & Welling 2018,
    "Attention-based Deep Multiple Instance Learning", equation 9). Bags may be of any size; images that are missing
    have no part in them, and their order has no effect.
    """

    standardized = True
    stackable = True
    takes_bags = True

    def __init__(
        self, row_shape: tuple[int, ...], out_features: int, dropout: float = 0.3, width: int = 128, gates: int = 64
    ) -> None:
        super().__init__("mil", row_shape, out_features, dropout=dropout, width=width, gates=gates)
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Linear(bag_width("mil", row_shape), width)
        self.gate = nn.Linear(width, 2 * gates)
        self.score = nn.Linear(gates, 1)
        self.output = nn.Linear(width, out_features)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits of a batch of bags."""
        embedded, weights = self._weighted(rows)
        logits: Tensor = self.output((weights[..., None] * embedded).sum(dim=1))
        return logits

    def image_weights(self, rows: Tensor) -> Tensor:
        """Return how much each image of a bag counts, [b, F]; all of a bag add up to 1, and a missing one has 0."""
        return self._weighted(rows)[1]

    def _weighted(self, bags: Tensor) -> tuple[Tensor, Tensor]:
        rows, present = split_bags(bags)
        embedded = torch.relu(self.embed(self.dropout(rows)))
        values, gates = self.gate(embedded).chunk(2, dim=-1)
        scores = self.score(torch.tanh(values) * torch.sigmoid(gates))[..., 0]
        return embedded, scores.masked_fill(~present, float("-inf")).softmax(dim=1)
