"""Which rows can be trusted to hold numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def finite_rows(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows of a float array [n, ...] hold finite numbers alone.

    Of float16, which NumPy computes in float32 number by number, by the bits of the exponents.
    """
    halves = rows.dtype == np.float16
    finite = rows.view(np.uint16) & np.uint16(0x7C00) != 0x7C00 if halves else np.isfinite(rows)
    return np.asarray(finite.all(axis=tuple(range(1, rows.ndim))))
