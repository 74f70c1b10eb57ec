"""How well heads do on rows they were not fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.fitting.feature_rows import AnyFeatureRows, in_batches
from stages.fitting.folds import Selection
from stages.network.heads.base import Head
from stages.tasks.base import Task, find_metric
from stages.tasks.temperature import fit_temperature
from stages.training.evaluation import predict

EARLY_STOP_MARGIN = 0.005
"""Score below the best, of a share, that ends a path over C, once two values in a row are lower than that."""


def selection_score(
    task: Task, outputs: NDArray[np.floating], targets: NDArray[Any], *, margins: bool = False
) -> float:
    """Return how good a head's outputs are by the task's primary metric; of any metric, the higher the better.

    Where the metric is not defined for these samples, as a fold without a positive has no average precision, the
    lower mean loss is better: that hangs on the targets alone, so all settings are compared by the same.

    Parameters
    ----------
    task : Task
    outputs : ndarray [n, out_features]
        As they leave the head: logits, margins or values.
    targets : ndarray [n, ...]
    margins : bool
        Whether the outputs are margins, which a temperature makes logits once a setting is chosen: where it counts how
        sure predictions are, they are scored under the temperature that suits them, or the setting would win whose
        margins happen to be as large as logits.
    """
    metric = find_metric(task)
    if margins and metric.of_certainty and np.isfinite(outputs).all():
        outputs = (outputs / fit_temperature(task, outputs, targets)).astype(outputs.dtype)
    if metric.of_outputs is not None:
        score = metric.of_outputs(outputs, targets)
    elif not np.isfinite(outputs).all():
        return float("-inf")  # of several heads that train side by side one may diverge, and is never the best
    else:
        score = metric.score(task.statistic(task.activate(torch.from_numpy(outputs)), torch.from_numpy(targets)))
    if np.isnan(score):
        return -task.mean_loss(np.asarray(outputs, dtype=np.float64), targets)
    return score if metric.higher_is_better else -score


def fold_scores(
    task: Task,
    outputs: NDArray[np.floating],
    targets: NDArray[Any],
    folds: Sequence[Selection],
    *,
    margins: bool = False,
) -> list[float]:
    """Return how good outputs are on each part of the rows, as `selection_score` does, in less time than by that.

    Parameters
    ----------
    task : Task
    outputs : ndarray [n, out_features]
    targets : ndarray [n, ...]
    folds : sequence of Selection
        The rows of each part.
    margins : bool
        As of `selection_score`.
    """
    metric = find_metric(task)
    if metric.per_sample is None or (margins and metric.of_certainty) or not np.isfinite(outputs).all():
        return [selection_score(task, outputs[rows], targets[rows], margins=margins) for rows in folds]
    statistics = task.statistic(task.activate(torch.from_numpy(outputs)), torch.from_numpy(targets))
    scores = metric.per_sample(statistics)
    return [float(np.mean(scores[rows])) * (1 if metric.higher_is_better else -1) for rows in folds]


def early_stop_margin(task: Task, best: float) -> float:
    """Return how far below the best score one is clearly less.

    A metric whose higher values are better is a share, or like one: `EARLY_STOP_MARGIN` of 1. An error is in a unit
    of its own: as much of the best.
    """
    metric = find_metric(task)
    return EARLY_STOP_MARGIN * (1.0 if metric.higher_is_better else abs(best))


def logits(head: Head, rows: AnyFeatureRows) -> NDArray[np.float32]:
    """Return the logits of a head, float32 [n, classes], for rows block by block."""
    blocks = (torch.from_numpy(block) for _, block in in_batches(rows))
    return np.asarray(predict(head, blocks, None).numpy())
