"""The trunk that gives one row of all taps in one pass: the graph up to the deepest, with poolings on the way."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from cache.errors import UsageError, listed
from stages.network.graph.bn_folding import fold_batchnorm
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.graph.fused_convolutions import can_fuse, fuse_convolutions
from stages.network.graph.pooling import SPATIAL_DIMS, patches_of
from stages.network.graph.tap_places import TapPlace
from stages.network.graph.trunk import ARITHMETIC, FrozenModule, Precision
from stages.runtime.device import has_numbers_here

if TYPE_CHECKING:
    from stages.network.graph.pooling_kernels import Kernel

_TOGETHER = ("avg", "max", "std")
"""Poolings that are taken in one reading of a map where there is a kernel, and share a mean elsewhere."""

_LOG = logging.getLogger("cutonce")

INSTALL = "pip install 'numba>=0.60'"

_DOES_NOT_LOAD = (ImportError, OSError, RuntimeError, AttributeError)
"""What numba raises that is not there, or is beside a NumPy too new for it."""


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
        if device.type == "cpu":
            _kernel(torch.bfloat16 if precision == "bf16" else torch.float32)  # once, before threads want it

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
    """Return average, maximum and deviation over some dimensions, float32 [b, C], at least those asked for."""
    if not set(kinds) & set(_TOGETHER):
        return {}
    x = x if x.dtype == torch.bfloat16 else x.float()
    places = x.permute(0, 2, 3, 1) if dims == (2, 3) else x
    if has_numbers_here(x) and len(x) and places[0].is_contiguous() and (kernel := _kernel(x.dtype)):
        return _pooled_in_one_reading(places, kernel)
    return _pooled_by_torch(x.float(), dims, kinds)


@cache
def _kernel(dtype: torch.dtype) -> Kernel | None:
    try:
        from stages.network.graph.pooling_kernels import compiled_kernel
    except _DOES_NOT_LOAD as error:
        _LOG.info(f"the statistics of taps take longer, since numba does not load ({error}): {INSTALL}")
        return None
    return compiled_kernel(dtype)


def _pooled_in_one_reading(places: torch.Tensor, kernel: Kernel) -> dict[str, torch.Tensor]:
    """Return all three of numbers whose channels lie side by side in each image, [b, ..., C]."""
    numbers = (places.view(torch.uint16) if places.dtype == torch.bfloat16 else places).numpy()
    batch, channels = places.shape[0], places.shape[-1]
    rows = [np.empty((batch, channels), np.float32) for _ in _TOGETHER]
    if places.is_contiguous():
        kernel(numbers.reshape(batch, -1, channels), *rows)
    else:  # there is something between images, as class tokens are between patches
        for i in range(batch):
            kernel(numbers[i].reshape(1, -1, channels), *(row[i : i + 1] for row in rows))
    return dict(zip(_TOGETHER, map(torch.from_numpy, rows), strict=True))


def _pooled_by_torch(x: torch.Tensor, dims: tuple[int, ...], kinds: Sequence[str]) -> dict[str, torch.Tensor]:
    rows: dict[str, torch.Tensor] = {}
    if "avg" in kinds or "std" in kinds:
        rows["avg"] = x.mean(dims)
    if "max" in kinds:
        rows["max"] = x.amax(dims)
    if "std" in kinds:
        mean = rows["avg"]
        for dim in dims:
            mean = mean.unsqueeze(dim)
        # by differences, which are right where all are nearly alike
        rows["std"] = (x - mean).square_().mean(dims).sqrt_()
    return rows


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
