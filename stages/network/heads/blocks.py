"""Heads on rows that consist of parts: what the images gave, then what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.nn import functional

from stages.network.aggregate import Aggregate
from stages.network.graph.cuts import CutGraph
from stages.network.heads.base import Head
from stages.network.heads.linear import LinearHead
from stages.network.heads.registry import build_head, unfilled_head

ENCODER_WIDTH = 64
"""Numbers that the encoder of each part ends in, and units where they meet."""


class WeightedBlocksHead(Head):
    """A head on rows whose numbers were moved and stretched: float [b, d] -> logits [b, classes].

    What any fitted head becomes that was fitted to such rows; a linear one takes up the scaling instead
    (`weigh_blocks`).

    Parameters
    ----------
    head : Head
    normalized : int
        So many numbers at the beginning are divided by their length first.
    """

    offset: torch.Tensor
    factor: torch.Tensor

    def __init__(self, head: Head, normalized: int = 0) -> None:
        shape = tuple(head.config["row_shape"])
        super().__init__("blocks", shape, head.config["out_features"], inner=head.config, normalized=normalized)
        self.inner = head
        self.normalized = normalized
        self.register_buffer("offset", torch.zeros(shape))
        self.register_buffer("factor", torch.ones(shape))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        if self.normalized:
            beginning = functional.normalize(rows[:, : self.normalized], dim=1)
            rows = torch.cat([beginning, rows[:, self.normalized :]], dim=1)
        logits: torch.Tensor = self.inner((rows - self.offset) * self.factor)
        return logits

    @classmethod
    def rebuild(
        cls, row_shape: tuple[int, ...], out_features: int, settings: Mapping[str, Any], graph: CutGraph | None
    ) -> Head:
        """Return a head with the rest of a `config`."""
        return cls(unfilled_head(dict(settings["inner"]), graph), settings["normalized"])


def weigh_blocks(head: Head, offset: ArrayLike, factor: ArrayLike, normalized: int = 0) -> Head:
    """Return a head that was fitted to ``(rows - offset) * factor`` as one that takes the rows as they are.

    Parameters
    ----------
    head : Head
    offset, factor : [d]
    normalized : int
        So many numbers at the beginning were divided by their length before that.
    """
    offset, factor = np.asarray(offset, np.float64), np.asarray(factor, np.float64)
    if isinstance(head, LinearHead) and not head.config["l2"] and not normalized:
        weight, bias = (tensor.detach().double().numpy() for tensor in (head.output.weight, head.output.bias))
        # not `from_coefficients`, which makes two rows of one
        weight = weight * factor
        folded = LinearHead(tuple(head.config["row_shape"]), len(weight))
        with torch.no_grad():
            folded.output.weight.copy_(torch.from_numpy(weight))
            folded.output.bias.copy_(torch.from_numpy(bias - weight @ offset))
        return folded.eval()
    weighted = WeightedBlocksHead(head, normalized)
    weighted.offset.copy_(torch.from_numpy(offset))
    weighted.factor.copy_(torch.from_numpy(factor))
    return weighted.eval()


class JoinedHead(Head):
    """A small encoder for each part of a row, and a layer where they meet: float [b, d + k] -> logits [b, classes].

    The head of the images' name, with as many outputs as the encoder of the columns, is the encoder of the images.

    Parameters
    ----------
    encoder : str
        Name of the torch head that encodes the images.
    columns : int
        The width k.
    hidden, dropout
        Of that head, where it has them; dropout before the output too.
    """

    def __init__(
        self,
        row_shape: tuple[int, ...],
        out_features: int,
        encoder: str,
        columns: int,
        hidden: int = 512,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(
            "joined", row_shape, out_features, encoder=encoder, columns=columns, hidden=hidden, dropout=dropout
        )
        self.columns = columns
        settings = {"hidden": hidden, "dropout": dropout}
        self.image_encoder = build_head(encoder, (row_shape[0] - columns,), ENCODER_WIDTH, settings)
        self.column_encoder = nn.Linear(columns, ENCODER_WIDTH)
        self.meeting = nn.Linear(2 * ENCODER_WIDTH, ENCODER_WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(ENCODER_WIDTH, out_features)

    @property
    def stackable(self) -> bool:  # type: ignore[override]
        """As the head that encodes the images."""
        return self.image_encoder.stackable

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        split = rows.shape[1] - self.columns
        parts = [self.image_encoder(rows[:, :split]), self.column_encoder(rows[:, split:])]
        met = self.meeting(functional.relu(torch.cat(parts, dim=1)))
        logits: torch.Tensor = self.output(self.dropout(functional.relu(met)))
        return logits


class AggregatedBlocksHead(Head):
    """A head on a row and columns beside it, behind what makes that row of the images of a sample.

    It takes the bags of `AggregatedHead`, flat, with the columns behind them: float [b, F (d + 1) + k] -> logits.

    Parameters
    ----------
    aggregate : Aggregate
    head : Head
        Takes the rows that `aggregate` makes, and the columns.
    columns : int
        The width k.
    """

    def __init__(self, aggregate: Aggregate, head: Head, columns: int) -> None:
        super().__init__(
            "aggregated-blocks",
            (aggregate.places * (aggregate.features + 1) + columns,),
            head.config["out_features"],
            aggregate=aggregate.config,
            inner=head.config,
            columns=columns,
        )
        self.aggregate, self.inner, self.columns = aggregate, head, columns

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of flat bags with columns behind them."""
        split = rows.shape[1] - self.columns
        bags = rows[:, :split].reshape(rows.shape[0], -1, self.aggregate.features + 1)
        logits: torch.Tensor = self.inner(torch.cat([self.aggregate(bags), rows[:, split:]], dim=1))
        return logits

    @classmethod
    def rebuild(
        cls, row_shape: tuple[int, ...], out_features: int, settings: Mapping[str, Any], graph: CutGraph | None
    ) -> Head:
        """Return a head with the rest of a `config`."""
        return cls(
            Aggregate(**settings["aggregate"]), unfilled_head(dict(settings["inner"]), graph), settings["columns"]
        )
