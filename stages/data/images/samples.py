"""Pixels as they stand in a file, of any type and any number of channels, and what they become in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.config.pixel_values import IntensityRange
from stages.data.images.reading import CLIPPED, DEEP, FEW_LEVELS, LEVELS_WARNED, STRETCHED

_FLOATS = (np.finfo(np.float32), np.finfo(np.float64))
_NO_DATA_LOWEST = (-9999.0, -99999.0, -32768.0, *(float(limits.min) for limits in _FLOATS))
_NO_DATA_HIGHEST = (1e20, float(np.float32(1e20)), *(float(limits.max) for limits in _FLOATS))
"""Values that programs write where they have measured nothing, if they are an image's lowest or highest."""


@dataclass(frozen=True)
class Samples:
    """The values of one page.

    Attributes
    ----------
    values : array [H, W, C]
        Of any type.
    black, white : float or None
        What the file says is black and white; None where it does not say it, or cannot.
    inverted : bool
        Whether the file says that its lowest value is white.
    no_data : float or None
        The value of pixels without one, where the file names it.
    has_alpha : bool
        Whether the last channel says how opaque the others are.
    """

    values: NDArray[Any]
    black: float | None = None
    white: float | None = None
    inverted: bool = False
    no_data: float | None = None
    has_alpha: bool = False

    @property
    def is_deep(self) -> bool:
        """Whether there is more in it than 8 bits."""
        return self.values.dtype != np.uint8


def eight_bits(samples: Samples, intensity: IntensityRange, remarks: list[str]) -> NDArray[np.uint8]:
    """Return the values as 0..255, [H, W, C]; those of 8 bits as they are.

    Where neither the file nor `intensity` says what is black and white, integers within 0..65535 are taken as 16 bits
    and floats within 0..1 run from black to white; others run from the darkest to the brightest value of the image.
    Pixels without a value (NaN, what the file names as such, and the lowest of well-known stand-ins) are black,
    infinite ones black or white.

    Parameters
    ----------
    samples : Samples
    intensity : IntensityRange
        Resolved.
    remarks : list of str
        Gets what there is to say of the image.
    """
    if not samples.is_deep:
        return 255 - samples.values if samples.inverted else samples.values
    remarks.append(DEEP)
    values = samples.values
    missing = without_value(samples)
    measured = values[~missing & np.isfinite(values)] if values.dtype.kind == "f" or missing.any() else values
    black, white = _range(samples, measured, intensity, remarks)
    if measured.size and (measured.min() < black or measured.max() > white):
        remarks.append(CLIPPED)
    scale = 255 / (white - black) if white > black else 0.0
    with np.errstate(invalid="ignore", over="ignore"):  # infinities and NaN have their own places below
        scaled = (values.astype(np.float64) - black) * scale
    if values.dtype.kind == "f":
        scaled = np.where(np.isposinf(values), 255.0, np.where(np.isneginf(values), 0.0, scaled))
    scaled[missing] = 0.0
    levels = np.round(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)
    if samples.inverted:
        levels = np.where(missing, np.uint8(0), 255 - levels)
    if np.count_nonzero(np.bincount(levels.reshape(-1), minlength=256)) < LEVELS_WARNED:
        remarks.append(FEW_LEVELS)
    return levels


def without_value(samples: Samples) -> NDArray[np.bool_]:
    """Return which values, [H, W, C], stand for none: NaN, what the file names, and well-known stand-ins."""
    values = samples.values
    missing: NDArray[np.bool_] = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    if samples.no_data is not None:
        missing |= values == samples.no_data
        return missing
    if values.dtype.kind in "if":
        finite = values[np.isfinite(values)]
        darkest, brightest = (finite.min(), finite.max()) if finite.size else (0, 0)
        if darkest < brightest:
            if float(darkest) in _NO_DATA_LOWEST:
                missing |= values == darkest
            if float(brightest) in _NO_DATA_HIGHEST:
                missing |= values == brightest
    return missing


def _range(
    samples: Samples, measured: NDArray[Any], intensity: IntensityRange, remarks: list[str]
) -> tuple[float, float]:
    if intensity.kind == "values":
        return intensity.low, intensity.high
    if samples.white is not None:
        return samples.black or 0.0, samples.white
    darkest, brightest = (float(measured.min()), float(measured.max())) if measured.size else (0.0, 0.0)
    usual_white = 1.0 if samples.values.dtype.kind == "f" else 65535.0
    if darkest >= 0 and brightest <= usual_white:
        return 0.0, usual_white
    remarks.append(STRETCHED)
    return darkest, brightest
