"""What every head is, and which rows it takes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cache.errors import UsageError
from stages.network.graph.cuts import Layout, layout_of


class Head(nn.Module):
    """What is trained on cached features: float [b, *row_shape] -> logits [b, classes].

    Attributes
    ----------
    config : dict
        What it takes to build the same head again, as JSON values: its name (``head``), ``row_shape``,
        ``num_classes`` and its settings. Where ``l2`` is among them and true, a vector is divided by its Euclidean
        norm before anything else is done with it.
    """

    config: dict[str, Any]

    def __init__(self, name: str, row_shape: tuple[int, ...], num_classes: int, **settings: Any) -> None:
        super().__init__()
        self.config = {"head": name, "row_shape": [*row_shape], "num_classes": num_classes, **settings}

    def l2_normalize(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return vectors [b, d] as the head is to see them: of unit length with ``l2``, else as they are."""
        return functional.normalize(vectors, dim=1) if self.config.get("l2") else vectors


def vector_width(name: str, row_shape: tuple[int, ...]) -> int:
    """Return the width of rows that are vectors.

    Raises
    ------
    UsageError
        If they are maps or tokens; says which poolings and which heads fit.
    """
    if len(row_shape) != 1:
        places = "maps" if len(row_shape) == 3 else "tokens"
        raise UsageError(
            f"`head` {name} takes vectors, and these rows are {places} of shape {[*row_shape]} "
            f"({math.prod(row_shape)} numbers). Cache them with `pool` avg, max or avgmax, or take `head` concat, "
            "attention or top."
        )
    return row_shape[0]


def layout_and_channels(name: str, row_shape: tuple[int, ...]) -> tuple[Layout, int]:
    """Return the layout of rows and how many channels they have.

    Raises
    ------
    UsageError
        If they are neither vectors, tokens nor square maps.
    """
    layout = layout_of(tuple(row_shape))
    if layout is None:
        raise UsageError(f"`head` {name} takes vectors, tokens and square maps, not rows of shape {[*row_shape]}.")
    return layout, row_shape[0] if layout in ("vector", "nchw") else row_shape[-1]
