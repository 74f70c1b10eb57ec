"""Where in a network taps lie: the outputs of its stages and blocks, the activations inside these, and the last layer.

Found on the graph and the kinds of the layers alone, without weights, so that a network has the same taps everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import get_args

from cache.errors import UsageError, listed, suggestion
from stages.config.features import Pooling
from stages.config.registry import POOLINGS
from stages.network.classifier import output_layers
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.graph.hooked import HookedGraph
from stages.network.graph.pooling import Pool
from stages.network.graph.probe_points import innermost_blocks, is_pooled_to, outputs_of_blocks
from stages.network.graph.taps import DEPTH_SETS, TapBlock, TapKind, TapLayout

_OF_OUTPUTS = ("std",)
"""Poolings of outputs alone: inside blocks they tell little that averages and maxima do not (docs/depths.md)."""


@dataclass(frozen=True)
class TapPlace:
    """A tensor that is tapped.

    Attributes
    ----------
    tensor : Cut
        What it is, where a cut may be.
    kind : {"last", "stage", "block", "inner"}
    pools : tuple of Pool
        What is taken of it, each once.
    """

    tensor: Cut
    kind: TapKind
    pools: tuple[Pool, ...]

    @property
    def blocks(self) -> tuple[TapBlock, ...]:
        """Its blocks in a row."""
        return tuple(TapBlock(self.tensor.name, pool.kind, self.kind, pool.shape[0]) for pool in self.pools)


def find_taps(graph: CutGraph, taps: str, pools: Sequence[Pooling]) -> tuple[TapPlace, ...]:
    """Return the tensors that are tapped, from the image upwards.

    Parameters
    ----------
    graph
    taps
        One of :data:`~stages.network.graph.taps.DEPTH_SETS`, or patterns of names, separated by commas. Part by part
        between the points they are matched as names of files are: ``blocks.*`` is each block, ``blocks.*.*`` each
        within. A module stands for the last tensor in it that has a row for each image.
    pools
        Poolings that make vectors. The class token is taken too, where there is one.

    Raises
    ------
    UsageError
        If a pattern matches nothing, no blocks are found, or a pooling makes no vector.
    """
    patterns = [] if taps in DEPTH_SETS else [pattern.strip() for pattern in taps.split(",")]
    # of a network that cannot be traced nobody knows where its classifier begins: patterns do without
    known = {} if patterns and isinstance(graph, HookedGraph) else _kinds(graph)
    deepest = 0 if patterns else DEPTH_SETS.index(taps)
    wanted = {tensor for pattern in patterns for tensor in _matching(graph, pattern)} or {
        tensor for tensor, kind in known.items() if get_args(TapKind).index(kind) <= deepest
    }
    automatic = next((tensor for tensor, kind in known.items() if kind == "last" and tensor.layout == "vector"), None)
    places: list[TapPlace] = []
    for tensor in (tensor for tensor in graph.tensors if tensor in wanted):
        kind = known.get(tensor) or ("block" if tensor in graph.cuts else "inner")
        averaged = automatic is not None and automatic in wanted and is_pooled_to(tensor, automatic)
        taken = tuple(_vector_pool(pool, tensor) for pool in _poolings(tensor, kind, pools, averaged=averaged))
        places += [TapPlace(tensor, kind, taken)] if taken else []
    if not places:
        raise UsageError(f"`taps` {taps}: {listed(pools)} is not taken of what lies inside blocks; add avg to `pool`")
    return tuple(places)


def layout_of_taps(places: Sequence[TapPlace]) -> TapLayout:
    """Return the row that tensors give: their blocks, one after the other."""
    return TapLayout(tuple(block for place in places for block in place.blocks))


def _kinds(graph: CutGraph) -> Mapping[Cut, TapKind]:
    """Return every tensor that is of a kind, and its kind."""
    kinds: dict[Cut, TapKind] = {}
    if isinstance(graph, HookedGraph):
        automatic, blocks, stages = _numbered_modules(graph)
        below = graph.cuts
    else:
        automatic = graph.resolve("auto")
        below = graph.cuts[: graph.cuts.index(automatic) + 1]
        blocks, stages = (
            outputs_of_blocks(names, below) for names in (innermost_blocks(graph, opened=True), graph.blocks)
        )
        for previous, output in zip((None, *blocks), blocks, strict=False):
            inner = graph.projected_between(previous, output)
            if inner is not None:
                kinds[inner] = "inner"
    for cut in blocks:
        kinds[cut] = "block"
    for cut in stages:
        kinds[cut] = "stage"
    # What the classifier's input is pooled of is as deep as it is, and a map of one place on the way says nothing new.
    pooled = [cut for cut in below if is_pooled_to(cut, automatic)]
    maps = [cut for cut in pooled if cut.places > 1][-1:] or pooled[:1]
    kinds = {cut: kind for cut, kind in kinds.items() if cut not in pooled}
    return kinds | dict.fromkeys((*maps, automatic), "last")


def _numbered_modules(graph: HookedGraph) -> tuple[Cut, list[Cut], list[Cut]]:
    """Return the last cut below the output layer, the members of lists of modules, and the last member of each list.

    Of lists within lists the outer ones count.

    Raises
    ------
    UsageError
        If there is no list that has two members which can be cut at.
    """
    outputs = output_layers(graph.module)
    names = [cut.name for cut in graph.cuts]
    end = next((number for number, name in enumerate(names) if name in outputs), len(names))
    below = graph.cuts[:end]
    members: dict[str, list[Cut]] = {}
    for cut in sorted(below, key=lambda cut: cut.name.count(".")):
        parent, _, name = cut.name.rpartition(".")
        within = any(f"{cut.name}.".startswith(f"{outer.name}.") for found in members.values() for outer in found)
        if name.isdecimal() and cut.layout != "vector" and not within:
            members.setdefault(parent, []).append(cut)
    lists = [sorted(found, key=lambda cut: names.index(cut.name)) for found in members.values() if len(found) > 1]
    if not lists:
        raise UsageError(
            f"`taps`: no blocks are found in {type(graph.module).__name__}, which cannot be traced ({graph.reason}): "
            f"name them by patterns, such as {listed([cut.name for cut in below[-3:-1]])}, or encoder.*.output. The "
            "command `list-cuts` lists what there is"
        )
    return below[-1], [cut for found in lists for cut in found], [found[-1] for found in lists]


def _matching(graph: CutGraph, pattern: str) -> list[Cut]:
    parts = pattern.split(".")

    def matches(name: str) -> bool:
        found = name.split(".")
        return len(found) == len(parts) and all(map(fnmatchcase, found, parts))

    tensors = graph.tensors_inside(matches)
    if not tensors:
        names = [name for name, _ in graph.module.named_modules() if name]
        nearest = suggestion(pattern, [*DEPTH_SETS, *names, *(tensor.name for tensor in graph.tensors)])
        raise UsageError(
            f"`taps`: nothing in this network matches {pattern!r}, part by part.{nearest} Give {listed(DEPTH_SETS)}, "
            "or patterns of names, as blocks.*; the command `list-cuts` with `taps` shows what is taken"
        )
    return tensors


def _poolings(tensor: Cut, kind: TapKind, pools: Sequence[Pooling], *, averaged: bool) -> tuple[Pooling, ...]:
    """Return what is taken of a tensor; `averaged` says that its average over a map is the classifier's input."""
    if tensor.layout == "vector":
        return ("none",)
    taken = dict.fromkeys(("cls", *pools) if tensor.class_token else pools)
    left_out = (*(_OF_OUTPUTS if kind == "inner" else ()), *(["avg"] if averaged and tensor.layout != "tokens" else []))
    return tuple(pool for pool in taken if pool not in left_out)


def _vector_pool(pool: Pooling, tensor: Cut) -> Pool:
    made = Pool(pool, tensor)
    if len(made.shape) > 1:
        fitting = ", ".join(name for name in POOLINGS.names() if name != pool)
        raise UsageError(f"`taps` are vectors, and `pool` {pool} keeps places in the image; take some of {fitting}")
    return made
