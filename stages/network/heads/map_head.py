"""What heads on feature maps have in common: they give a class's logit for each place of the finest map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from cache.errors import UsageError
from stages.config.heads import FitRecipe
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.heads.base import Head
from stages.network.map_layout import MapLayout

_FEWEST_LABELS = 48
"""On the longer side of a mask that is thinned."""


class MapHead(Head):
    """A head on the maps of one cut or several, float [b, width of the layout] -> logits [b, classes, h, w].

    h and w are those of the finest map: logits are brought to the size of a mask afterwards, and not maps before, which
    gives the same for a linear layer (convolutions of 1 x 1 and bilinear weights commute) at a fraction of the time.

    Parameters
    ----------
    name, row_shape, out_features
        As of any head.
    maps : mapping
        A `MapLayout` as JSON values.
    settings
        The rest of what its `config` holds.

    Attributes
    ----------
    layout : MapLayout
    recipe : FitRecipe
        How it trains where the options leave it open.
    label_scale : int
        The loss is taken on so many times as many labels a side as the finest map has places, where that is fine.
    """

    recipe: ClassVar[FitRecipe]
    label_scale: ClassVar[int] = 1

    def __init__(
        self, name: str, row_shape: tuple[int, ...], out_features: int, maps: Mapping[str, Any], **settings: Any
    ) -> None:
        super().__init__(name, row_shape, out_features, maps=dict(maps), **settings)
        self.layout = MapLayout.from_json(maps)

    @classmethod
    def build(
        cls, row_shape: tuple[int, ...], out_features: int, settings: Mapping[str, Any], at: tuple[CutGraph, Cut] | None
    ) -> Head:
        """Return a new head for the maps that ``settings`` describe.

        Raises
        ------
        UsageError
            If the rows are no maps.
        """
        if settings.get("maps") is None:
            raise UsageError(
                "a head that gives a class for each place needs maps: take `pool` none, and a `cut` that is a map"
            )
        return super().build(row_shape, out_features, settings, at)

    @classmethod
    def default_recipe(cls, *, on_maps: bool) -> FitRecipe:
        """Return its recipe: it is on maps in any case."""
        return cls.recipe

    @property
    def label_size(self) -> tuple[int, int]:
        """Height and width that masks are thinned to, and logits brought to, for the loss.

        Where maps are coarse, twice, four times, ... as many as they have places: what is small would be in no label.
        """
        (height, width), scale = self.layout.finest, self.label_scale
        while scale * max(height, width) < _FEWEST_LABELS:
            scale *= 2
        return scale * height, scale * width

    def resized(self, logits: Tensor) -> Tensor:
        """Return maps at the size of the finest map."""
        return resized(logits, self.layout.finest)


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps [b, C, h, w] brought bilinearly to a size: to sizes and never by factors, since sizes round up."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def norm_relu(inputs: int, outputs: int, kernel_size: int) -> nn.Sequential:
    """Return a convolution that keeps the size, BatchNorm and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
