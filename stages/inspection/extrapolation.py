"""What a learning curve says of more images than there are, how sure that is, and whether more labels would help."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.inspection.learning_curve import LearningCurve
from stages.inspection.power_law import EXPONENTS, LEAST_SIZES, PowerLaw, fit_power_law
from stages.inspection.sample_scores import mean_of_defined, scores_of_resamples
from stages.tasks.statistics import percentile_interval

FACTORS = (2, 4, 10)
"""Times as many training images as there are."""

WORTH = 0.01
"""Gain in the score from twice as many images from which on more labels are said to help."""

REPLICATES = 500

_OF_CHECK = 5
"""One in so many replicates is fitted for the check too, which is to tell a miss from chance and no more."""

LARGEST_MISS = 0.05
"""Error of the check, from half of the images to all, above which twice as many are not predicted either."""

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
class Check:
    """What a power law through the smaller sizes predicts for all images, beside what was measured.

    Attributes
    ----------
    predicted, measured : float
    miss : Interval
        Measured minus predicted, of the same draws and validation images.
    """

    predicted: float
    measured: float
    miss: Interval

    @property
    def failed(self) -> bool:
        """Whether the curve is not known to foretell twice as many images, which is what it is asked.

        It missed by `LARGEST_MISS` whatever the reason, or by `WORTH`, the gain that the answer is about, and by more
        than draws and validation images make by chance.
        """
        size = abs(self.miss.value)
        return size >= LARGEST_MISS or (size >= WORTH and not self.miss.low <= 0 <= self.miss.high)


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
    check : Check or None
        Of the score with all images, as predicted from those sizes that have at most half of them; None where these are
        too few.
    """

    law: PowerLaw
    limit: Interval
    at: dict[int, Interval]
    gains: dict[int, Interval]
    band: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    identified: bool
    check: Check | None

    @property
    def holds(self) -> bool:
        """Whether anything may be concluded: its own check, where there is one, did not fail."""
        return self.check is None or not self.check.failed


def extrapolate(curve: LearningCurve, seed: int, replicates: int = REPLICATES) -> Extrapolation | None:
    """Return the power law through a learning curve, with intervals; None where there are too few sizes for one.

    The intervals are of a bootstrap over the draws and over the validation images at once: either would change if the
    curve were measured again. They do not contain that the score may not follow a power law.
    """
    measured = curve.is_measured
    sizes, means, errors = curve.sizes[measured], curve.means[measured], curve.errors[measured]
    if len(sizes) < LEAST_SIZES:
        return None
    law = fit_power_law(sizes, means, errors)
    laws = []
    resampled = _resampled(curve, seed, replicates)[:, measured]
    for scores in resampled:
        defined = ~np.isnan(scores)
        if defined.sum() >= LEAST_SIZES:
            laws.append(fit_power_law(sizes[defined], scores[defined], errors[defined], law))
    largest = int(sizes[-1])
    now_scores = np.array([replicate(largest) for replicate in laws])
    by_size, gains = {}, {}
    for factor in FACTORS:
        later_scores = np.array([replicate(factor * largest) for replicate in laws])
        by_size[factor * largest] = Interval.of(float(law(factor * largest)), later_scores)
        gains[factor] = Interval.of(float(law(factor * largest) - law(largest)), later_scores - now_scores)
    curve_sizes = np.geomspace(sizes[0], FACTORS[-1] * largest, 100)
    low, high = np.quantile(np.stack([replicate(curve_sizes) for replicate in laws]), [0.025, 0.975], axis=0)
    limit = Interval.of(law.limit, np.array([replicate.limit for replicate in laws]))
    exponent_inside = EXPONENTS[0] * 1.01 < law.exponent < EXPONENTS[1] * 0.99
    identified = exponent_inside and limit.high - limit.low <= WIDEST_LIMIT
    check = _check(sizes, means, errors, resampled[::_OF_CHECK])
    return Extrapolation(law, limit, by_size, gains, (curve_sizes, low, high), identified, check)


def _check(
    sizes: NDArray[np.int64],
    means: NDArray[np.float64],
    errors: NDArray[np.float64],
    replicates: NDArray[np.float64],
) -> Check | None:
    """Return how well the sizes of at most half of the images foretell the largest; None where these are too few."""
    half = sizes <= sizes[-1] / 2
    if half.sum() < LEAST_SIZES:
        return None
    law = fit_power_law(sizes[half], means[half], errors[half])
    misses = []
    for scores in replicates:
        fitted = half & ~np.isnan(scores)
        if fitted.sum() >= LEAST_SIZES and not np.isnan(scores[-1]):
            predicted = fit_power_law(sizes[fitted], scores[fitted], errors[fitted], law)(sizes[-1])
            misses.append(scores[-1] - float(predicted))
    foretold, measured = float(law(sizes[-1])), float(means[-1])
    return Check(foretold, measured, Interval.of(measured - foretold, np.array(misses)))


