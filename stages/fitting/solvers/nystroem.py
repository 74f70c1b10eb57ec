"""Kernels of rows by Nystroem's method: what a linear model of them sees, in place of all products of rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics.pairwise import rbf_kernel

from stages.fitting.solvers.symmetric import eigendecomposed
from stages.fitting.standardize import ScaledRows, Scaling
from stages.network.heads.linear import LinearHead
from stages.network.heads.rbf import RBFHead
from stages.runtime.products import product, squared_distances

_CPU = torch.device("cpu")

KERNEL_UP_TO = 10_000
"""Rows up to which every row is compared with every other: the time grows with their square."""

MAP_BYTES = 96
"""What the roots take that make rows what Nystroem's method sees, for each pair of landmarks."""

_BLOCK_ROWS = 4096

_SHORTEST = 1e-30
"""Mean squared length of rows below which they count as of this one: of what float32 holds the widest kernel."""


def landmarks_within(room: int, each: int, square: int) -> int:
    """Return how many landmarks find room in so many bytes: each * L + square * L**2 <= room."""
    return int((math.sqrt(each**2 + 4 * square * room) - each) / (2 * square))


class KernelScaler:
    """Scaled copies of rows, and the width of the kernel: `ratio` of the common one, 1 / (d * variance of all).

    Parameters
    ----------
    center : ndarray of float32 [d]
        What has been taken from rows.
    fitted : ScaledRows
    squared_length : float
        Of scaled rows, d times the variance of all their numbers.
    ratio : float
    """

    def __init__(
        self, center: NDArray[np.float32], fitted: ScaledRows, squared_length: float, ratio: float = 1.0
    ) -> None:
        self.center, self.fitted, self.l2 = center, fitted, fitted.factor is not None
        self.gamma = ratio / max(squared_length, _SHORTEST) if squared_length else ratio

    @classmethod
    def of_rows(
        cls, center: NDArray[np.float32], scaling: Scaling, rows: NDArray[np.float32], ratio: float = 1.0
    ) -> KernelScaler:
        """Return what scales as these rows tell, less the center, all of which or some tell the width."""
        fitted = ScaledRows.fit(rows, scaling, center)
        sample = fitted.sample(torch.arange(0, len(rows), max(len(rows) // KERNEL_UP_TO, 1)))
        return cls(center, fitted, sample.shape[1] * float(sample.var(correction=0)), ratio)

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return rows as the machine sees them, float32 [n, d]."""
        return np.asarray(self.fitted.of(rows).sample(torch.arange(len(rows))).numpy())

    def head(
        self,
        support: NDArray[np.float32],
        coefficients: NDArray[np.float64],
        bias: NDArray[np.float64],
        places: NDArray[np.int64],
    ) -> RBFHead:
        """Return a machine as a torch head that knows at which places of the rows its support stood."""
        mean = None if self.l2 else self.fitted.offset.numpy() + self.center
        scale = None if self.l2 else self.fitted.scale.numpy()
        head = RBFHead.from_support(support, coefficients, bias, self.gamma, mean, scale, l2=self.l2)
        head.places = places
        return head


class SomeRows(Protocol):
    """Rows of which some are taken by their places."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.float32]: ...


class NystroemMap:
    """What Nystroem's method (Williams & Seeger 2001) makes of rows, whose products are near the RBF kernel.

    With landmarks L and a root R of K(L, L)^-1 = R R', a row x becomes K(x, L) R. Where all rows are landmarks, it is
    exact.

    Parameters
    ----------
    scaler : KernelScaler
    rows : ndarray of float32 [n, d], or what returns some of them as that would
        Of which the landmarks are drawn.
    seed : int
    landmarks : int
        At most so many.
    root_of : callable, optional
        From K(L, L), float64 [landmarks, landmarks], to R; by its eigenvectors, if left out.
    device : torch.device
        Where rows are compared.
    """

    def __init__(
        self,
        scaler: KernelScaler,
        rows: SomeRows,
        seed: int,
        landmarks: int,
        root_of: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
        device: torch.device = _CPU,
    ) -> None:
        self.scaler, self.device = scaler, device
        self.places = np.sort(np.random.default_rng(seed).choice(len(rows), min(landmarks, len(rows)), replace=False))
        self.landmarks = scaler(rows[self.places])
        kernel = rbf_kernel(self.landmarks, self.landmarks, scaler.gamma).astype(np.float64)
        self.root = (root_of or _eigenvector_root)(kernel).astype(np.float32)

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return rows as a linear model is to see them, float32 [n, landmarks]."""
        mapped = np.empty((len(rows), self.root.shape[1]), dtype=np.float32)
        landmarks, root = (torch.from_numpy(part).to(self.device) for part in (self.landmarks, self.root))
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = torch.from_numpy(self.scaler(rows[start : start + _BLOCK_ROWS])).to(self.device)
            kernel = squared_distances(block, landmarks).mul_(-self.scaler.gamma).exp_()
            mapped[start : start + _BLOCK_ROWS] = product(kernel, root).cpu().numpy()
        return mapped

    def head(self, linear: LinearHead) -> RBFHead:
        """Return scaling, kernel and a linear model of mapped rows as one head around the landmarks."""
        output = linear.output
        coefficients = self.root.astype(np.float64) @ output.weight.detach().numpy().T.astype(np.float64)
        return self.scaler.head(self.landmarks.copy(), coefficients, output.bias.detach().numpy(), self.places)


def _eigenvector_root(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return V e^-1/2 for a kernel V e V'; what is next to nothing of e counts as the least that is something."""
    values, vectors = eigendecomposed(kernel)
    return np.asarray(vectors / np.sqrt(np.maximum(values, 1e-8 * values[-1])))
