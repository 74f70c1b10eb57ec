"""A support vector machine with an RBF kernel, as a module that holds its support vectors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from stages.network.heads.base import Head, vector_width
from stages.runtime.products import squared_distances


class RBFHead(Head):
    """Radial basis functions around stored rows: float [b, d] -> logits [b, classes].

    ``logits = exp(-gamma * |z - support|^2) @ coefficients + bias`` with ``z = (x - mean) / scale``: what a support
    vector machine with the RBF kernel computes, one against the rest. With ``l2``, x has unit length.

    Attributes
    ----------
    places : ndarray of int64 [m], optional
        Which of the rows that the machine was fitted to are stored; not known of a head that was loaded.
    """

    places: NDArray[np.int64] | None = None

    support: torch.Tensor
    gamma: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, row_shape: tuple[int, ...], out_features: int, support: int, *, l2: bool = False) -> None:
        super().__init__("rbf", row_shape, out_features, support=support, l2=l2)
        width = vector_width("rbf", row_shape)
        self.register_buffer("support", torch.zeros(support, width))
        self.register_buffer("gamma", torch.ones(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.coefficients = nn.Parameter(torch.zeros(support, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        rows = (self.l2_normalize(rows) - self.mean) / self.scale
        kernel = torch.exp(-self.gamma * squared_distances(rows, self.support))
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
        *,
        l2: bool = False,
    ) -> RBFHead:
        """Return a kernel machine with the scaler before it.

        Parameters
        ----------
        support, coefficients, bias
            Rows [m, d] as the machine saw them (scaled), which are taken over where they are float32, their
            coefficients [m, classes], and bias [classes].
        gamma
            Inverse squared width of the kernel.
        mean, scale
            ``mean_`` and ``scale_`` [d] of a StandardScaler, where there is one.
        l2
            Whether the machine, and the scaler before it, saw rows of unit length.
        """
        rows = np.asarray(support, dtype=np.float32)
        head = cls((rows.shape[1],), np.shape(coefficients)[1], len(rows), l2=l2)
        values = {"coefficients": coefficients, "bias": bias, "gamma": gamma}
        values |= {name: value for name, value in (("mean", mean), ("scale", scale)) if value is not None}
        tensors = {name: torch.from_numpy(np.array(value, dtype=np.float32)) for name, value in values.items()}
        head.load_state_dict({**head.state_dict(), **tensors, "support": torch.from_numpy(rows)}, assign=True)
        return head
