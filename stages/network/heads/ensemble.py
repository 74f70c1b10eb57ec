"""Several heads on the same features as one: the weighted mean of what they say, or a linear model on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.network.graph.cuts import CutGraph
from stages.network.heads.base import Head
from stages.network.heads.registry import unfilled_head


class EnsembleHead(Head):
    """The weighted mean of what heads say of the same rows: float [b, *row_shape] -> outputs [b, out_features].

    The mean is of probabilities or numbers, not of logits; outputs are what gives it when activated, so that the
    ensemble stands wherever a head does.

    Parameters
    ----------
    members : sequence of Head
        On rows of the same shape.
    activation : "softmax", "sigmoid" or "identity"
        What the task does to outputs.
    """

    weights: Tensor

    def __init__(self, members: Sequence[Head], activation: str) -> None:
        super().__init__("ensemble", *_shape(members), activation=activation, members=_configs(members))
        self.members = nn.ModuleList(members)
        self.activation = activation
        self.register_buffer("weights", torch.full((len(members),), 1 / len(members)))

    @classmethod
    def weighted(cls, members: Sequence[Head], weights: Sequence[float], activation: str) -> EnsembleHead:
        """Return the ensemble of heads with a weight each; the weights are positive, and their sum is 1."""
        ensemble = cls(members, activation)
        ensemble.weights.copy_(torch.tensor(weights))
        return ensemble.eval()

    @property
    def takes_bags(self) -> bool:  # type: ignore[override]
        """As the heads that it consists of."""
        return any(getattr(member, "takes_bags", False) for member in self.members)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the outputs for a batch of rows."""
        outputs = torch.stack([member(rows).float() for member in self.members])
        if self.activation == "softmax":
            return self._mean(outputs.log_softmax(dim=2))
        if self.activation == "sigmoid":  # each side by itself, as 1 - p has no digits left where p is nearly 1
            return self._mean(functional.logsigmoid(outputs)) - self._mean(functional.logsigmoid(-outputs))
        return torch.einsum("m,mbo->bo", self.weights, outputs)

    def _mean(self, logarithms: Tensor) -> Tensor:
        """Return the logarithm of the weighted mean of numbers [m, b, out_features] with these logarithms."""
        return torch.logsumexp(logarithms + self.weights.log()[:, None, None], dim=0)

    @classmethod
    def rebuild(
        cls, row_shape: tuple[int, ...], out_features: int, settings: Mapping[str, Any], graph: CutGraph | None
    ) -> Head:
        """Return a head with the rest of a `config`."""
        return cls([unfilled_head(dict(member), graph) for member in settings["members"]], settings["activation"])


class StackedHead(Head):
    """A linear model on what heads say of the same rows: float [b, *row_shape] -> outputs [b, out_features].

    It sees logarithms of probabilities, or numbers, of all members side by side.

    Parameters
    ----------
    members : sequence of Head
        On rows of the same shape.
    stack : Head
        Takes vectors of all members' outputs.
    activation : "softmax", "sigmoid" or "identity"
        What the task does to outputs.
    least : float
        What a smaller probability counts as.
    """

    def __init__(self, members: Sequence[Head], stack: Head, activation: str, least: float) -> None:
        settings: dict[str, Any] = {
            "activation": activation,
            "least": least,
            "members": _configs(members),
            "stack": stack.config,
        }
        super().__init__("stacked", *_shape(members), **settings)
        self.members = nn.ModuleList(members)
        self.stack = stack
        self.activation = activation
        self.least = least

    @property
    def takes_bags(self) -> bool:  # type: ignore[override]
        """As the heads that it consists of."""
        return any(getattr(member, "takes_bags", False) for member in self.members)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the outputs for a batch of rows."""
        said = [member(rows).float() for member in self.members]
        if self.activation != "identity":
            said = [self._logarithms(outputs) for outputs in said]
        stacked: Tensor = self.stack(torch.cat(said, dim=1))
        return stacked

    def _logarithms(self, outputs: Tensor) -> Tensor:
        least = math.log(self.least)
        if self.activation == "softmax":
            return outputs.log_softmax(dim=1).clamp_min(least)
        return functional.logsigmoid(outputs).clamp_min(least) - functional.logsigmoid(-outputs).clamp_min(least)

    @classmethod
    def rebuild(
        cls, row_shape: tuple[int, ...], out_features: int, settings: Mapping[str, Any], graph: CutGraph | None
    ) -> Head:
        """Return a head with the rest of a `config`."""
        members = [unfilled_head(dict(member), graph) for member in settings["members"]]
        stack = unfilled_head(dict(settings["stack"]), graph)
        return cls(members, stack, settings["activation"], settings["least"])


def _shape(members: Sequence[Head]) -> tuple[tuple[int, ...], int]:
    """Return the shape of the rows, and the width of the outputs, of heads that have both in common."""
    shapes = {(tuple(member.config["row_shape"]), int(member.config["out_features"])) for member in members}
    if len(shapes) != 1:
        raise ValueError(f"an ensemble is of heads on the same rows for the same task, not of {sorted(shapes)}")
    return shapes.pop()


def _configs(members: Sequence[Head]) -> list[dict[str, Any]]:
    return [member.config for member in members]
