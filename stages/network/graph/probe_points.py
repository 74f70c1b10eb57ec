"""Which cuts are worth a look: the outputs of a network's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import nn

from stages.config.features import Pooling
from stages.network.graph.cuts import Cut, CutGraph

MOST_CUTS = 24
"""Cuts that are probed where the network has more blocks."""


def cuts_to_probe(graph: CutGraph, pool: Pooling, most: int = MOST_CUTS) -> list[Cut]:
    """Return the outputs of a network's blocks, and the input of its classifier, from the image upwards.

    A block that is a plain sequence counts as the blocks in it, so that a ResNet has its residual blocks and not its
    four stages alone. The output of a block is the last map or tokens (or else the last vector) before the next block
    begins, with normalisation and activation in between. A map that is only averaged to become the classifier's input
    is left out where ``--pool avg`` would do the same.

    Parameters
    ----------
    most : int
        Where there are more, as many as this, evenly spread, the first and the last among them.
    """
    automatic = graph.resolve("auto")
    below = graph.cuts[: graph.cuts.index(automatic) + 1]
    starts = [_first_inside(block, below) for block in _blocks(graph)]
    bounds = [*sorted({start for start in starts if start is not None}), len(below)]
    outputs = [_output(below[start:stop]) for start, stop in pairwise(bounds)]
    candidates = [cut for cut in outputs if not _equals_classifier_input(cut, automatic, pool)] + [automatic]
    indices = np.linspace(0, len(candidates) - 1, min(most, len(candidates))).round().astype(int)
    return [candidates[index] for index in indices]


def _blocks(graph: CutGraph) -> list[str]:
    """Return the names of the network's blocks, those in plain sequences one by one."""

    def parts(name: str) -> list[str]:
        module = graph.module.get_submodule(name)
        children = [f"{name}.{child}" for child, part in module.named_children() if _has_weights(part)]
        if not isinstance(module, nn.Sequential) or len(children) < 2:
            return [name]
        return [part for child in children for part in parts(child)]

    return [part for block in graph.blocks for part in parts(block)]


def _has_weights(module: nn.Module) -> bool:
    """Say whether a module holds the weights of a convolution or a linear layer."""
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _first_inside(block: str, cuts: Sequence[Cut]) -> int | None:
    """Return the place of the first cut inside a block, None if there is none."""
    names = (cut.name for cut in cuts)
    return next((index for index, name in enumerate(names) if f"{name}.".startswith(f"{block}.")), None)


def _output(cuts: Sequence[Cut]) -> Cut:
    """Return the last of the cuts that still has places in the image, or else the last."""
    return next((cut for cut in reversed(cuts) if cut.layout != "vector"), cuts[-1])


def _equals_classifier_input(cut: Cut, automatic: Cut, pool: Pooling) -> bool:
    """Say whether the pooled output of a cut is the classifier's input, or as good as that."""
    averaged = pool == "avg" and automatic.layout == "vector" and cut.layout in ("nchw", "nhwc")
    channels = cut.shape[0] if cut.layout == "nchw" else cut.shape[-1]
    same_input = averaged and channels == automatic.shape[0] and cut.parameters_below == automatic.parameters_below
    return cut == automatic or same_input
