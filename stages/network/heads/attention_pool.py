"""Attention pooling of a map or of tokens."""

from __future__ import annotations

import torch
from torch import nn

from stages.network.graph.cuts import Layout
from stages.network.heads.base import Head, places_and_channels
from stages.network.heads.registry import register_torch_head


@register_torch_head("attention", label="attention", rows="map", tasks=("single_label", "multi_label", "regression"))
class AttentionHead(Head):
    """Attention pooling over a map: maps or tokens, float [b, *row_shape] -> logits [b, classes].

    One learned query attends to all places, with 8, 4, 2 or 1 heads (the most that divide the channels); keys and
    values are linear in the features. LayerNorm, dropout, output. This is the cross-attention of the attentive probe of
    Bardes et al. 2024, "Revisiting Feature Prediction for Learning Visual Representations from Video" (V-JEPA),
    without the MLP after it. The query needs no projection of its own, being learned; nor does the attention's output,
    which LayerNorm and a linear layer follow.
    """

    stackable = True

    def __init__(self, row_shape: tuple[int, ...], out_features: int, dropout: float = 0.5) -> None:
        super().__init__("attention", row_shape, out_features, dropout=dropout)
        self.layout, channels = places_and_channels("attention", row_shape)
        self.heads = next(heads for heads in (8, 4, 2, 1) if channels % heads == 0)
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(channels), std=channels**-0.5))
        self.keys_and_values = nn.Linear(channels, 2 * channels)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(channels, out_features)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        keys, values = self.keys_and_values(tokens_of(rows, self.layout)).chunk(2, dim=2)
        query, keys, values = map(self._by_head, (self.query.expand(rows.shape[0], 1, -1), keys, values))
        # written out: torch's kernel takes heads that train side by side one by one, and warns of it
        scores = (query @ keys.transpose(2, 3)) * keys.shape[3] ** -0.5
        pooled = scores.softmax(dim=3) @ values
        logits: torch.Tensor = self.output(self.dropout(self.norm(pooled.flatten(1))))
        return logits

    def _by_head(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return [b, n, C] as [b, heads, n, C / heads]."""
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


def tokens_of(rows: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return maps as tokens [b, n, C], one for each place; tokens as they are."""
    if layout == "nchw":
        return rows.flatten(2).transpose(1, 2)
    return rows.flatten(1, 2) if layout == "nhwc" else rows
