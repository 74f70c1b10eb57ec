"""Heads on some of the numbers of a row, and on what they are in the span of some rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from stages.network.graph.cuts import CutGraph
from stages.network.heads.base import Head
from stages.network.heads.registry import unfilled_head
from stages.runtime.products import linear


class ColumnsHead(Head):
    """A head that takes some of the numbers of a row, and leaves the others: float [b, D] -> logits [b, classes].

    Parameters
    ----------
    head : Head
        Takes the numbers that are picked, side by side.
    width : int
        Numbers that a row has.
    ranges : sequence of (start, stop)
        Which are picked, in order.
    """

    def __init__(self, head: Head, width: int, ranges: Sequence[tuple[int, int]]) -> None:
        picked = [[int(start), int(stop)] for start, stop in ranges]
        super().__init__("columns", (width,), head.config["out_features"], inner=head.config, ranges=picked)
        self.inner = head

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        parts = [rows[:, start:stop] for start, stop in self.config["ranges"]]
        logits: torch.Tensor = self.inner(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))
        return logits

    @classmethod
    def rebuild(
        cls, row_shape: tuple[int, ...], out_features: int, settings: Mapping[str, Any], graph: CutGraph | None
    ) -> Head:
        """Return a head with the rest of a `config`."""
        return cls(unfilled_head(dict(settings["inner"]), graph), row_shape[0], settings["ranges"])


class ProjectedHead(Head):
    """A head on coordinates of rows, ``rows @ projection.T``: float [b, d] -> logits [b, classes].

    Parameters
    ----------
    head : Head
        Takes coordinates, [b, r].
    width : int
        Numbers of a row, d.
    """

    projection: torch.Tensor

    def __init__(self, head: Head, width: int) -> None:
        super().__init__("projected", (width,), head.config["out_features"], inner=head.config)
        self.inner = head
        self.register_buffer("projection", torch.zeros(head.config["row_shape"][0], width))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        logits: torch.Tensor = self.inner(linear(rows, self.projection))
        return logits

    @classmethod
    def from_projection(cls, head: Head, projection: ArrayLike) -> ProjectedHead:
        """Return a head behind a projection [r, d]."""
        values = np.asarray(projection, dtype=np.float32)
        projected = cls(head, values.shape[1])
        projected.projection.copy_(torch.from_numpy(values))
        return projected

    @classmethod
    def rebuild(
        cls, row_shape: tuple[int, ...], out_features: int, settings: Mapping[str, Any], graph: CutGraph | None
    ) -> Head:
        """Return a head with the rest of a `config`."""
        return cls(unfilled_head(dict(settings["inner"]), graph), row_shape[0])
