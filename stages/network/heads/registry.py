"""Torch heads by name: the decorator that makes a module one, new ones, and the classes of saved ones."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cache.errors import UsageError
from stages.config.head_registry import HEADS, HeadKind, RowKind, find_head, import_head, names_where
from stages.config.heads import FitRecipe
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.heads.base import Head
from stages.network.heads.user_module import ImportedHead
from stages.runtime.seeding import DrawnApart

HeadClass = TypeVar("HeadClass", bound=type[Head])


def register_torch_head(
    name: str,
    *,
    label: str,
    rows: RowKind,
    tasks: tuple[str, ...] = ("single_label",),
    default_for: tuple[str, ...] = (),
    cost: float = HeadKind.cost,
) -> Callable[[HeadClass], HeadClass]:
    """Make a subclass of `Head` the head of that name, which trains in epochs and takes features of any number.

    In the files of this package the arguments are literals, since they are read without an import, and the docstring of
    the class begins with what the head is, up to the first point, colon or end of line: that is shown by help.

    Parameters
    ----------
    name, label, rows, tasks, default_for, cost
        As in `HeadKind`.

    Raises
    ------
    UsageError
        If another head has the name.
    """
    return HEADS.decorator(
        HeadKind(name, label, rows=rows, streams=True, tasks=tasks, default_for=default_for, in_epochs=True, cost=cost)
    )


def build_head(
    name: str,
    row_shape: tuple[int, ...],
    out_features: int,
    settings: Mapping[str, Any] | None = None,
    at: tuple[CutGraph, Cut] | None = None,
) -> Head:
    """Return a new torch head for rows of `row_shape`.

    Parameters
    ----------
    name
        Of a torch head; or ``package.module:Class``, a module of the user's own.
    settings
        ``hidden`` and ``dropout``, for the heads that have a hidden layer, and dropout; ``l2``, whether a vector is
        divided by its Euclidean norm first, which ``cosine`` does in any case. What is not given is as in the head's
        constructor.
    at
        The network, and the cut whose output the rows are; of ``top``.

    Raises
    ------
    UsageError
        If there is no such torch head, or it does not take rows of this shape, or not with ``l2``.
    """
    if not find_head(name).in_epochs:
        torch_heads = names_where(lambda kind: kind.in_epochs)
        raise UsageError(f"`head` {name} is fitted, and no torch head; those are {torch_heads}.")
    head = _class_of(name)
    settings = settings or {}
    if settings.get("l2") and not head.takes_l2():
        raise UsageError(
            f"`head` {name} takes rows as they were cached; dividing them by their norm (l2) is not for it."
        )
    if ":" in name:
        return ImportedHead(name, row_shape, out_features)
    return head.build(row_shape, out_features, settings, at)


def recipe_of_head(name: str, *, on_maps: bool) -> FitRecipe:
    """Return how a torch head trains where nothing is said; `on_maps` where it is to answer for each place of maps."""
    return _class_of(name).default_recipe(on_maps=on_maps)


def begins_linear(name: str) -> bool:
    """Return whether the first that a torch head does with a row is a linear layer, so that it can take up another."""
    head = _class_of(name)
    return head.standardized and not head.takes_bags


def _class_of(name: str) -> type[Head]:
    head: type[Head] = ImportedHead if ":" in name else import_head(name)
    return head


_MADE_OF_HEADS = {
    "aggregated": "stages.network.heads.aggregated:AggregatedHead",
    "blocks": "stages.network.heads.blocks:WeightedBlocksHead",
    "joined": "stages.network.heads.blocks:JoinedHead",
    "aggregated-blocks": "stages.network.heads.blocks:AggregatedBlocksHead",
    "ensemble": "stages.network.heads.ensemble:EnsembleHead",
    "stacked": "stages.network.heads.ensemble:StackedHead",
    "columns": "stages.network.heads.depths:ColumnsHead",
    "projected": "stages.network.heads.depths:ProjectedHead",
}
"""Heads that are made around others: of samples of several images, of rows with columns of a table or depths of a
network in them, of several heads. They are saved, and no names of options."""


def unfilled_head(config: dict[str, Any], graph: CutGraph | None) -> Head:
    """Return a head with its `config`, whose tensors are still to be given; a module of the user's own draws as ever.

    Raises
    ------
    KeyError, TypeError
        If an entry is missing or unknown.
    UsageError
        If there is no head of its name, or it needs the graph, and has none or another one.
    """
    name, row_shape, out_features = config.pop("head"), tuple(config.pop("row_shape")), config.pop("out_features")
    if ":" in name:
        return ImportedHead(name, row_shape, out_features, **config)
    head = saved_class(name)
    if head.needs_graph and graph is None:
        raise UsageError(f"the head {name} is made of the blocks of its network: load it with the CutGraph of that one")
    is_own = head.__module__.partition(".")[0] == __name__.partition(".")[0]
    with DrawnApart() if is_own else DrawnApart.but_here():
        return head.rebuild(row_shape, out_features, config, graph)


def saved_class(name: str) -> type[Head]:
    """Return the class of a head that was saved under that name.

    Raises
    ------
    UsageError
        If there is none.
    """
    kind = None if name in _MADE_OF_HEADS else find_head(name)
    saved_as = _MADE_OF_HEADS[name] if kind is None else kind.saved_as
    if saved_as:
        module, _, class_name = saved_as.partition(":")
        head_class: type[Head] = getattr(importlib.import_module(module), class_name)
        return head_class
    if kind is None or not kind.in_epochs:
        raise UsageError(f"the head {name} is none that is saved under its own name")
    torch_head: type[Head] = import_head(name)
    return torch_head
