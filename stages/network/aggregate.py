"""From the features of a sample's images to one row: mean, maximum, or all of them side by side.

A sample of several images is a bag of padded rows, [F, d + 1]: at each place the features of an image and 1, or zeros
where there is none. This module is the one place that says what a missing image becomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cache.errors import UsageError

AggregateKind = Literal["mean", "max", "concat"]
KINDS: tuple[AggregateKind, ...] = get_args(AggregateKind)


def padded(rows: Tensor, sizes: Sequence[int], places: Sequence[int], count: int | None = None) -> Tensor:
    """Return bags [n, F, d + 1] of the rows of the images that there are.

    Parameters
    ----------
    rows : Tensor [m, d]
        Of all images, sample after sample.
    sizes : sequence of int
        How many images each sample has.
    places : sequence of int, length m
        The place of each image in its sample.
    count : int, optional
        F; by default one more than the last place.
    """
    count = max(places, default=0) + 1 if count is None else count
    bags = rows.new_zeros(len(sizes), count, rows.shape[1] + 1)
    samples = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64))
    indices = samples.to(rows.device), torch.tensor(places, dtype=torch.int64, device=rows.device)
    bags[indices] = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
    return bags


def split_bags(bags: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features [..., F, d] of bags, and where there is an image, bool [..., F]."""
    return bags[..., :-1], bags[..., -1] > 0.5


class Aggregate(nn.Module):
    """Bags, float [b, F, d + 1] -> rows, float [b, width].

    Parameters
    ----------
    kind : "mean", "max" or "concat"
        Mean and maximum are over the images that there are. concat puts those of all places side by side; a place
        without an image has the mean of the training images there, and where the training samples lack some, a further
        number says whether it is missing.
    places : int
        F. Mean and maximum take bags of any.
    features : int
        d.
    indicators : sequence of int
        Places of which a further number says whether they are missing.
    """

    fill: Tensor

    def __init__(self, kind: AggregateKind, places: int, features: int, indicators: Sequence[int] = ()) -> None:
        super().__init__()
        self.kind, self.places, self.features, self.indicators = kind, places, features, [*indicators]
        self.register_buffer("fill", torch.zeros(places if kind == "concat" else 0, features))

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.places * self.features + len(self.indicators) if self.kind == "concat" else self.features

    @property
    def config(self) -> dict[str, Any]:
        """What it takes to build the same again, as JSON values."""
        return {
            "kind": self.kind,
            "places": self.places,
            "features": self.features,
            "indicators": self.indicators,
        }

    def forward(self, bags: Tensor) -> Tensor:
        """Return the row of each bag."""
        rows, present = split_bags(bags)
        if self.kind == "mean":
            return rows.mul(present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True).clamp_min(1)
        if self.kind == "max":
            return rows.masked_fill(~present[..., None], float("-inf")).amax(dim=1)
        if rows.shape[1] != self.places:
            raise UsageError(
                f"`aggregate` concat was fitted to samples of {self.places} images, and these have {rows.shape[1]}"
            )
        filled = torch.where(present[..., None], rows, self.fill.to(rows.dtype)).flatten(1)
        missing = ~present[:, self.indicators]
        return torch.cat([filled, missing.to(rows.dtype)], dim=1)


def fit_aggregate(kind: AggregateKind, places: int, features: int, training_bags: Iterable[Tensor]) -> Aggregate:
    """Return an aggregation whose stand-ins for missing images are the means over the training samples.

    Parameters
    ----------
    training_bags : iterable of Tensor [b, F, d + 1]
        Looked at for concat alone.
    """
    if kind != "concat":
        return Aggregate(kind, places, features)
    totals, counts, samples = torch.zeros(places, features, dtype=torch.float64), torch.zeros(places), 0
    for bags in training_bags:
        rows, present = split_bags(bags)
        totals += rows.double().mul(present[..., None]).sum(dim=0)
        counts += present.sum(dim=0)
        samples += len(bags)
    aggregate = Aggregate(kind, places, features, [int(place) for place in torch.nonzero(counts < samples)])
    aggregate.fill.copy_(totals / counts.clamp_min(1)[:, None])
    return aggregate
