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
    outputs = outputs_of_blocks(innermost_blocks(graph), below)
    candidates = [cut for cut in outputs if not _equals_classifier_input(cut, automatic, pool)] + [automatic]
    indices = np.linspace(0, len(candidates) - 1, min(most, len(candidates))).round().astype(int)
    return [candidates[index] for index in indices]


def outputs_of_blocks(blocks: Sequence[str], cuts: Sequence[Cut]) -> list[Cut]:
    """Return the output of each block in which a cut is: the last map or tokens of it, or else the last vector.

    Parameters
    ----------
    blocks
        Their names, from the image upwards.
    cuts
        Those up to where the last block ends.
    """
    starts = [_first_inside(block, cuts) for block in blocks]
    bounds = [*sorted({start for start in starts if start is not None}), len(cuts)]
    return [_output(cuts[start:stop]) for start, stop in pairwise(bounds)]


def innermost_blocks(graph: CutGraph, *, opened: bool = False) -> list[str]:
    """Return the names of the network's blocks, those in plain sequences one by one.

    With `opened` also those in the sequences that other modules hold: of a stage that is a downsampling and a row of
    blocks these, each by itself.
    """

    def parts(name: str) -> list[str]:
        module = graph.module.get_submodule(name)
        children = {f"{name}.{child}": part for child, part in module.named_children() if _has_weights(part)}
        if isinstance(module, nn.Sequential) and len(children) > 1:
            return [part for child in children for part in parts(child)]
        rows = [child for child, part in children.items() if opened and _is_row_of_blocks(part)]
        if rows:
            return [part for child in children for part in (parts(child) if child in rows else [child])]
        return [name]

    return [part for block in graph.blocks for part in parts(block)]


def _is_row_of_blocks(module: nn.Module) -> bool:
    """Say whether a module is a sequence of modules of one kind, each of several layers with weights."""
    parts = list(module.children())
    layers = [sum(parameter.ndim > 1 for parameter in part.parameters()) for part in parts]
    return isinstance(module, nn.Sequential) and len({*map(type, parts)}) == 1 and min(layers, default=0) > 1


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
    return cut == automatic or (pool == "avg" and cut.layout != "tokens" and is_pooled_to(cut, automatic))


def is_pooled_to(cut: Cut, vector: Cut) -> bool:
    """Say whether a vector is, as far as shapes tell, made of a map or of tokens by pooling alone."""
    if cut.layout == "vector" or vector.layout != "vector":
        return False
    return cut.channels == vector.channels and cut.parameters_below == vector.parameters_below
