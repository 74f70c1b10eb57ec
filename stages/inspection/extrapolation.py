"""What a learning curve says of more images than there are, how sure that is, and whether more labels would help."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.inspection.learning_curve import LearningCurve
from stages.inspection.power_law import EXPONENTS, LEAST_SIZES, PowerLaw, fit_power_law
from stages.tasks.statistics import percentile_interval

FACTORS = (2, 4, 10)
"""Times as many training images as there are."""

WORTH = 0.01
"""Gain in the score from twice as many images from which on more labels are said to help."""

REPLICATES = 500

WIDEST_LIMIT = 0.1
"""Width of the interval of the limit above which the fit does not determine where the curve ends."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, replicates: NDArray[np.float64]) -> Interval:
        """Return the interval that holds 95 % of the replicates, and the value."""
        low, high = percentile_interval(replicates)
        return cls(float(value), float(min(low, value)), float(max(high, value)))


@dataclass(frozen=True)
class Extrapolation:
    """A fitted power law, and what it says.

    Attributes
    ----------
    law : PowerLaw
    limit : Interval
        Score with any number of images of this kind.
    at : dict of int to Interval
        Score by number of training images.
    gains : dict of int to Interval
        By factor: how much higher a score so many times the images bring.
    band : (sizes float64 [m], low float64 [m], high float64 [m])
        95 % interval of the curve, for a plot.
    identified : bool
        Whether the curve bends enough to say where it ends.
    checked : tuple of float or None
        Score with all images as predicted from those sizes that have at most half of them, and as measured; None
        where these are too few.
    """

    law: PowerLaw
    limit: Interval
    at: dict[int, Interval]
    gains: dict[int, Interval]
    band: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    identified: bool
    checked: tuple[float, float] | None


def extrapolate(curve: LearningCurve, seed: int, replicates: int = REPLICATES) -> Extrapolation | None:
    """Return the power law through a learning curve, with intervals; None where there are too few sizes for one.

    The intervals are of a bootstrap over the draws and over the validation images at once: either would change if the
    curve were measured again. They do not contain that the score may not follow a power law.
    """
    sizes = curve.sizes
    if len(sizes) < LEAST_SIZES:
        return None
    errors = curve.errors
    law = fit_power_law(sizes, curve.scores.mean(axis=1), errors)
    laws = [fit_power_law(sizes, accuracies, errors, law) for accuracies in _resampled(curve, seed, replicates)]
    largest = int(sizes[-1])
    now_accuracies = np.array([replicate(largest) for replicate in laws])
    by_size, gains = {}, {}
    for factor in FACTORS:
        later_accuracies = np.array([replicate(factor * largest) for replicate in laws])
        by_size[factor * largest] = Interval.of(float(law(factor * largest)), later_accuracies)
        gains[factor] = Interval.of(float(law(factor * largest) - law(largest)), later_accuracies - now_accuracies)
    curve_sizes = np.geomspace(sizes[0], FACTORS[-1] * largest, 100)
    low, high = np.quantile(np.stack([replicate(curve_sizes) for replicate in laws]), [0.025, 0.975], axis=0)
    limit = Interval.of(law.limit, np.array([replicate.limit for replicate in laws]))
    exponent_inside = EXPONENTS[0] * 1.01 < law.exponent < EXPONENTS[1] * 0.99
    identified = exponent_inside and limit.high - limit.low <= WIDEST_LIMIT
    half = sizes <= largest / 2
    check = None
    if half.sum() >= LEAST_SIZES:
        earlier = fit_power_law(sizes[half], curve.scores.mean(axis=1)[half], errors[half])
        check = float(earlier(largest)), float(curve.scores[-1].mean())
    return Extrapolation(law, limit, by_size, gains, (curve_sizes, low, high), identified, check)


def conclusion(curve: LearningCurve, extrapolation: Extrapolation | None) -> list[str]:
    """Return whether more labels would help, in sentences; the first is the answer."""
    if extrapolation is None:
        return [
            f"It cannot be said whether more labels would help: {len(curve.sizes)} sizes were measured, and a curve "
            f"needs {LEAST_SIZES}."
        ]
    gain = extrapolation.gains[2]
    gain_text = (
        f"twice as many labelled images would change {curve.metric.label} by {_points(gain.value)} points "
        f"(95 % interval {_points(gain.low)} to {_points(gain.high)})"
    )
    if gain.value >= WORTH and gain.low > 0:
        lines = [f"More labels would help: {gain_text}."]
    elif gain.high < WORTH:
        lines = [f"More labels would hardly help: {gain_text}."]
    else:
        lines = [f"Whether more labels would help is not certain: {gain_text}."]
    if extrapolation.identified:
        lines.append(
            f"With any number of images of this kind this head ends at about {extrapolation.limit.value:.1%} "
            f"({extrapolation.limit.low:.1%} to {extrapolation.limit.high:.1%})."
        )
    else:
        lines.append(
            f"Where the curve ends is not determined by these measurements (anywhere from "
            f"{extrapolation.limit.low:.1%} to "
            f"{extrapolation.limit.high:.1%}): trust twice as many images more than ten times."
        )
    if extrapolation.checked is not None:
        predicted, measured = extrapolation.checked
        lines.append(
            f"As a check: fitted to half of the images and fewer, the curve predicts {predicted:.1%} for all of them; "
            f"measured {measured:.1%}."
        )
    return lines


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _resampled(curve: LearningCurve, seed: int, replicates: int) -> NDArray[np.float64]:
    """Return mean scores, [replicates, s], of draws and validation images drawn with replacement.

    The draws of one number are nested, so that a whole draw is taken or left.
    """
    generator = np.random.default_rng(seed)
    sizes, draws, images = curve.per_sample.shape
    flat = curve.per_sample.reshape(sizes * draws, images).astype(np.float32)
    means = np.empty((replicates, sizes))
    for replicate in range(replicates):
        times = generator.multinomial(images, np.full(images, 1 / images)).astype(np.float32)
        scores = (flat @ times / images).reshape(sizes, draws)
        means[replicate] = scores[:, generator.integers(draws, size=draws)].mean(axis=1)
    return means
