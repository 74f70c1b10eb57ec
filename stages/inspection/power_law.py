"""How a score whose best is 1 grows with the number of training images: a power law, by weighted least squares.

score(n) = a - b n^-c, with the limit a, the distance b of a single image from it, and the exponent c. Hestness et
al. (2017), "Deep Learning Scaling is Predictable, Empirically"; for how many labels are needed, Mahmood et al. (2022),
"How Much More Data Do I Need? Estimating Requirements for Downstream Tasks" (CVPR).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import curve_fit

LEAST_SIZES = 4
"""Sizes below which three parameters are not fitted."""

EXPONENTS = (0.02, 2.0)
"""Bounds of the exponent; for images, 0.1 to 1 have been measured."""

_STARTS = (0.25, 0.5, 1.0)


@dataclass(frozen=True)
class PowerLaw:
    """score(n) = limit - scale n^-exponent."""

    limit: float
    scale: float
    exponent: float

    def __call__(self, sizes: ArrayLike) -> NDArray[np.float64]:
        """Return the score at each size."""
        return np.asarray(self.limit - self.scale * np.asarray(sizes, dtype=np.float64) ** -self.exponent)


def fit_power_law(
    sizes: NDArray[np.int64],
    scores: NDArray[np.float64],
    errors: NDArray[np.float64],
    start: PowerLaw | None = None,
) -> PowerLaw:
    """Return the power law of the least squares, each weighted by its standard error.

    The limit lies between 0 and 1, and the score does not fall.

    Parameters
    ----------
    sizes : ndarray of int64 [s]
        At least `LEAST_SIZES`, increasing.
    scores, errors : ndarray of float64 [s]
    start : PowerLaw, optional
        Where to begin (default: from several exponents, of which the best fit is kept).

    Raises
    ------
    ValueError
        If there are too few sizes.
    """
    if len(sizes) < LEAST_SIZES:
        raise ValueError(f"a power law needs {LEAST_SIZES} sizes, not {len(sizes)}")
    # in units of the largest size: the second parameter, the gap that is left there, is then of the size of the first
    largest = float(sizes[-1])
    relative = sizes / largest

    def law(n: NDArray[np.float64], limit: float, gap: float, exponent: float) -> NDArray[np.float64]:
        return np.asarray(limit - gap * n**-exponent)

    def loss(parameters: NDArray[np.float64]) -> float:
        return float((((law(relative, *parameters) - scores) / errors) ** 2).sum())

    if start is None:
        top = min(float(scores.max()) + 0.02, 0.999)
        starts = [(top, max(top - float(scores[-1]), 1e-3), exponent) for exponent in _STARTS]
    else:
        starts = [(start.limit, start.scale * largest**-start.exponent, start.exponent)]
    low, high = (0.0, 0.0, EXPONENTS[0]), (1.0, 1.0, EXPONENTS[1])
    solutions = [
        curve_fit(
            law,
            relative,
            scores,
            p0=np.clip(initial, low, high),
            sigma=errors,
            bounds=(low, high),
            max_nfev=20_000,
            ftol=1e-6,
            xtol=1e-6,
        )[0]
        for initial in starts
    ]
    limit, gap, exponent = min(solutions, key=loss)
    return PowerLaw(float(limit), float(gap * largest**exponent), float(exponent))
