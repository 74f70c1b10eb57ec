"""What heads on feature maps have in common: they give a class's logit for each place of the finest map."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from cache.errors import UsageError
from stages.config.heads import FitRecipe
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.heads.base import Head
from stages.network.map_layout import MapLayout


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
    convolves_in_bf16 : bool
        Whether convolutions of 3 x 3, which nearly all of the time goes into, compute in bf16 in training, as who
        trains it says, and with them what stands between them in torchvision's heads; weights, and the normalization of
        maps below, stay as they are.
    has_wide_convolutions : bool
        Whether there are any that this is worth while for.
    """

    recipe: ClassVar[FitRecipe]
    label_scale: ClassVar[int] = 1
    has_wide_convolutions: ClassVar[bool] = True
    convolves_in_bf16: bool = False

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
        return self.layout.label_size(self.label_scale)

    def convolving(self, maps: Tensor) -> AbstractContextManager[object]:
        """Return the context that convolutions of normalized maps run in."""
        if self.convolves_in_bf16 and self.training:
            return torch.autocast(maps.device.type, torch.bfloat16)
        return nullcontext()  # whoever trains the head with blocks below it has a context around both

    def resized(self, logits: Tensor) -> Tensor:
        """Return maps at the size of the finest map."""
        return resized(logits, self.layout.finest)


_LEAST_SHARE = 1e-3
"""Of the mean square, which a variance has to be for the difference of two sums to be exact enough."""

_FEWEST_LAST = 32
"""Channels from which on maps lie with channels last."""


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps [b, C, h, w] brought bilinearly to a size: to sizes and never by factors, since sizes round up."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def normalized_product(
    maps: Tensor, norm: nn.Module, convolution: nn.Module, kept: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return a 1 x 1 convolution of normalized maps, [b, O, h, w], and the normalized mean of each image, [b, C].

    What BatchNorm, dropout of channels and the convolution give one after the other, in one product: each is linear
    but for the statistics, so their factors go into the weights, once a batch, and not into each place of the maps.
    Frozen maps need no gradient then, which the layers one by one would compute for the scales of the BatchNorm. In
    training the statistics are those of the batch and the running ones follow, as BatchNorm has it. A bias of the
    convolution is added.

    Parameters
    ----------
    maps : Tensor [b, C, h, w]
    norm : nn.BatchNorm2d
    convolution : nn.Conv2d
        Of 1 x 1, from C channels to O.
    kept : Tensor [b, C, 1, 1], optional
        Factors of the channels of each image: 0 where dropout takes one away.

    Returns
    -------
    Tensor [b, O, h, w], Tensor [b, C]
        The former with channels last in memory where there are many, which what comes next is quicker on.
    """
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(convolution, nn.Conv2d)
    with torch.autocast(maps.device.type, enabled=False):  # what is not normalized yet would lose too much
        return _product(maps.float(), norm, convolution, kept)


def _product(maps: Tensor, norm: nn.BatchNorm2d, convolution: nn.Conv2d, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    scale, shift, means = _affine_of(norm, maps)
    kernel = convolution.weight.flatten(1)
    factors, offsets = (kernel * scale)[None], (kernel * shift)[None]
    if kept is not None:
        of_image = kept.flatten(1)[:, None]
        factors, offsets = factors * of_image, offsets * of_image
    bias = offsets.sum(dim=2, keepdim=True)
    if convolution.bias is not None:
        bias = bias + convolution.bias[:, None]
    places, weights = (
        maps.flatten(2),
        factors.expand(maps.shape[0], -1, -1),
    )  # a batch of any length, where it is traced too
    if convolution.out_channels < _FEWEST_LAST:
        product = torch.bmm(weights, places) + bias
    else:
        product = torch.baddbmm(bias.transpose(1, 2), places.transpose(1, 2), weights.transpose(1, 2)).transpose(1, 2)
    return product.reshape(*product.shape[:2], *maps.shape[2:]), means * scale + shift


def _affine_of(norm: nn.BatchNorm2d, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a BatchNorm multiplies channels by and adds then, [C] each, and the mean of each image, [b, C].

    A BatchNorm in training takes note of the batch. Variances are means of squares less squares of means, by sums of
    their own for each channel of each image: a thirtieth of the time of a variance in one pass, and exact to some 1e-6
    of the mean square. Where means are so large that this is too much of the variance, it is computed in one pass.
    """
    flat = maps.flatten(2)
    places = flat.shape[2]
    means = flat.sum(dim=2) / places
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    if norm.training:
        of_batch = means.mean(dim=0)
        squares = torch.linalg.vector_norm(flat, dim=2).square().mean(dim=0) / places
        spread = squares - of_batch.square()
        if bool((spread < _LEAST_SHARE * squares).any()):
            spread = torch.var(flat, dim=(0, 2), correction=0)
        with torch.no_grad():
            count = len(maps) * places
            tracked = norm.num_batches_tracked
            assert tracked is not None
            tracked += 1
            momentum = norm.momentum if norm.momentum is not None else 1 / float(tracked)
            mean.lerp_(of_batch, momentum)
            variance.lerp_(spread * (count / max(count - 1, 1)), momentum)
        mean, variance = of_batch, spread
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale, means


def pointwise(maps: Tensor, convolution: nn.Module) -> Tensor:
    """Return a 1 x 1 convolution of maps with channels last, [b, O, h, w], as the one matrix product that it is."""
    assert isinstance(convolution, nn.Conv2d)
    last = functional.linear(maps.permute(0, 2, 3, 1), convolution.weight.flatten(1), convolution.bias)
    return last.permute(0, 3, 1, 2)


def norm_relu(inputs: int, outputs: int, kernel_size: int) -> nn.Sequential:
    """Return a convolution that keeps the size, BatchNorm and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
