"""A light head on maps of several depths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stages.config.heads import FitRecipe
from stages.network.heads.map_head import MapHead, norm_relu, normalized_product, pointwise
from stages.network.heads.registry import register_torch_head


@register_torch_head("lraspp", label="LR-ASPP", rows="maps", tasks=("dense",), default_for=("dense",))
class LRASPPMapHead(MapHead):
    """Maps of several depths, gated and joined. A 3 x 3 convolution joins them, the gate is of the whole image.

    After the lite reduced atrous spatial pyramid pooling of Howard et al. 2019 ("Searching for MobileNetV3", section
    6.4): a 1 x 1 convolution on each map at its own size, and on the deepest a gate of its mean over all places. It
    adds the logits of two depths; here the reduced maps of all depths are joined at the size of the finest, and one
    3 x 3 convolution looks at them.

    Parameters
    ----------
    width : int
        Channels that each map is reduced to; the convolution has twice as many.
    """

    recipe: ClassVar[FitRecipe] = FitRecipe(epochs=10, lr=(5e-3,), batch_size=8, dropout=0.1)
    label_scale: ClassVar[int] = 2

    def __init__(
        self,
        row_shape: tuple[int, ...],
        out_features: int,
        maps: Mapping[str, Any],
        dropout: float = 0.1,
        width: int = 64,
    ) -> None:
        super().__init__("lraspp", row_shape, out_features, maps, dropout=dropout, width=width)
        channels = self.layout.channels
        places = [math.prod(shape[1:]) for shape in self.layout.shapes]
        # the last of the coarsest: cuts stand from the image upwards
        self._deepest = max(range(len(places)), key=lambda index: (-places[index], index))
        self.norms = nn.ModuleList([nn.BatchNorm2d(count) for count in channels])
        self.reduce = nn.ModuleList([norm_relu(count, width, 1) for count in channels])
        self.gate = nn.Linear(channels[self._deepest], width)
        self.joined = norm_relu(width * len(channels), 2 * width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.output = nn.Conv2d(2 * width, out_features, 1)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits of a batch of rows."""
        reduced: list[Tensor] = []
        for index, (maps, norm, reduce) in enumerate(
            zip(self.layout.split(rows), self.norms, self.reduce, strict=True)
        ):
            convolution, *rest = reduce.children()
            part, means = normalized_product(maps, norm, convolution)
            for layer in rest:
                part = layer(part)
            if index == self._deepest:
                part = part * torch.sigmoid(self.gate(means))[:, :, None, None]
            reduced.append(self.resized(part))
        together = torch.cat(reduced, dim=1)
        convolution, *rest = self.joined.children()
        with self.convolving(together):
            joined: Tensor = convolution(together)
        joined = joined.float()
        for layer in rest:
            joined = layer(joined)
        return pointwise(self.dropout(joined), self.output)
