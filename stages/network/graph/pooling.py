"""From the output of a cut to the row that is cached: a vector per image, or the map as it is.

A pooling is a function under :func:`register_pooling`, here or in a file of its own. What it does must follow from its
name, which is all that a cache keeps of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from cache.errors import UsageError
from stages.config.registry import POOLINGS, PoolingKind
from stages.network.graph.cuts import Cut, Layout

SPATIAL_DIMS: dict[Layout, tuple[int, ...]] = {"vector": (), "nchw": (2, 3), "nhwc": (1, 2), "tokens": (1,)}
"""The dimensions of a batch that are places in the image."""

PoolFunction = Callable[[torch.Tensor, Cut], torch.Tensor]
"""The output of a cut, float [b, *cut.shape], and the cut -> float [b, ...], each row of one image alone."""


def register_pooling(
    name: str, *, needs_class_token: bool = False, help_text: str = ""
) -> Callable[[PoolFunction], PoolFunction]:
    """Make a function a pooling.

    Parameters
    ----------
    name
        What `pool` is for it. In our own files this and `needs_class_token` are literals.
    needs_class_token
        Whether a cut without a class token is refused.
    help_text
        What help says of it; by default the beginning of the docstring.

    Raises
    ------
    UsageError
        If another function is registered under the name.
    """
    return POOLINGS.decorator(PoolingKind(name, needs_class_token, help_text=help_text))


class Pool(nn.Module):
    """Pools the output of a cut: float [b, *cut.shape] -> [b, *shape].

    Parameters
    ----------
    kind
        The name of a pooling. Vectors have no places in the image: they stay as they are, for every kind that
        needs no class token.
    cut
        The cut whose output is pooled.

    Attributes
    ----------
    shape : tuple of int
        Shape of the pooled row of one image.

    Raises
    ------
    UsageError
        If the cut has no class token to take, or there is no such kind.
    """

    def __init__(self, kind: str, cut: Cut) -> None:
        super().__init__()
        pool: PoolFunction = POOLINGS.get(kind)
        if POOLINGS.find(kind).needs_class_token and not cut.class_token:
            rest = [name for name, known in POOLINGS.known.items() if not known.needs_class_token]
            raise UsageError(
                f"`pool` {kind}: the output of {cut.name!r} ({cut.layout} {list(cut.shape)}) has no class token. "
                f"Poolings that fit are {', '.join(rest[:-1])} and {rest[-1]}."
            )
        self.kind = "none" if cut.layout == "vector" else kind
        self._pool = keep_places if self.kind == "none" else pool
        self._cut = cut
        with torch.no_grad():
            self.shape: tuple[int, ...] = tuple(self(torch.zeros(1, *cut.shape)).shape[1:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool a batch."""
        return self._pool(x, self._cut)


@register_pooling("avg")
def average(x: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Average over all places."""
    return patches_of(x, cut).mean(SPATIAL_DIMS[cut.layout])


@register_pooling("max")
def maximum(x: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Maximum over all places."""
    return patches_of(x, cut).amax(SPATIAL_DIMS[cut.layout])


@register_pooling("std")
def standard_deviation(x: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Standard deviation over all places."""
    return patches_of(x, cut).std(SPATIAL_DIMS[cut.layout], correction=0)


@register_pooling("avgmax")
def average_beside_maximum(x: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Both, concatenated."""
    return average_and_max(patches_of(x, cut), SPATIAL_DIMS[cut.layout])


@register_pooling("cls", needs_class_token=True)
def class_token(x: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Class token."""
    return x[:, 0]


@register_pooling("clsavg", needs_class_token=True)
def class_token_beside_average(x: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Class token beside the average of the patches.

    What linear probes of DINOv2 are given (Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without
    Supervision"), [b, 2 C].
    """
    return torch.cat([class_token(x, cut), average(x, cut)], dim=1)


@register_pooling("grid2")
def average_of_quarters(x: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Averages over 2 x 2 parts, which tell where something is."""
    return grid_of_averages(x, cut, 2)


@register_pooling("grid4")
def average_of_sixteenths(x: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Averages over 4 x 4 parts."""
    return grid_of_averages(x, cut, 4)


@register_pooling("none")
def keep_places(x: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Keep the map."""
    return x


def patches_of(x: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Return a batch without the tokens that belong to no patch: class, distillation and register tokens."""
    return x[:, cut.prefix_tokens :] if cut.prefix_tokens else x


def grid_of_averages(x: torch.Tensor, cut: Cut, side: int) -> torch.Tensor:
    """Return the averages over side x side parts of the image, row by row of parts, [b, side * side * C].

    One level of a spatial pyramid (Lazebnik, Schmid & Ponce 2006, "Beyond bags of features: spatial pyramid matching",
    section 3.2; on features of a network He et al. 2014, "Spatial pyramid pooling", section 2.2).

    Raises
    ------
    UsageError
        If the output of the cut is tokens that are no square of patches.
    """
    if cut.layout == "nchw":
        maps = x
    elif cut.layout == "nhwc":
        maps = x.permute(0, 3, 1, 2)
    else:
        patches = patches_of(x, cut)
        length = math.isqrt(patches.shape[1])
        if length**2 != patches.shape[1]:
            raise UsageError(
                f"`pool` grid{side}: the {patches.shape[1]} patches at {cut.name!r} are no square; "
                "take avg, or another `cut`"
            )
        maps = patches.reshape(patches.shape[0], length, length, -1).permute(0, 3, 1, 2)
    return functional.adaptive_avg_pool2d(maps, side).permute(0, 2, 3, 1).flatten(1)


def average_and_max(x: torch.Tensor, spatial_dims: tuple[int, ...]) -> torch.Tensor:
    """Return the average and the maximum over the dimensions `spatial_dims`, side by side: [b, 2 C]."""
    return torch.cat([x.mean(spatial_dims), x.amax(spatial_dims)], dim=1)
