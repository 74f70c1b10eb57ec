"""Heads: what is trained on cached features, as torch modules that are saved and loaded without pickle.

Scikit-learn's linear models become a `LinearHead` too. Choosing and fitting a head is stage 2's work.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from torch import nn

from cache.errors import UsageError, WeightsError, suggestion
from stages.network.cut import layout_of
from stages.network.pooling import PLACES, average_and_max

FORMAT = "cutpoint-head"
VERSION = 1


class LinearHead(nn.Module):
    """Dropout and one linear layer: float [b, d] -> logits [b, classes]."""

    def __init__(self, row_shape: tuple[int, ...], num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = {"head": "linear", "row_shape": [*row_shape], "num_classes": num_classes, "dropout": dropout}
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(_width_of_vector("linear", row_shape), num_classes)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        logits: torch.Tensor = self.output(self.dropout(rows))
        return logits

    @classmethod
    def from_coefficients(
        cls, weight: ArrayLike, bias: ArrayLike, mean: ArrayLike | None = None, scale: ArrayLike | None = None
    ) -> LinearHead:
        """Return a linear model of scikit-learn, with the scaler before it, as one linear layer.

        ``weight @ ((x - mean) / scale) + bias`` equals ``(weight / scale) @ x + (bias - (weight / scale) @ mean)``;
        folded in float64, stored in float32.

        Parameters
        ----------
        weight, bias
            ``coef_`` [classes, d] and ``intercept_`` [classes]. One row, as binary models have it, scores the second
            class: the logits are then 0 and the score, whose softmax is the sigmoid of the score.
        mean, scale
            ``mean_`` and ``scale_`` [d] of a StandardScaler, where there is one.
        """
        weights = np.atleast_2d(np.asarray(weight, dtype=np.float64))
        biases = np.atleast_1d(np.asarray(bias, dtype=np.float64))
        if scale is not None:
            weights = weights / np.asarray(scale, dtype=np.float64)
        if mean is not None:
            biases = biases - weights @ np.asarray(mean, dtype=np.float64)
        if len(weights) == 1:
            weights = np.concatenate([np.zeros_like(weights), weights])
            biases = np.concatenate([np.zeros_like(biases), biases])
        head = cls((weights.shape[1],), len(weights))
        with torch.no_grad():
            head.output.weight.copy_(torch.from_numpy(weights))
            head.output.bias.copy_(torch.from_numpy(biases))
        return head


class MLPHead(nn.Module):
    """One hidden layer: linear, ReLU, dropout, linear; float [b, d] -> logits [b, classes]."""

    def __init__(self, row_shape: tuple[int, ...], num_classes: int, hidden: int = 512, dropout: float = 0.5) -> None:
        super().__init__()
        self.config = {
            "head": "mlp",
            "row_shape": [*row_shape],
            "num_classes": num_classes,
            "hidden": hidden,
            "dropout": dropout,
        }
        self.layers = nn.Sequential(
            nn.Linear(_width_of_vector("mlp", row_shape), hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        logits: torch.Tensor = self.layers(rows)
        return logits


class ConcatHead(nn.Module):
    """The head with concatenated pooling: float [b, *row_shape] -> logits [b, classes].

    Average and maximum over all places, side by side; BatchNorm, half the dropout, hidden layer with ReLU, BatchNorm,
    dropout, output. Vectors are taken as they are; cache with ``--pool avgmax`` for the same head on small rows.
    """

    def __init__(self, row_shape: tuple[int, ...], num_classes: int, hidden: int = 512, dropout: float = 0.5) -> None:
        super().__init__()
        self.config = {
            "head": "concat",
            "row_shape": [*row_shape],
            "num_classes": num_classes,
            "hidden": hidden,
            "dropout": dropout,
        }
        layout = layout_of(tuple(row_shape))
        if layout is None:
            raise UsageError(f"--head concat takes vectors, tokens and square maps, not rows of shape {[*row_shape]}.")
        self.places = PLACES[layout]
        channels = row_shape[0] if layout in ("vector", "nchw") else row_shape[-1]
        width = 2 * channels if self.places else channels
        self.layers = nn.Sequential(
            nn.BatchNorm1d(width),
            nn.Dropout(dropout / 2),
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        logits: torch.Tensor = self.layers(average_and_max(rows, self.places) if self.places else rows)
        return logits


class KernelHead(nn.Module):
    """Radial basis functions around stored rows: float [b, d] -> logits [b, classes].

    ``logits = exp(-gamma * |z - support|^2) @ coefficients + bias`` with ``z = (x - mean) / scale``: what a support
    vector machine with the RBF kernel computes, one against the rest.
    """

    support: torch.Tensor
    gamma: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, row_shape: tuple[int, ...], num_classes: int, support: int) -> None:
        super().__init__()
        width = _width_of_vector("rbf", row_shape)
        self.config = {"head": "rbf", "row_shape": [*row_shape], "num_classes": num_classes, "support": support}
        self.register_buffer("support", torch.zeros(support, width))
        self.register_buffer("gamma", torch.ones(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.coefficients = nn.Parameter(torch.zeros(support, num_classes))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        rows = (rows - self.mean) / self.scale
        kernel = torch.exp(-self.gamma * torch.cdist(rows, self.support) ** 2)
        return kernel @ self.coefficients + self.bias

    @classmethod
    def from_support(
        cls,
        support: ArrayLike,
        coefficients: ArrayLike,
        bias: ArrayLike,
        gamma: float,
        mean: ArrayLike | None = None,
        scale: ArrayLike | None = None,
    ) -> KernelHead:
        """Return a kernel machine with the scaler before it.

        Parameters
        ----------
        support, coefficients, bias
            Rows [m, d] as the machine saw them (scaled), their coefficients [m, classes], and bias [classes].
        gamma
            Inverse squared width of the kernel.
        mean, scale
            ``mean_`` and ``scale_`` [d] of a StandardScaler, where there is one.
        """
        rows = np.asarray(support, dtype=np.float32)
        head = cls((rows.shape[1],), np.shape(coefficients)[1], len(rows))
        values = {"support": rows, "coefficients": coefficients, "bias": bias, "gamma": gamma}
        values |= {name: value for name, value in (("mean", mean), ("scale", scale)) if value is not None}
        tensors = {name: torch.from_numpy(np.array(value, dtype=np.float32)) for name, value in values.items()}
        head.load_state_dict({**head.state_dict(), **tensors})
        return head


Head = LinearHead | MLPHead | ConcatHead | KernelHead


def build_head(
    name: str, row_shape: tuple[int, ...], num_classes: int, hidden: int = 512, dropout: float = 0.5
) -> Head:
    """Return a new torch head for rows of `row_shape`.

    Raises
    ------
    UsageError
        If there is no such head, or it does not take rows of this shape.
    """
    if name == "linear":
        return LinearHead(row_shape, num_classes, dropout)
    if name == "mlp":
        return MLPHead(row_shape, num_classes, hidden, dropout)
    if name == "concat":
        return ConcatHead(row_shape, num_classes, hidden, dropout)
    known = ("linear", "mlp", "concat")
    raise UsageError(f"There is no torch head {name!r}; there are {', '.join(known)}.{suggestion(name, known)}")


def save_head(path: Path, head: Head, metadata: Mapping[str, Any]) -> None:
    """Write a head beside `path`: its tensors to ``.safetensors``, how to build it and `metadata` to ``.json``.

    Each file appears whole or not at all.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    description = {"format": FORMAT, "version": VERSION, "config": head.config, "metadata": dict(metadata)}
    _write(path.with_suffix(".safetensors"), safetensors.torch.save(tensors))
    _write(path.with_suffix(".json"), json.dumps(description, indent=2).encode())


