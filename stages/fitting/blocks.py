"""Heads on rows of several parts, each with a weight of its own: images, and columns of a table beside them.

Ridge and logistic regression penalize the squares of all coefficients alike, and by squares too the others compare
rows: a thousand numbers of an image drown five columns that say more than they do. A part that is multiplied by w has
its penalty divided by w^2; so a weight for each part is a penalty for each, for any head at all, and it is chosen as C
is, on rows that are no test rows. Before that, each part is brought to the same mean squared length.

A torch head learns what the parts weigh: it gets an encoder for each (`stages.network.heads.blocks.JoinedHead`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.config.head_registry import HeadKind
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.out_of_fold import best_variants
from stages.fitting.problem import FitProblem, RowBlocks
from stages.fitting.registry import FitFunction
from stages.fitting.result import HeadFit
from stages.fitting.standardize import Scaling, moderated_std
from stages.network.heads.blocks import weigh_blocks

WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Weights of the other parts that are tried, against 1 of the first."""

_SQUARED_LENGTH = 1000.0
"""Mean squared length of a part of weight 1, about that of standardized features: for these the values of C are."""


def fit_blocks(kind: HeadKind, fit: FitFunction, blocks: RowBlocks, problem: FitProblem) -> HeadFit:
    """Return a head fitted to rows of several parts, with the weights of the parts that score best.

    They are chosen one part after the other, the first having weight 1.

    Parameters
    ----------
    kind : HeadKind
    fit : callable
        Fits the head to rows of one part.
    blocks : RowBlocks
        The parts.
    problem : FitProblem
    """
    train, val = problem.in_memory
    scaling = _scaling_of_images(problem.config.scalers if not kind.in_epochs else (problem.config.fit_scaler,))
    scaled = _ScaledBlocks.fit(train, blocks, scaling, per_number=kind.in_epochs)
    config = replace(problem.config, scalers=("none",), fit_scaler="none")

    def fitted_with(weights: tuple[float, ...]) -> HeadFit:
        rows, factor = [scaled.apply(part, weights) for part in (train, val)], scaled.factor(weights)
        head_fit = fit(replace(problem, train=rows[0], val=rows[1], config=config))
        heads = (
            weigh_blocks(head, scaled.offset, factor, scaled.normalized)
            for head in (head_fit.head, head_fit.head_train_only)
        )
        return replace(head_fit, head=next(heads), head_train_only=next(heads))

    names = blocks.names[1:]
    weights = (1.0,) * len(names)
    if kind.in_epochs or not names:
        best = fitted_with(weights)
        return replace(best, settings=_without_scaler(best.settings))
    tried: dict[tuple[float, ...], HeadFit] = {}
    candidates: list[dict[str, Any]] = []
    for place in range(len(names)):
        for trial in (_with(weights, place, weight) for weight in WEIGHTS):
            if trial not in tried:
                tried[trial] = fitted_with(trial)
                said = {f"weight of {name}": weight for name, weight in zip(names, trial, strict=True)}
                candidates += [_without_scaler(said | candidate) for candidate in tried[trial].candidates]
        weights = max(tried, key=lambda trial: (_score(tried[trial]), -sum(abs(math.log(weight)) for weight in trial)))
    best, said = tried[weights], {f"weight of {name}": weight for name, weight in zip(names, weights, strict=True)}
    preferred = sorted(tried, key=lambda trial: sum(abs(math.log(weight)) for weight in trial))
    folds = [tried[trial].fold for trial in preferred]
    known = [fold for fold in folds if fold is not None]
    return replace(
        best,
        settings=_without_scaler(said | best.settings),
        candidates=candidates,
        fold=partial(best_variants, problem, known) if len(known) == len(folds) else None,
    )


@dataclass(frozen=True)
class _ScaledBlocks:
    """Rows whose parts are alike in length: factor * (rows - offset).

    Attributes
    ----------
    blocks : RowBlocks
    offset, unit : ndarray of float32 [d]
        The factor at weight 1.
    normalized : int
        So many numbers at the beginning are divided by their length first.
    """

    blocks: RowBlocks
    offset: NDArray[np.float32]
    unit: NDArray[np.float32]
    normalized: int

    @classmethod
    def fit(cls, train: FeatureRows, blocks: RowBlocks, scaling: Scaling, *, per_number: bool) -> _ScaledBlocks:
        """Return the scaling of the rows of train.

        The numbers of images are standardized, or not; those of columns have been scaled by what encoded them, and
        their proportions stay. With `per_number` the mean square of a number is made 1, and not that of a part.
        """
        normalized = blocks.images if scaling == "l2" else 0
        offset, unit = (np.empty(blocks.width, np.float32) for _ in range(2))
        for name, part in blocks.parts():
            values = _normalized(train.features[:, part].astype(np.float32), normalized if name == "images" else 0)
            mean, variance = values.mean(axis=0, dtype=np.float64), values.var(axis=0, dtype=np.float64)
            scale = np.ones_like(mean)
            if name == "images" and scaling == "standard":
                scale = moderated_std(variance, mean, len(values))
            squared_length = float((variance / scale**2).sum())
            wanted = float(values.shape[1]) if per_number else _SQUARED_LENGTH
            offset[part], unit[part] = mean, np.sqrt(wanted / max(squared_length, 1e-12)) / scale
        return cls(blocks, offset, unit, normalized)

    def factor(self, weights: tuple[float, ...]) -> NDArray[np.float32]:
        """Return what rows are multiplied by, [d]."""
        factor = self.unit.copy()
        for (_, part), weight in zip(self.blocks.parts(), (1.0, *weights), strict=True):
            factor[part] *= weight
        return factor

    def apply(self, rows: FeatureRows, weights: tuple[float, ...]) -> FeatureRows:
        """Return rows with these weights of their parts."""
        factor = self.factor(weights)

        def scaled(features: NDArray[Any]) -> NDArray[np.float32]:
            values = _normalized(features.astype(np.float32), self.normalized)
            values -= self.offset
            values *= factor
            return values

        return replace(rows, features=scaled(rows.features), augmented=[scaled(view) for view in rows.augmented])


def _normalized(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return rows, changed in place, whose first numbers are divided by their length."""
    if count:
        lengths = np.linalg.norm(values[:, :count], axis=1, keepdims=True)
        values[:, :count] /= np.maximum(lengths, 1e-12)
    return values


def _scaling_of_images(scalings: tuple[Scaling, ...]) -> Scaling:
    """Return how features are scaled of those that may be tried: standardized, if that is among them."""
    return "standard" if "standard" in scalings else scalings[0]


def _with(weights: tuple[float, ...], place: int, weight: float) -> tuple[float, ...]:
    return (*weights[:place], weight, *weights[place + 1 :])


def _score(fitted: HeadFit) -> float:
    """Return how well a head does on rows that it was not fitted to, scored on all of them."""
    return max(float(candidate["score"]) for candidate in fitted.candidates if "rows" not in candidate)


def _without_scaler(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "scaler"}
