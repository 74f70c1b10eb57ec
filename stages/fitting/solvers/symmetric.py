"""What closed fits are made of: a symmetric matrix decomposed, and a system of equations solved in its place."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

_ROUNDING = 1e-6
"""Error of eigenvalues in float32, against the largest: some times what a number is rounded by."""


def eigendecomposed(
    matrix: NDArray[np.float64], within: float = 0.0, device: torch.device | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return eigenvalues, float64 [n], increasing, and eigenvectors, float64 [n, n], side by side.

    By torch: on two cores of an AMD EPYC SciPy took three to four times as much of the processor for n = 2,000.

    Parameters
    ----------
    matrix : ndarray of float64 [n, n]
        Symmetric; the lower triangle is read.
    within : float
        An error of the eigenvalues that does no harm. Where float32 makes less, it is computed in that, in a third of
        the time.
    device : torch.device, optional
        Where it is computed; on the CPU, if left out, or where the device's solver does not converge: where many
        eigenvalues are equal, as of features that are always 0, LAPACK does.
    """
    given = torch.from_numpy(matrix).to(device or "cpu")
    rounded = _ROUNDING * float(torch.linalg.vector_norm(given))  # no eigenvalue is larger than the norm
    given = given.float() if rounded < within else given
    try:
        values, vectors = torch.linalg.eigh(given)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # documented, if not declared
        if given.device.type == "cpu":
            raise
        values, vectors = torch.linalg.eigh(given.cpu())
    return values.double().cpu().numpy(), vectors.double().cpu().numpy()


def solved_in_place(
    matrix: NDArray[np.float64], right: NDArray[np.float64], device: torch.device | None = None
) -> NDArray[np.float64] | None:
    """Return the solution X, float64 [n, k], of A X = B, or None where A is not positive definite.

    By Cholesky's decomposition, U'U = A, which is written over the matrix: for n = 10,000 a copy is 0.8 GB, and
    `torch.cholesky_solve` makes two.

    Parameters
    ----------
    matrix : ndarray of float64 [n, n]
        A, symmetric, by rows one after the other; the lower triangle is read, and then lost.
    right : ndarray of float64 [n, k]
        B.
    device : torch.device, optional
        Where it is computed; another one than the CPU takes copies, and leaves the matrix as it is.
    """
    if device is not None and device.type != "cpu":
        lower, failed = torch.linalg.cholesky_ex(torch.from_numpy(matrix).to(device))
        if failed:
            return None
        return np.asarray(torch.cholesky_solve(torch.from_numpy(right).to(device), lower).cpu().numpy())
    upper = torch.from_numpy(matrix).T  # the lower triangle by rows is the upper one by columns, as LAPACK has it
    failed = torch.zeros((), dtype=torch.int32)
    torch.linalg.cholesky_ex(upper, upper=True, out=(upper, failed))
    if failed:
        return None
    halfway = torch.linalg.solve_triangular(upper.T, torch.from_numpy(right), upper=False)
    return np.asarray(torch.linalg.solve_triangular(upper, halfway, upper=True).numpy())
