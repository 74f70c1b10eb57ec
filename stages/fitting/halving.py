"""Which settings of a dear head are worth a fit to all rows: successive halving over depths and weightings.

Rung one is ridge on all rows under every set of depths and every weighting, which is cheap and done in any case; the
better half goes on. Rung two is the head itself on a part of the rows, `SHARE` of them: the best few are then fitted to
all (Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization", section 3,
with a first rung of another, cheaper learner). Of few rows a part says little and saves little, so that rung one alone
decides. Nothing here depends on a clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.config.head_registry import find_head
from stages.config.heads import BlockWeight, DepthSet
from stages.fitting.depths import best_scores
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import get_fit
from stages.fitting.problem import FitProblem
from stages.runtime.float32 import float32_products

SHARE = 4
"""One in so many rows is in the second rung."""

FEWEST_ROWS = 250
"""Rows of the second rung below which it is left out."""


class DepthSetting(NamedTuple):
    """A set of depths, and what a block of it counts."""

    depths: DepthSet
    block_weight: BlockWeight


def ranked_settings(candidates: Sequence[Mapping[str, Any]]) -> list[DepthSetting]:
    """Return the settings that a head was searched over, the one with the best score first, of equals the smaller.

    Parameters
    ----------
    candidates : sequence of mapping
        What was tried, as a result has it: `depths`, `block weight` and `score`, of which the higher is the better.
        Those that were fitted to a part of the rows, and are marked so, do not count.
    """
    scores: dict[DepthSetting, float] = {}
    for candidate in candidates:
        if "rows" in candidate or "depths" not in candidate or candidate.get("score") is None:
            continue
        setting = DepthSetting(candidate["depths"], candidate["block weight"])
        scores[setting] = max(float(candidate["score"]), scores.get(setting, -np.inf))
    return sorted(scores, key=lambda setting: -scores[setting])


@float32_products()
def halve(name: str, problem: FitProblem, settings: Sequence[DepthSetting]) -> list[DepthSetting]:
    """Return the better half of some settings, as ranked by a head on a part of the rows.

    Parameters
    ----------
    name : str
        Of a head that is fitted, and not trained in epochs.
    problem : FitProblem
        Of rows of several depths, in memory.
    settings : sequence of DepthSetting
        From the best down, by the rung before.

    Returns
    -------
    list of DepthSetting
        From the best down.
    """
    kept = list(settings[: (len(settings) + 1) // 2])
    part = _part(problem)
    if part is None or len(kept) < 2:
        return kept
    assert problem.taps is not None
    kind, fit = find_head(name), get_fit(name)
    scored: dict[DepthSetting, float] = {}
    for depths in dict.fromkeys(setting.depths for setting in kept):
        weights = tuple(setting.block_weight for setting in kept if setting.depths == depths)
        config = replace(problem.config, depths=(depths,), block_weight=weights)
        found = best_scores(kind, fit, problem.taps, replace(part, config=config))
        scored |= {DepthSetting(depths, choice.weighting): score for choice, score in found}
    return sorted(kept, key=lambda setting: -scored[setting])


def _part(problem: FitProblem) -> FitProblem | None:
    """Return a problem of one in `SHARE` rows of each split, with their share of every stratum; None of too few."""
    train, val = problem.train, problem.val
    if not isinstance(train, FeatureRows) or not isinstance(val, FeatureRows):
        return None
    if len(train) + len(val) < SHARE * FEWEST_ROWS:
        return None
    parts = [_thinned(rows, problem) for rows in (train, val)]
    return replace(problem, train=parts[0], val=parts[1], compared=False, shared={})


def _thinned(rows: FeatureRows, problem: FitProblem) -> FeatureRows:
    """Return every so-manieth row of each stratum, in random order by the seed of the problem."""
    strata = problem.task.strata(rows.labels)
    order = np.random.default_rng(problem.seed).permutation(len(rows))
    if strata is not None:
        numbers = strata if strata.ndim == 1 else _numbered(strata)
        order = order[np.argsort(numbers[order], kind="stable")]
    return rows.at(np.sort(order[::SHARE]))


def _numbered(membership: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return a number for each pattern of labels."""
    return np.asarray(np.unique(membership, axis=0, return_inverse=True)[1]).reshape(-1)
