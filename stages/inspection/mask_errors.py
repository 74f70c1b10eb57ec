"""Masks that disagree with a model which never saw them, where it is sure: wrong classes, shifted and missing masks.

What Lad & Mueller 2023 ("Estimating label quality and errors in semantic segmentation data via any model") score by
the least likely label of an image is counted here by pixels: at the borders of things a model on coarse maps is unsure,
and says nothing of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stages.fitting.epochs.map_heads import activated_images, masks_of
from stages.fitting.epochs.map_probe import quick_map_head
from stages.fitting.feature_rows import AnyFeatureRows, StreamedFeatureRows
from stages.fitting.folds import divisions
from stages.fitting.problem import FitProblem
from stages.inspection.out_of_fold import FOLDS
from stages.runtime.progress import progress
from stages.tasks.base import find_metric
from stages.tasks.dense import Dense

SURE = 0.9
"""Probability from which on the model is sure of a class."""

LEAST = 0.01
"""Share of its pixels by which a mask has to disagree to be doubted."""

SHOWN = 24
"""Predicted masks that are kept: those that disagree most."""


@dataclass(frozen=True)
class MaskErrors:
    """How far each mask disagrees with a model that was trained on others.

    Attributes
    ----------
    disagreement : float64 [n]
        Share of the known pixels of which the model is sure that they are of another class.
    doubted : int64 [m]
        The masks that disagree far more than is usual, worst first: above Tukey's fence, 1.5 interquartile ranges over
        the third quartile, and by 1 % of the pixels.
    words : list of str
        For each of these, which class is taken for which on most of these pixels.
    predicted : dict of int to uint8 [H, W]
        Of the doubted masks that disagree most, what the model says.
    score : float
        Of the model, on masks that it did not see: the task's primary metric.
    """

    disagreement: NDArray[np.float64]
    doubted: NDArray[np.int64]
    words: list[str]
    predicted: dict[int, NDArray[np.uint8]]
    score: float


def find_mask_errors(problem: FitProblem, groups: NDArray[np.int64]) -> MaskErrors | None:
    """Return how far masks disagree with linear heads on maps of which none saw them, in five folds.

    Memory is that of a few images, and of the masks that are kept. None where there are too few samples, or groups, to
    make folds of.

    Parameters
    ----------
    problem : FitProblem
        With `maps` and `targets`. Its train rows are all samples; its validation rows do not count. Its seed draws the
        folds.
    groups : int64 [n]
        Samples with the same number stay in the same fold: copies, frames of a scene, images of one patient.
    """
    rows, task, masks = problem.train, problem.task, masks_of(problem)
    assert isinstance(task, Dense)
    count = len(rows)
    plans = divisions(FOLDS, 1, count, None, problem.seed, groups)
    if not plans:
        return None
    disagreement = np.zeros(count)
    confused = np.zeros((count, task.out_features, task.out_features), dtype=np.int64)
    statistics = np.zeros_like(confused)
    kept = dict[int, NDArray[np.uint8]]()
    for fitted, scored in progress(plans[0].splits, label="masks out of fold", unit="folds"):
        places = [np.arange(count)[part] for part in (fitted, scored)]
        train, left_out = (_some(rows, part) for part in places)
        head = quick_map_head(replace(problem, train=train, val=left_out, shared={}))
        answers = activated_images(head, left_out, masks, task)
        for place, (probabilities, mask) in zip(places[1].tolist(), answers, strict=True):
            sure, predicted = (part.cpu().numpy() for part in probabilities.max(dim=0))
            predicted = predicted.astype(np.uint8)
            statistics[place] = task.statistic_of_mask(predicted, mask)
            known = mask != task.ignore
            unlike = known & (sure >= SURE) & (predicted != mask)
            disagreement[place] = unlike.sum() / max(int(known.sum()), 1)
            confused[place] = task.statistic_of_mask(predicted, np.where(unlike, mask, task.ignore).astype(np.uint8))
            kept[place] = predicted
            if len(kept) > SHOWN:
                del kept[min(kept, key=lambda known_place: disagreement[known_place])]
    doubted = _far(disagreement)
    return MaskErrors(
        disagreement,
        doubted,
        [_words(task, confused[place]) for place in doubted],
        {place: kept[place] for place in doubted.tolist() if place in kept},
        find_metric(task).score(statistics),
    )


def _far(disagreement: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the places of what is far above the rest, the largest first."""
    low, high = np.quantile(disagreement, (0.25, 0.75))
    order = np.argsort(-disagreement, kind="stable")
    far: NDArray[np.int64] = order[disagreement[order] > max(high + 1.5 * (high - low), LEAST)]
    return far


def _words(task: Dense, confused: NDArray[np.int64]) -> str:
    """Return which class is most often taken for which."""
    true, predicted = np.unravel_index(int(confused.argmax()), confused.shape)
    return f"{task.class_names[predicted]} where the mask says {task.class_names[true]}"


def _some(rows: AnyFeatureRows, places: NDArray[np.int64]) -> AnyFeatureRows:
    """Return some of the rows; those that are streamed stay in the cache."""
    if isinstance(rows, StreamedFeatureRows):
        return replace(rows, keys=[rows.keys[place] for place in places], labels=rows.labels[places])
    return rows.at(places)