def load_head(path: Path) -> tuple[Head, dict[str, Any]]:
    """Return the head that `save_head` wrote, in evaluation mode, and its metadata.

    Raises
    ------
    WeightsError
        If the files are missing, damaged, of an unknown version, or do not belong together.
    """
    described, stored = path.with_suffix(".json"), path.with_suffix(".safetensors")
    try:
        description = json.loads(described.read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(stored)
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsError(
            f"The head {described} with {stored.name} cannot be read: {error}. Train it again."
        ) from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise WeightsError(f"{described} does not describe a head of Cutpoint.")
    if description.get("version") != VERSION:
        raise WeightsError(
            f"{described} has version {description.get('version')!r}, and this Cutpoint reads version {VERSION}. "
            "Train the head again, or install the Cutpoint that wrote it."
        )
    try:
        config = dict(description["config"])
        name, row_shape = config.pop("head"), tuple(config.pop("row_shape"))
        head = KernelHead(row_shape, **config) if name == "rbf" else build_head(name, row_shape, **config)
        head.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{stored} does not hold the head that {described} describes: {error}") from error
    return head.eval(), description["metadata"]


def _width_of_vector(name: str, row_shape: tuple[int, ...]) -> int:
    if len(row_shape) != 1:
        places = "maps" if len(row_shape) == 3 else "tokens"
        raise UsageError(
            f"--head {name} takes vectors, and these rows are {places} of shape {[*row_shape]} "
            f"({math.prod(row_shape)} numbers). Cache them with --pool avg, max or avgmax, or take --head concat."
        )
    return row_shape[0]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(content)
    temporary.replace(path)
