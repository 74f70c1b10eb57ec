"""What every head is, and which rows it takes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from cache.errors import UsageError
from stages.config.head_registry import names_where
from stages.config.heads import FitRecipe
from stages.network.graph.cuts import Cut, CutGraph, Layout, layout_of


class Head(nn.Module):
    """What is trained on cached features: float [b, *row_shape] -> logits [b, classes].

    Attributes
    ----------
    config : dict
        What it takes to build the same head again, as JSON values: its name (``head``), ``row_shape``,
        ``out_features`` and its settings. Where ``l2`` is among them and true, a vector is divided by its Euclidean
        norm before anything else is done with it.

    A subclass says of itself what is more than the least:

    standardized : bool
        It is trained on features of mean 0 and variance 1, where the options say so, and on those of several depths
        along axes of their span; its first linear layer, before which nothing changes a row, takes that up afterwards.
    stackable : bool
        Several can be trained at once. Not those with BatchNorm, whose statistics change in every forward pass, nor
        modules of which nothing is known, nor whole blocks of a network, which fill the machine one at a time.
    ignores_length : bool
        The length of a row has no effect, so that it need not be divided by it.
    needs_graph : bool
        It is made of the network whose features it takes.
    takes_bags : bool
        It takes samples of several images as they are: bags, float [b, F, d + 1], whose last number is 1 where there is
        an image; it is trained on bags of any F.
    pretrained : tuple of str
        What the names of parameters begin with that come from the network.
    """

    config: dict[str, Any]
    standardized: ClassVar[bool] = False
    stackable: ClassVar[bool] = False
    ignores_length: ClassVar[bool] = False
    needs_graph: ClassVar[bool] = False
    takes_bags: ClassVar[bool] = False
    pretrained: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, row_shape: tuple[int, ...], out_features: int, **settings: Any) -> None:
        super().__init__()
        self.config = {"head": name, "row_shape": [*row_shape], "out_features": out_features, **settings}

    @classmethod
    def build(
        cls, row_shape: tuple[int, ...], out_features: int, settings: Mapping[str, Any], at: tuple[CutGraph, Cut] | None
    ) -> Head:
        """Return a new head with those of the settings (``hidden``, ``dropout``, ``l2``) that its constructor takes.

        Where the rows are the output of a cut, `at` is its network and the cut.
        """
        accepted = inspect.signature(cls).parameters
        make: Callable[..., Head] = cls
        return make(row_shape, out_features, **{name: value for name, value in settings.items() if name in accepted})

    @classmethod
    def default_recipe(cls, *, on_maps: bool) -> FitRecipe:
        """Return how it trains where nothing is said; `on_maps` where it is to answer for each place of maps."""
        return FitRecipe()

    @classmethod
    def takes_l2(cls) -> bool:
        """Return whether rows may be divided by their length first, or whether that changes nothing."""
        return cls.ignores_length or "l2" in inspect.signature(cls).parameters

    @classmethod
    def rebuild(
        cls, row_shape: tuple[int, ...], out_features: int, settings: Mapping[str, Any], graph: CutGraph | None
    ) -> Head:
        """Return a head with the rest of a `config`; an entry that it does not know raises TypeError."""
        make: Callable[..., Head] = cls
        return make(row_shape, out_features, **settings)

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
        layout = "maps" if len(row_shape) == 3 else "tokens"
        raise UsageError(
            f"`head` {name} takes vectors, and these rows are {layout} of shape {[*row_shape]} "
            f"({math.prod(row_shape)} numbers). Cache them with `pool` avg, max or avgmax, or take one of the "
            f"heads for maps: {names_where(lambda kind: kind.rows in ('map', 'any'))}."
        )
    return row_shape[0]


def bag_width(name: str, row_shape: tuple[int, ...]) -> int:
    """Return the width d of the features of an image in bags [F, d + 1].

    Raises
    ------
    UsageError
        If the rows are none.
    """
    if len(row_shape) != 2:
        raise UsageError(
            f"`head` {name} takes samples of several images, and these rows have the shape {[*row_shape]}; take one of "
            f"the other heads: {names_where(lambda kind: kind.rows not in ('bag', 'maps'))}"
        )
    return row_shape[1] - 1


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


def places_and_channels(name: str, row_shape: tuple[int, ...]) -> tuple[Layout, int]:
    """Return the layout of rows that have places to attend to, and how many channels they have.

    Raises
    ------
    UsageError
        If they are neither tokens nor square maps; of vectors with what to cache instead.
    """
    layout, channels = layout_and_channels(name, row_shape)
    if layout == "vector":
        raise UsageError(
            f"`head` {name} takes maps and tokens, and these rows are vectors of shape {[*row_shape]}: there are no "
            "places to attend to. Cache them with `pool` none, and with a `cut` below the network's own pooling "
            "(`list-cuts` lists the cuts)."
        )
    return layout, channels
