"""One linear layer on vectors, or on the features of each place of maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from stages.config.heads import FitRecipe
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.heads.base import Head, vector_width
from stages.network.heads.linear_maps import LinearMapsHead
from stages.network.heads.registry import register_torch_head
from stages.runtime.seeding import DrawnApart


@register_torch_head(
    "linear", label="linear", rows="vector", tasks=("single_label", "multi_label", "regression", "dense")
)
class LinearHead(Head):
    """Dropout and one linear layer: float [b, d] -> logits [b, classes]. On maps it is a `LinearMapsHead`."""

    standardized = True
    stackable = True

    def __init__(
        self, row_shape: tuple[int, ...], out_features: int, dropout: float = 0.0, *, l2: bool = False
    ) -> None:
        super().__init__("linear", row_shape, out_features, dropout=dropout, l2=l2)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(vector_width("linear", row_shape), out_features)

    @classmethod
    def build(
        cls, row_shape: tuple[int, ...], out_features: int, settings: Mapping[str, Any], at: tuple[CutGraph, Cut] | None
    ) -> Head:
        """Return a new head, on maps where ``settings`` hold any."""
        if settings.get("maps") is not None:
            return LinearMapsHead.build(row_shape, out_features, settings, at)
        return super().build(row_shape, out_features, settings, at)

    @classmethod
    def rebuild(
        cls, row_shape: tuple[int, ...], out_features: int, settings: Mapping[str, Any], graph: CutGraph | None
    ) -> Head:
        """Return a head with the rest of a `config`, on maps where that holds any."""
        if "maps" in settings:
            return LinearMapsHead.rebuild(row_shape, out_features, settings, graph)
        return super().rebuild(row_shape, out_features, settings, graph)

    @classmethod
    def default_recipe(cls, *, on_maps: bool) -> FitRecipe:
        """Return the recipe of what it is on vectors, or on maps."""
        return LinearMapsHead.recipe if on_maps else super().default_recipe(on_maps=on_maps)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        logits: torch.Tensor = self.output(self.dropout(self.l2_normalize(rows)))
        return logits

    @classmethod
    def of_zeros(cls, row_shape: tuple[int, ...], out_features: int, *, l2: bool = False) -> LinearHead:
        """Return a head that says 0 of every row, to be given what it is to say."""
        with DrawnApart():
            head = cls(row_shape, out_features, l2=l2)
        nn.init.zeros_(head.output.weight)
        nn.init.zeros_(head.output.bias)
        return head

    @classmethod
    def from_coefficients(
        cls,
        weight: ArrayLike,
        bias: ArrayLike,
        mean: ArrayLike | None = None,
        scale: ArrayLike | None = None,
        *,
        l2: bool = False,
        binary: bool = True,
    ) -> LinearHead:
        """Return a linear model of scikit-learn, with the scaler before it, as one linear layer.

        ``weight @ ((x - mean) / scale) + bias`` equals ``(weight / scale) @ x + (bias - (weight / scale) @ mean)``;
        folded in float64, stored in float32.

        Parameters
        ----------
        weight, bias
            ``coef_`` [classes, d] and ``intercept_`` [classes].
        mean, scale
            ``mean_`` and ``scale_`` [d] of a StandardScaler, where there is one.
        l2
            Whether the model, and the scaler before it, saw rows of unit length.
        binary
            Whether one row, as binary models have it, scores the second of two classes: the logits are then 0 and the
            score, whose softmax is the sigmoid of the score. Else it is one label, or a value.
        """
        weights = np.atleast_2d(np.asarray(weight, dtype=np.float64))
        biases = np.atleast_1d(np.asarray(bias, dtype=np.float64))
        if scale is not None:
            weights = weights / np.asarray(scale, dtype=np.float64)
        if mean is not None:
            biases = biases - weights @ np.asarray(mean, dtype=np.float64)
        if binary and len(weights) == 1:
            weights = np.concatenate([np.zeros_like(weights), weights])
            biases = np.concatenate([np.zeros_like(biases), biases])
        head = cls.of_zeros((weights.shape[1],), len(weights), l2=l2)
        with torch.no_grad():
            head.output.weight.copy_(torch.from_numpy(weights))
            head.output.bias.copy_(torch.from_numpy(biases))
        return head
