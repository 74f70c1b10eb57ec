"""Cosine similarities to one vector a class."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from stages.network.heads.base import Head, vector_width
from stages.network.heads.registry import register_torch_head


@register_torch_head("cosine", label="cosine", rows="vector", tasks=("single_label", "multi_label"))
class CosineHead(Head):
    """Similarity to a vector per class: float [b, d] -> logits [b, classes].

    ``logits = scale * cos(x, w_c)`` with a learned scale (Gidaris & Komodakis 2018, "Dynamic Few-Shot Visual Learning
    without Forgetting", section 3.2; Chen et al. 2019, "A Closer Look at Few-shot Classification", Baseline++). Neither
    the length of a row nor that of a class's vector has any effect, so there is no ``l2`` to choose.
    """

    INITIAL_SCALE = 16.0

    stackable = True
    ignores_length = True

    def __init__(self, row_shape: tuple[int, ...], out_features: int) -> None:
        super().__init__("cosine", row_shape, out_features)
        width = vector_width("cosine", row_shape)
        self.weight = nn.Parameter(torch.randn(out_features, width) * math.sqrt(2 / width))
        self.log_scale = nn.Parameter(torch.tensor(math.log(self.INITIAL_SCALE)))  # so the scale stays positive

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        cosines = functional.linear(functional.normalize(rows, dim=1), functional.normalize(self.weight, dim=1))
        return self.log_scale.exp() * cosines
