"""How sure a score is: one 95 % interval of any metric, of independent images or of groups of them.

How often each kind of interval holds the true score was measured: ``docs/trust.md``, ``benchmarks/intervals.py``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.tasks.base import Metric, Statistics
from stages.tasks.proportions import LEVEL, wilson
from stages.tasks.standard_error import standard_error
from stages.tasks.statistics import RESAMPLES, expanded_interval, replicates
from stages.tasks.units import Units

FEWEST_GROUPS = 10
"""Groups from which on groups are resampled; below, a Student's t interval is made of what each of them scores."""

NO_TWO_DIFFER = "every resample scores the same: these images do not tell how sure it is"
ONE_GROUP = "one group: how groups differ is not known, and its images are taken as independent"


class Interval(NamedTuple):
    """The 95 % interval of a score.

    Attributes
    ----------
    low, high : float
        nan where the metric is not defined for any resample.
    method : str
        How it was made, in words.
    groups : int, optional
        How many groups the images are of; None where each is independent of the others.
    """

    low: float
    high: float
    method: str
    groups: int | None = None


def interval(
    metric: Metric,
    statistics: Statistics,
    groups: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    units: str = "groups",
    widened: float = 1.0,
) -> Interval:
    """Return the 95 % interval of a metric.

    - Where a sample is right or wrong: Wilson's interval, of as many images as those of the groups are worth. That is
      the number of independent images whose share would have the variance that the groups' shares show (Korn and
      Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts estimated from
      survey data"), no more than there are and, where all of a group are alike, as many as there are groups. The
      quantile is that of t, with as many degrees of freedom as groups have a wrong image, or a right one, whichever
      are fewer, and never more than the groups less one: a variance that few wrong images show is little known.
    - Else the bootstrap over images or groups with the quantiles of an expanded percentile interval (Hesterberg 2015,
      "What teachers should know about the bootstrap", section 5.3), which makes up for few groups.
    - Below ten groups: Student's t with the groups less one degrees of freedom, of the groups' scores, which are the
      pseudo-values of the jackknife (Tukey 1958, "Bias and confidence in not quite large samples").
    - Of a metric between 0 and 1 the last two are at least as wide as Wilson's interval of as many images as have
      their variance, at most as many as there are, unless each image has many parts that count: near 1 a resample has
      no mistake to vary.

    Parameters
    ----------
    metric : Metric
    statistics : array [n, ...]
        What the task keeps of each sample.
    groups : array [n], optional
        What samples that are not independent of each other belong to.
    seed : int
    resamples : int
    units : str
        What the groups are called in words.
    widened : float
        By how much the standard error is larger than these samples say: see ``stages.tasks.seeds``.
    """
    drawn = Units.of(len(statistics), groups)
    if drawn.index is not None and drawn.count == 1 and len(statistics) > 1:
        alone = interval(metric, statistics, seed=seed, resamples=resamples, widened=widened)
        return alone._replace(method=f"{alone.method}; {ONE_GROUP}", groups=1)
    count = None if drawn.index is None else drawn.count
    right = right_or_wrong(metric, statistics)
    if right is not None:
        low, high = _of_share(right, drawn, widened)
        return Interval(low, high, _words("Wilson", drawn, units), count)
    score = metric.score(statistics)
    if math.isnan(score):
        return Interval(math.nan, math.nan, "not defined for these images", count)
    if drawn.index is not None and drawn.count < FEWEST_GROUPS:
        error = standard_error(metric, statistics, groups)
        margin = quantile(drawn.count - 1) * error * widened
        low, high, name = score - margin, score + margin, "Student's t"
    else:
        made = replicates(metric, (statistics,), drawn, seed, resamples)[0]
        low, high = (score + widened * (end - score) for end in expanded_interval(made, drawn.count))
        error, name = float(np.nanstd(made)) if not np.isnan(made).all() else math.nan, "bootstrap"
    if metric.limits == (0.0, 1.0) and not math.isnan(error):
        low, high = _as_wide_as_a_share(low, high, score, error * widened, drawn, parts=metric.of_parts)
    if low == high:
        name = f"{name}, {NO_TWO_DIFFER}"
    return Interval(max(low, metric.limits[0]), min(high, metric.limits[1]), _words(name, drawn, units), count)


def right_or_wrong(metric: Metric, statistics: Statistics) -> NDArray[np.bool_] | None:
    """Return whether each sample is right, bool [n]; None of a metric that knows more than that."""
    scores = None if metric.per_sample is None else metric.per_sample(statistics)
    return scores if scores is not None and scores.dtype == np.bool_ else None


def quantile(degrees: float) -> float:
    """Return the 97.5 % quantile of Student's t; of the normal distribution for endless degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    upper = (1 + LEVEL) / 2
    return float(ndtri(upper) if math.isinf(degrees) else stdtrit(degrees, upper))


def _of_share(right: NDArray[np.bool_], units: Units, widened: float) -> tuple[float, float]:
    share, normal = float(right.mean()), quantile(math.inf)
    if units.index is None:
        return wilson(share, len(right) / widened**2, normal)
    if (alone := units.as_one_each(right)) is not None:
        return wilson(share, len(alone) / widened**2, normal)
    hits = units.sums(right.astype(np.int64))
    mixed = min(int((hits > 0).sum()), int((hits < units.sizes).sum()), units.count - 1)
    worth = units.effective
    if mixed:
        variance = units.error_of_mean(right.astype(np.float64)) ** 2
        shown = share * (1 - share) / variance if variance else len(right)
        worth = min(max(min(shown, len(right)) * (normal / quantile(mixed)) ** 2, worth), len(right))
    return wilson(share, worth / widened**2, normal)


def _as_wide_as_a_share(
    low: float, high: float, score: float, error: float, units: Units, *, parts: bool
) -> tuple[float, float]:
    spread = score * (1 - score)
    worth = spread / error**2 if spread > 0 and error > 1e-9 else units.effective
    degrees = math.inf if units.index is None else units.count - 1
    worth = worth if parts else min(worth, float(units.sizes.sum()))
    ends = wilson(min(max(score, 0.0), 1.0), worth, quantile(degrees))
    return min(low, ends[0]), max(high, ends[1])


def _words(name: str, drawn: Units, units: str) -> str:
    if drawn.index is None:
        return name
    few = f", t with {drawn.count - 1} degrees of freedom" if drawn.count < FEWEST_GROUPS else ""
    return f"{name} over {drawn.count:,} {units}{few}"
