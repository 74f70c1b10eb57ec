"""The trunk that gives one row of all taps in one pass: the graph up to the deepest, with poolings on the way."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from cache.errors import UsageError, listed
from stages.network.graph.bn_folding import fold_batchnorm
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.graph.fused_convolutions import can_fuse, fuse_convolutions
from stages.network.graph.pooling import SPATIAL_DIMS, patches_of
from stages.network.graph.tap_places import TapPlace
from stages.network.graph.trunk import ARITHMETIC, FrozenModule, Precision

_TOGETHER = ("avg", "max", "std")
"""Poolings that share a mean, and are taken of some images at a time, without a copy of all in float32."""

_CACHED = 1 << 18
"""Numbers that the cache of a core holds: in float32 the megabyte of current processors."""


class TappedTrunk(FrozenModule):
    """The frozen part of a network: normalised images -> the statistics of its taps, one after the other.

    It has its own weights, folded as those of a :class:`~stages.network.graph.trunk.FrozenTrunk`, whose precisions
    and whose features it has.

    Parameters
    ----------
    graph
        The network, in evaluation mode.
    places
        What is tapped.
    precision, device
        As of a FrozenTrunk.

    Attributes
    ----------
    precision, arithmetic : str
        As of a FrozenTrunk.
    folded : int
        How many BatchNorms were folded.

    Raises
    ------
    UsageError
        If, in reduced precision, a tap lies between a convolution and its BatchNorm: the two would be folded without
        that tap and not with it, so the numbers above it would depend on what is extracted with them.
    """

    def __init__(self, graph: CutGraph, places: Sequence[TapPlace], precision: Precision, device: torch.device) -> None:
        super().__init__()
        pools = {f"tap_{number}": (place.tensor, PooledTensor(place)) for number, place in enumerate(places)}
        network = copy.deepcopy(graph.evaluation_taps(pools)).eval()
        self.network, self.folded = fold_batchnorm(network)
        if precision != "fp32":
            _refuse_taps_that_prevent_folding(graph, places, self.folded)
        if can_fuse(precision, device):
            self.network = fuse_convolutions(self.network)
        self.settle(precision, ARITHMETIC[precision], device)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the rows, (float32 [b, D],), of normalised images, float32 [b, 3, S, S]."""
        return (torch.cat(self.network(self.received(images)), dim=1),)


class PooledTensor(nn.Module):
    """The statistics of one tensor: [b, *shape] -> float32 [b, width], in the order of its blocks.

    All are taken of the numbers in float32.
    """

    def __init__(self, place: TapPlace) -> None:
        super().__init__()
        self.pools = nn.ModuleList(place.pools)
        self._kinds = [pool.kind for pool in place.pools]
        self._tensor = place.tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool a batch."""
        rows = _pooled(patches_of(x, self._tensor), SPATIAL_DIMS[self._tensor.layout], self._kinds)
        others = (pool for pool in self.pools if pool.kind not in _TOGETHER)
        rows |= {str(pool.kind): pool(x.float()) for pool in others}
        return torch.cat([rows[kind] for kind in self._kinds], dim=1)


def _pooled(x: torch.Tensor, dims: tuple[int, ...], kinds: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return average, maximum and deviation over some dimensions, float32 [b, C], as far as they are asked for.

    On a CPU as many images at a time as the cache of a core holds, so that all but the first pass read what is there.
    """
    if not set(kinds) & set(_TOGETHER):
        return {}
    if x.device.type != "cpu" or torch.compiler.is_compiling():  # a program takes batches of any size
        return _pooled_at_once(x.float(), dims, kinds)
    images_at_once = max(_CACHED // x[0].numel(), 1)
    parts = [_pooled_at_once(part.float(), dims, kinds) for part in torch.split(x, images_at_once)]
    return {kind: torch.cat([part[kind] for part in parts]) for kind in parts[0]}


def _pooled_at_once(x: torch.Tensor, dims: tuple[int, ...], kinds: Sequence[str]) -> dict[str, torch.Tensor]:
    rows: dict[str, torch.Tensor] = {}
    if "avg" in kinds or "std" in kinds:
        rows["avg"] = x.mean(dims)
    if "max" in kinds:
        rows["max"] = _maximum(x, dims)
    if "std" in kinds:
        mean = rows["avg"]
        for dim in dims:
            mean = mean.unsqueeze(dim)
        # by differences, which are right where all are nearly alike; torch's own takes five times as long on a CPU
        rows["std"] = (x - mean).square_().mean(dims).sqrt_()
    return rows


def _maximum(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """Return the maximum over places; of maps whose channels are side by side by rows first, in half of the time."""
    if dims == (2, 3) and x.is_contiguous(memory_format=torch.channels_last):
        batch, channels, height, width = x.shape
        return x.permute(0, 2, 3, 1).view(batch, height, width * channels).amax(1).view(batch, width, channels).amax(1)
    return x.amax(dims)


def _refuse_taps_that_prevent_folding(graph: CutGraph, places: Sequence[TapPlace], folded: int) -> None:
    deepest = [places[-1].tensor]

    def foldable(tensors: Sequence[Cut]) -> int:
        taps = {f"tap_{number}": (tensor, nn.Identity()) for number, tensor in enumerate(tensors)}
        return fold_batchnorm(graph.evaluation_taps(taps))[1]

    if folded >= foldable(deepest):
        return
    between = [place.tensor for place in places[:-1] if foldable([place.tensor, *deepest]) < foldable(deepest)]
    names = listed([tensor.name for tensor in between])
    raise UsageError(
        f"`taps`: {names} lies between a convolution and its BatchNorm. In reduced precision the numbers above would "
        "depend on whether it is extracted with them: name the layer above it, or use `precision` fp32"
    )
