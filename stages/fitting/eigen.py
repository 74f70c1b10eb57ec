"""The decomposition of a symmetric matrix that closed fits are made of."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


def eigendecomposed(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return eigenvalues, float64 [n], increasing, and eigenvectors, float64 [n, n], side by side.

    By torch: on two cores of an AMD EPYC SciPy took three to four times as much of the processor for n = 2,000.
    """
    values, vectors = torch.linalg.eigh(torch.from_numpy(matrix))
    return values.numpy(), vectors.numpy()
