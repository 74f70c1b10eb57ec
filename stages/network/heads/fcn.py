"""torchvision's FCN head on a cached map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead

from cache.errors import UsageError
from stages.config.heads import FitRecipe
from stages.network.heads.map_head import MapHead
from stages.network.heads.registry import register_torch_head

_FEWEST_CHANNELS = 4


@register_torch_head("fcn", label="FCN", rows="maps", tasks=("dense",))
class FCNMapHead(MapHead):
    """One 3 x 3 convolution on a map. There is an output for each place; of several maps the middle one is taken.

    torchvision's `FCNHead` (after Long, Shelhamer & Darrell 2015, "Fully convolutional networks for semantic
    segmentation"), behind a BatchNorm: maps of a network that is not trained along have channels of very unlike scales,
    which the head alone needs a large rate for, and still finds no rare class.
    """

    recipe: ClassVar[FitRecipe] = FitRecipe(epochs=30, lr=(1e-2,), batch_size=8, dropout=0.1)

    def __init__(
        self, row_shape: tuple[int, ...], out_features: int, maps: Mapping[str, Any], dropout: float = 0.1
    ) -> None:
        super().__init__("fcn", row_shape, out_features, maps, dropout=dropout)
        channels = self.layout.channels[self.layout.middle]
        if channels < _FEWEST_CHANNELS:
            raise UsageError(
                f"`head` fcn keeps a fourth of a map's channels, and this one has {channels}: name a deeper `cut`"
            )
        self.norm = nn.BatchNorm2d(channels)
        self.head = FCNHead(channels, out_features)
        self.head[3].p = dropout

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits of a batch of rows."""
        normed = self.norm(self.layout.split(rows)[self.layout.middle])
        with self.convolving(normed):
            logits: Tensor = self.head(normed)
        return self.resized(logits.float())
