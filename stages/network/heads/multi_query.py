"""Attention pooling of a map or of tokens by many queries, each of which gathers a part of the answer."""

from __future__ import annotations

import torch
from torch import nn

from stages.network.heads.attention_pool import tokens_of
from stages.network.heads.base import Head, places_and_channels
from stages.network.heads.registry import register_torch_head

_QUERIES = (32, 16, 8, 4, 2, 1)


@register_torch_head(
    "multi_query", label="multi-query attention", rows="map", tasks=("single_label", "multi_label", "regression")
)
class MultiQueryHead(Head):
    """Attention pooling by many queries: maps or tokens, float [b, *row_shape] -> logits [b, classes].

    Each of 32 learned queries (16, ... 1: the most that divide the channels) attends to the places by its product with
    the features themselves, over the root of the channels; what it gathers becomes its own part of the row by a linear
    layer without bias. LayerNorm, dropout, output. This is the efficient probing of Psomas et al. 2025, "Attention,
    Please! Revisiting Attentive Probing Through the Lens of Efficiency", arXiv 2506.10178, with LayerNorm and dropout
    as in `AttentionHead`. There the values of all places are projected before they are averaged;
    projecting the averages is the same, and takes a product for each query in place of one for each place.

    Attributes
    ----------
    queries : Parameter [M, C]
    values : Linear
        C x C; its m-th C / M rows are those of query m.
    """

    stackable = True

    def __init__(self, row_shape: tuple[int, ...], out_features: int, dropout: float = 0.5) -> None:
        super().__init__("multi_query", row_shape, out_features, dropout=dropout)
        self.layout, channels = places_and_channels("multi_query", row_shape)
        count = next(count for count in _QUERIES if channels % count == 0)
        self.queries = nn.Parameter(nn.init.trunc_normal_(torch.empty(count, channels), std=0.02))
        self.values = nn.Linear(channels, channels, bias=False)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(channels, out_features)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        tokens = tokens_of(rows, self.layout)
        scores = torch.einsum("qc,bnc->bqn", self.queries, tokens) * tokens.shape[2] ** -0.5
        gathered = scores.softmax(dim=2) @ tokens
        projections = self.values.weight.reshape(len(self.queries), -1, tokens.shape[2])
        parts = torch.einsum("bqc,qdc->bqd", gathered, projections)
        logits: torch.Tensor = self.output(self.dropout(self.norm(parts.flatten(1))))
        return logits
