"""A multi-layer perceptron on vectors."""

from __future__ import annotations

import torch
from torch import nn

from stages.network.heads.base import Head, vector_width
from stages.network.heads.registry import register_torch_head


@register_torch_head(
    "mlp",
    label="MLP",
    rows="vector",
    tasks=("single_label", "multi_label", "regression"),
    default_for=("single_label", "multi_label", "regression"),
    cost=15.0,
)
class MLPHead(Head):
    """One hidden layer: linear, ReLU, dropout, linear; float [b, d] -> logits [b, classes]."""

    standardized = True
    stackable = True

    def __init__(
        self,
        row_shape: tuple[int, ...],
        out_features: int,
        hidden: int = 512,
        dropout: float = 0.5,
        *,
        l2: bool = False,
    ) -> None:
        super().__init__("mlp", row_shape, out_features, hidden=hidden, dropout=dropout, l2=l2)
        self.layers = nn.Sequential(
            nn.Linear(vector_width("mlp", row_shape), hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, out_features),
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        logits: torch.Tensor = self.layers(self.l2_normalize(rows))
        return logits
