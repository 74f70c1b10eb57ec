"""New heads by name."""

from __future__ import annotations

from cache.errors import UsageError, suggestion
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.heads.attention_pool import AttentionHead
from stages.network.heads.base import Head
from stages.network.heads.concat_pool import ConcatHead
from stages.network.heads.cosine import CosineHead
from stages.network.heads.linear import LinearHead
from stages.network.heads.mlp import MLPHead
from stages.network.heads.top_blocks import TopHead
from stages.network.heads.user_module import ImportedHead

BUILTIN_HEADS = ("linear", "mlp", "concat", "cosine", "attention", "top")
"""Heads that train in epochs; a module of the user's own is named by its import path."""


def build_head(
    name: str,
    row_shape: tuple[int, ...],
    num_classes: int,
    hidden: int = 512,
    dropout: float = 0.5,
    *,
    l2: bool = False,
    graph: CutGraph | None = None,
    cut: Cut | None = None,
) -> Head:
    """Return a new torch head for rows of `row_shape`.

    Parameters
    ----------
    name
        ``linear``, ``mlp``, ``concat``, ``cosine``, ``attention``, ``top``, or ``package.module:Class``, a module of
        the user's own.
    hidden, dropout
        Of the heads that have a hidden layer, and dropout.
    l2
        Whether a vector is divided by its Euclidean norm first; ``cosine`` does so in any case.
    graph, cut
        The network, and the cut whose output the rows are; of ``top``.

    Raises
    ------
    UsageError
        If there is no such head, or it does not take rows of this shape, or not with ``l2``.
    """
    if name == "linear":
        return LinearHead(row_shape, num_classes, dropout, l2=l2)
    if name == "mlp":
        return MLPHead(row_shape, num_classes, hidden, dropout, l2=l2)
    if name == "concat":
        return ConcatHead(row_shape, num_classes, hidden, dropout, l2=l2)
    if name == "cosine":
        return CosineHead(row_shape, num_classes)
    if name not in BUILTIN_HEADS and ":" not in name:
        raise UsageError(
            f"There is no torch head {name!r}; there are {', '.join(BUILTIN_HEADS)}, and modules of your own, named as "
            f"package.module:Class.{suggestion(name, BUILTIN_HEADS)}"
        )
    if l2:
        raise UsageError(
            f"`head` {name} takes rows as they were cached; dividing them by their norm (l2) is not for it."
        )
    if name == "attention":
        return AttentionHead(row_shape, num_classes, dropout)
    if name == "top":
        return _top(tuple(row_shape), num_classes, graph, cut)
    return ImportedHead(name, row_shape, num_classes)


def _top(row_shape: tuple[int, ...], num_classes: int, graph: CutGraph | None, cut: Cut | None) -> TopHead:
    if graph is None or cut is None:
        raise UsageError("`head` top goes on from one cut of one network: name one `cut`, with `pool` none.")
    head = TopHead.from_graph(graph, cut, num_classes)
    if row_shape != cut.shape:
        raise UsageError(
            f"`head` top takes the output of the cut {cut.name!r} as it is, {[*cut.shape]}, and these rows have the "
            f"shape {[*row_shape]}. Cache them with `pool` none."
        )
    return head
