"""From the output of a cut to the row that is cached: a vector per image, or the map as it is."""

from __future__ import annotations

import torch
from torch import nn

from cache.errors import UsageError
from stages.network.graph.cuts import Cut, Layout

KINDS = ("avg", "max", "avgmax", "cls", "none")

SPATIAL_DIMS: dict[Layout, tuple[int, ...]] = {"vector": (), "nchw": (2, 3), "nhwc": (1, 2), "tokens": (1,)}
"""The dimensions of a batch that are places in the image."""


class Pool(nn.Module):
    """Pools the output of a cut: float [b, *cut.shape] -> [b, *shape].

    Parameters
    ----------
    kind
        ``avg`` and ``max`` pool over all places in the image, ``avgmax`` puts both side by side (average first),
        ``cls`` takes the class token, ``none`` leaves everything as it is. Tokens that belong to no patch (class,
        distillation and register tokens) take no part in ``avg`` and ``max``. Vectors have no places: they stay as
        they are, for every kind but ``cls``.
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
        if kind not in KINDS:
            raise UsageError(f"There is no pooling {kind!r}; choose from {', '.join(KINDS)}.")
        if kind == "cls" and not cut.class_token:
            raise UsageError(
                f"`pool` cls: the output of {cut.name!r} ({cut.layout} {list(cut.shape)}) has no class token. "
                "Poolings that fit are avg, max, avgmax and none."
            )
        self.kind = "none" if cut.layout == "vector" else kind
        self.places = SPATIAL_DIMS[cut.layout]
        self.prefix_tokens = cut.prefix_tokens
        channels = cut.shape[0] if cut.layout in ("vector", "nchw") else cut.shape[-1]
        widths = {"none": cut.shape, "avgmax": (2 * channels,)}
        self.shape: tuple[int, ...] = widths.get(self.kind, (channels,))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool a batch."""
        if self.kind == "none":
            return x
        if self.kind == "cls":
            return x[:, 0]
        patches = x[:, self.prefix_tokens :] if self.prefix_tokens else x
        if self.kind == "avg":
            return patches.mean(self.places)
        if self.kind == "max":
            return patches.amax(self.places)
        return average_and_max(patches, self.places)


def average_and_max(x: torch.Tensor, places: tuple[int, ...]) -> torch.Tensor:
    """Return the average and the maximum over the dimensions `places`, side by side: [b, 2 C]."""
    return torch.cat([x.mean(places), x.amax(places)], dim=1)
