"""Which maps heads take that answer for each place, where no cut is named."""

from __future__ import annotations

import math

from torch import nn

from cache.errors import UsageError
from stages.config.image_size import shape_of_size
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.graph.hooked import HookedGraph

MAPS = "maps"
"""The word of the option `cut` for these."""

_STRIDES = (8, 16, 32)

MOST_PROBED = 12
"""Maps that are probed where the network has more blocks."""

_FINEST_PROBED = 4


def default_map_cuts(graph: CutGraph) -> list[Cut]:
    """Return the output of the last block at each of the strides 8, 16 and 32, those that there are.

    Depth matters more than the head: on CamVid one map gives 44 to 54 % mIoU, these three 57 to 60. A convolution alone
    is no block: what widens the last map before it is averaged is left out. Where maps do not get smaller, as in a
    vision transformer, the blocks at a third, at two thirds and at the end are returned.

    Raises
    ------
    UsageError
        If no block gives a map, or the blocks are not known.
    """
    blocks = blocks_with_maps(graph)
    strides = [stride_of(graph, cut) for cut in blocks]
    if len(set(strides)) == 1:
        return [blocks[place] for place in sorted({-(-len(blocks) * part // 3) - 1 for part in (1, 2, 3)})]
    last = dict(zip(strides, blocks, strict=True))  # of each stride the last stays
    return [last[stride] for stride in _STRIDES if stride in last] or blocks[-1:]


def map_cuts_to_probe(graph: CutGraph) -> list[Cut]:
    """Return the outputs of all blocks at a stride of 4 or more, from the image upwards.

    Finer maps take megabytes an image. Of more than `MOST_PROBED`, as many as that, evenly spread.

    Raises
    ------
    UsageError
        As of `default_map_cuts`.
    """
    blocks = blocks_with_maps(graph)
    coarse = [cut for cut in blocks if stride_of(graph, cut) >= _FINEST_PROBED] or blocks[-1:]
    count = min(MOST_PROBED, len(coarse))
    return [coarse[round(place * (len(coarse) - 1) / max(count - 1, 1))] for place in range(count)]


def blocks_with_maps(graph: CutGraph) -> list[Cut]:
    """Return the outputs of blocks that are maps; of convolutions alone where there is nothing else.

    Of a block with the output layer in it, as the classifier of a segmentation network, the output is what the network
    says, and no map for others.
    """
    if isinstance(graph, HookedGraph):
        raise UsageError(
            f"`cut` {MAPS}: this network cannot be traced, so its blocks are not known: name the cuts to take; "
            "`list-cuts` lists them"
        )
    cuts, last = [(name, graph.resolve(name)) for name in graph.blocks], graph.resolve("auto")
    maps = [
        (name, cut)
        for name, cut in cuts
        if cut.layout in ("nchw", "nhwc", "tokens") and graph.is_between(None, cut, last)
    ]
    blocks = [cut for name, cut in maps if _layers(graph.module.get_submodule(name)) > 1] or [cut for _, cut in maps]
    if not blocks:
        raise UsageError(f"`cut` {MAPS}: no block of this network gives a map; `list-cuts` lists what there is")
    return blocks


def stride_of(graph: CutGraph, cut: Cut) -> int:
    """Return how many pixels a side of the image are one place of a map; sizes that round up count as those below."""
    height, width = shape_of_size(graph.image_size)
    if cut.layout == "tokens":
        exact = math.sqrt(height * width / max(cut.shape[0] - cut.prefix_tokens, 1))
    else:
        exact = width / max(cut.shape[-1] if cut.layout == "nchw" else cut.shape[1], 1)
    return min((1 << power for power in range(8)), key=lambda stride: abs(stride - exact))


def _layers(module: nn.Module) -> int:
    """Return how many convolutions and linear layers a module has."""
    return sum(isinstance(part, nn.Conv2d | nn.Linear) for part in module.modules())
