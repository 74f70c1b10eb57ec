"""The trunk that gives one row of all taps in one pass: the graph up to the deepest, with poolings on the way."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from cache.errors import UsageError, listed
from stages.network.graph.bn_folding import fold_batchnorm
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.graph.pooling import SPATIAL_DIMS, patches_of
from stages.network.graph.tap_places import TapPlace
from stages.network.graph.trunk import ARITHMETIC, FrozenModule, Precision

_TOGETHER = ("avg", "max", "std")
"""Poolings that share a mean, and read the numbers as they are, without a copy in float32."""


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
        self.settle(precision, ARITHMETIC[precision], device)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the rows, (float32 [b, D],), of normalised images, float32 [b, 3, S, S]."""
        with self.computing():
            return (torch.cat(self.network(self.received(images)), dim=1),)


class PooledTensor(nn.Module):
    """The statistics of one tensor: [b, *shape] -> float32 [b, width], in the order of its blocks.

    Average, maximum and standard deviation go over the numbers as they are, in bfloat16 too, and add up in float32.
    """

    def __init__(self, place: TapPlace) -> None:
        super().__init__()
        self.pools = nn.ModuleList(place.pools)
        self._kinds = [pool.kind for pool in place.pools]
        self._tensor = place.tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool a batch."""
        patches, rows = patches_of(x, self._tensor), dict[str, torch.Tensor]()
        dims = SPATIAL_DIMS[self._tensor.layout]
        if "avg" in self._kinds or "std" in self._kinds:
            rows["avg"] = patches.mean(dims, dtype=torch.float32)
        if "std" in self._kinds:
            rows["std"] = _deviation(patches, rows["avg"], dims)
        if "max" in self._kinds:
            rows["max"] = patches.amax(dims).float()
        others = (pool for pool in self.pools if pool.kind not in _TOGETHER)
        rows |= {str(pool.kind): pool(x.float()) for pool in others}
        return torch.cat([rows[kind] for kind in self._kinds], dim=1)


def _deviation(x: torch.Tensor, mean: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """Return the standard deviation over some dimensions: by differences, which are right where all are nearly alike.

    On a CPU torch's own ``std`` over places takes five times as long, and ``vector_norm`` twice.
    """
    for dim in dims:
        mean = mean.unsqueeze(dim)
    deviation: torch.Tensor = (x - mean).square_().mean(dims).sqrt()
    return deviation


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
