"""Average and maximum pooling, concatenated, and two layers."""

from __future__ import annotations

import torch
from torch import nn

from stages.network.graph.pooling import SPATIAL_DIMS, average_and_max
from stages.network.heads.base import Head, layout_and_channels
from stages.network.heads.registry import register_torch_head


@register_torch_head("concat", label="concat", rows="any", tasks=("single_label", "multi_label", "regression"))
class ConcatHead(Head):
    """Concatenated pooling, hidden layer: float [b, *row_shape] -> logits [b, classes].

    Average and maximum over all places, side by side; BatchNorm, half the dropout, hidden layer with ReLU, BatchNorm,
    dropout, output. Vectors are taken as they are; cache with ``--pool avgmax`` for the same head on small rows.
    With ``l2`` it is the pooled vector that gets unit length.
    """

    def __init__(
        self,
        row_shape: tuple[int, ...],
        out_features: int,
        hidden: int = 512,
        dropout: float = 0.5,
        *,
        l2: bool = False,
    ) -> None:
        super().__init__("concat", row_shape, out_features, hidden=hidden, dropout=dropout, l2=l2)
        layout, channels = layout_and_channels("concat", row_shape)
        self.spatial_dims = SPATIAL_DIMS[layout]
        width = 2 * channels if self.spatial_dims else channels
        self.layers = nn.Sequential(
            nn.BatchNorm1d(width),
            nn.Dropout(dropout / 2),
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            nn.Dropout(dropout),
            nn.Linear(hidden, out_features),
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        vectors = average_and_max(rows, self.spatial_dims) if self.spatial_dims else rows
        logits: torch.Tensor = self.layers(self.l2_normalize(vectors))
        return logits