def conclusion(curve: LearningCurve, extrapolation: Extrapolation | None) -> list[str]:
    """Return whether more labels would help, in sentences; the first is the answer."""
    if extrapolation is None:
        return [
            f"It cannot be said whether more labels would help: {int(curve.is_measured.sum())} sizes were measured, "
            f"and a curve needs {LEAST_SIZES}.",
            *_left_out(curve),
        ]
    if not extrapolation.holds:
        return [*_unanswered(curve, extrapolation), *_left_out(curve)]
    as_percent = curve.metric.as_percent
    gain = extrapolation.gains[2]
    gain_text = (
        f"twice as many labelled images would change {curve.metric.label} by "
        f"{_difference(gain.value, as_percent)}{' points' if as_percent else ''} "
        f"(95 % interval {_difference(gain.low, as_percent)} to {_difference(gain.high, as_percent)})"
    )
    if gain.value >= WORTH and gain.low > 0:
        lines = [f"More labels would help: {gain_text}."]
    elif gain.high < WORTH:
        lines = [f"More labels would hardly help: {gain_text}."]
    else:
        lines = [f"Whether more labels would help is not certain: {gain_text}."]
    if extrapolation.identified:
        lines.append(
            f"With any number of images of this kind this head ends at about "
            f"{_score(extrapolation.limit.value, as_percent)} ({_score(extrapolation.limit.low, as_percent)} to "
            f"{_score(extrapolation.limit.high, as_percent)})."
        )
    else:
        lines.append(
            f"Where the curve ends is not determined by these measurements (anywhere from "
            f"{_score(extrapolation.limit.low, as_percent)} to "
            f"{_score(extrapolation.limit.high, as_percent)}): trust twice as many images more than ten times."
        )
    if extrapolation.check is None:
        lines.append(
            f"This could not be checked: half of the images and fewer are not {LEAST_SIZES} sizes, which a curve needs."
        )
    else:
        lines.append(
            "As a check: fitted to half of the images and fewer, the curve predicts "
            f"{_predicted_and_measured(extrapolation.check, as_percent)}."
        )
    return lines + _left_out(curve)


def _unanswered(curve: LearningCurve, extrapolation: Extrapolation) -> list[str]:
    """Return that the curve failed its own check, and what was measured all the same, in sentences."""
    check, as_percent = extrapolation.check, curve.metric.as_percent
    assert check is not None
    measured = curve.is_measured
    sizes, means = curve.sizes[measured], curve.means[measured]
    half = int(np.abs(np.log(sizes / (sizes[-1] / 2))).argmin())
    return [
        "It cannot be said whether more labels would help: the power law that would say it does not describe these "
        f"scores. Fitted to half of the images and fewer, it predicts {_predicted_and_measured(check, as_percent)} "
        f"(off by {_difference(check.miss.value, as_percent)}{' points' if as_percent else ''}, 95 % interval "
        f"{_difference(check.miss.low, as_percent)} to {_difference(check.miss.high, as_percent)}).",
        f"Measured, without any curve: from {sizes[half]:,} to {sizes[-1]:,} images {curve.metric.label} went from "
        f"{_score(means[half], as_percent)} to {_score(means[-1], as_percent)}. Whether that goes on, more images "
        "alone can tell; more `draws`, or a larger `val_size`, make these scores surer.",
    ]


def _predicted_and_measured(check: Check, as_percent: bool) -> str:
    return f"{_score(check.predicted, as_percent)} for all of them; measured {_score(check.measured, as_percent)}"


def _left_out(curve: LearningCurve) -> list[str]:
    """Return which draws have no score, in a sentence; none where all have one."""
    num_draws = curve.scores.shape[1]
    lacking = [
        f"{num_draws - scored} of {size:,} images"
        for size, scored in zip(curve.sizes.tolist(), curve.scored.tolist(), strict=True)
        if scored < num_draws
    ]
    if not lacking:
        return []
    return [
        f"Left out are draws of too few images to train a head, or to have a score of its {curve.metric.label}: "
        f"{', '.join(lacking)}."
    ]


def _score(value: float, as_percent: bool) -> str:
    return f"{100 * value:.1f} %" if as_percent else f"{value:.3f}"


def _difference(value: float, as_percent: bool) -> str:
    return f"{100 * value:+.1f}" if as_percent else f"{value:+.3f}"


def _resampled(curve: LearningCurve, seed: int, replicates: int) -> NDArray[np.float64]:
    """Return mean scores, [replicates, s], of draws and validation images drawn with replacement.

    The draws of one number are nested, so that a whole draw is taken or left.
    """
    generator = np.random.default_rng(seed)
    sizes, draws = curve.scores.shape
    images = curve.images
    counts = np.empty((replicates, images))
    picks = np.empty((replicates, draws), dtype=np.int64)
    for replicate in range(replicates):
        counts[replicate] = generator.multinomial(images, np.full(images, 1 / images))
        picks[replicate] = generator.integers(draws, size=draws)
    kept = [samples for by_draw in curve.samples for samples in by_draw]
    missing = np.full(replicates, np.nan, dtype=np.float32)
    columns = [missing if one is None else scores_of_resamples(curve.metric, one, counts) for one in kept]
    scores = np.stack(columns, axis=1).reshape(replicates, sizes, draws)
    means = [mean_of_defined(each[:, picked]) for each, picked in zip(scores, picks, strict=True)]
    return np.array(means, dtype=np.float64)
