"""A head on one row for each sample, behind what makes that row of the sample's images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stages.network.aggregate import Aggregate
from stages.network.graph.cuts import CutGraph
from stages.network.heads.base import Head
from stages.network.heads.registry import unfilled_head


class AggregatedHead(Head):
    """A head for vectors on samples of several images: bags, float [b, F, d + 1] -> logits [b, classes].

    What is saved of a head that was fitted to aggregated rows, so that it can be asked about images again.

    Parameters
    ----------
    aggregate : Aggregate
    head : Head
        Takes the rows that `aggregate` makes.
    """

    NAME = "aggregated"
    takes_bags = True

    def __init__(self, aggregate: Aggregate, head: Head) -> None:
        super().__init__(
            self.NAME,
            (aggregate.places, aggregate.features + 1),
            head.config["out_features"],
            aggregate=aggregate.config,
            inner=head.config,
        )
        self.aggregate = aggregate
        self.inner = head

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits of a batch of bags."""
        logits: Tensor = self.inner(self.aggregate(rows))
        return logits

    @classmethod
    def rebuild(
        cls, row_shape: tuple[int, ...], out_features: int, settings: Mapping[str, Any], graph: CutGraph | None
    ) -> Head:
        """Return a head with the rest of a `config`."""
        return cls(Aggregate(**settings["aggregate"]), unfilled_head(dict(settings["inner"]), graph))
