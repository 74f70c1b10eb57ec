"""What ``linear`` is on feature maps: a linear layer on the features of each place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stages.config.heads import FitRecipe
from stages.network.heads.map_head import MapHead, normalized_product


class LinearMapsHead(MapHead):
    """BatchNorm, dropout and a 1 x 1 convolution on each map at its own size, whose logits are brought together.

    The protocol of DINOv2's segmentation (Oquab et al. 2023, "DINOv2: learning robust visual features without
    supervision", section 7.4), which brings maps to one size and joins them first: the same to within rounding, since
    both are linear and the weights of an interpolation sum to 1, at a ninth of the time.
    """

    recipe: ClassVar[FitRecipe] = FitRecipe(epochs=20, lr=(1e-2,), batch_size=8, dropout=0.1)
    has_wide_convolutions: ClassVar[bool] = False

    def __init__(
        self, row_shape: tuple[int, ...], out_features: int, maps: Mapping[str, Any], dropout: float = 0.1
    ) -> None:
        super().__init__("linear", row_shape, out_features, maps, dropout=dropout)
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels) for channels in self.layout.channels])
        self.dropout = nn.Dropout2d(dropout)
        # one bias is enough for a sum
        self.outputs = nn.ModuleList(
            [nn.Conv2d(count, out_features, 1, bias=not place) for place, count in enumerate(self.layout.channels)]
        )

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits of a batch of rows."""
        parts = [
            self.resized(normalized_product(maps, norm, output, self._kept(maps))[0])
            for maps, norm, output in zip(self.layout.split(rows), self.norms, self.outputs, strict=True)
        ]
        logits: Tensor = parts[0]
        for part in parts[1:]:
            logits = logits + part
        return logits

    def _kept(self, maps: Tensor) -> Tensor | None:
        """Return the factors by which dropout takes channels away, [b, C, 1, 1]; None in evaluation."""
        if not self.training:
            return None
        factors: Tensor = self.dropout(maps.new_ones(*maps.shape[:2], 1, 1, dtype=torch.float32))
        return factors
