"""torchvision's DeepLabV3 head on a cached map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from stages.config.heads import FitRecipe
from stages.network.heads.map_head import MapHead
from stages.network.heads.registry import register_torch_head
from stages.network.map_layout import MapLayout, MapShape

_PLACES_A_RATE = 8
"""The shorter side of a map over its smallest rate."""


@register_torch_head("deeplabv3", label="DeepLabV3", rows="maps", tasks=("dense",))
class DeepLabV3MapHead(MapHead):
    """Atrous spatial pyramid pooling on a map. Of several maps the middle one.

    torchvision's `DeepLabHead` (Chen et al. 2017, "Rethinking atrous convolution for semantic image segmentation",
    section 3.3), behind a BatchNorm as with ``fcn``. Its rates, 12, 24 and 36, are for maps of 65 places a side: on one
    of 12 they see little but padding. They are scaled to an eighth, two and three eighths of the shorter side here.

    Parameters
    ----------
    rates : sequence of int, optional
        In place of these.
    """

    recipe: ClassVar[FitRecipe] = FitRecipe(epochs=6, lr=(2e-3,), batch_size=8, dropout=0.5)

    def __init__(
        self,
        row_shape: tuple[int, ...],
        out_features: int,
        maps: Mapping[str, Any],
        dropout: float = 0.5,
        rates: Sequence[int] | None = None,
    ) -> None:
        layout = MapLayout.from_json(maps)
        rates = rates or scaled_rates(layout.shapes[layout.middle])
        super().__init__("deeplabv3", row_shape, out_features, maps, dropout=dropout, rates=[*rates])
        channels = layout.channels[layout.middle]
        self.norm = nn.BatchNorm2d(channels)
        self.head = DeepLabHead(channels, out_features, tuple(rates))
        self.head[0].project[3].p = dropout

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits of a batch of rows."""
        normed = self.norm(self.layout.split(rows)[self.layout.middle])
        with self.convolving(normed):
            logits: Tensor = self.head(normed)
        return self.resized(logits.float())


def scaled_rates(shape: MapShape) -> tuple[int, int, int]:
    """Return the rates of the pyramid for a map: an eighth, two and three eighths of its shorter side."""
    rate = max(round(min(shape[1:]) / _PLACES_A_RATE), 1)
    return rate, 2 * rate, 3 * rate
