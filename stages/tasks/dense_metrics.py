"""Scores of predicted maps of classes: functions of a confusion matrix, of one image or of the sum over many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.tasks.base import Metric, Statistics, sum_metric, with_limits


def dense_metrics(num_classes: int) -> dict[str, Metric]:
    """Return the metrics of a class for each pixel.

    Each takes confusion matrices, int64 [n, classes, classes], the true class down and the predicted one across, and is
    a function of their sum: pixels of all images count together, as torchmetrics has it.

    - ``miou``: mean over the classes of the intersection over union (Everingham et al. 2010, "The PASCAL visual object
      classes challenge", section 4.4): pixels that are rightly of the class over those that are or are called so.
    - ``pixel_accuracy``: share of pixels whose class is predicted.
    - ``mean_accuracy``: mean over the classes of the share predicted of their pixels.

    Means are over the classes that occur among the true or the predicted ones; nan where there are none.
    """
    metrics = [
        _of_counts(
            "miou",
            "mIoU",
            mean_iou,
            num_classes,
            "mIoU is the mean over the classes of the pixels that are rightly of a class over those that are or are "
            "called so.",
        ),
        _of_counts("pixel_accuracy", "pixel accuracy", pixel_accuracy, num_classes),
        _of_counts(
            "mean_accuracy",
            "mean class accuracy",
            mean_accuracy,
            num_classes,
            "Mean class accuracy weighs every class alike; pixel accuracy every pixel.",
        ),
    ]
    return with_limits([replace(metric, of_parts=True) for metric in metrics])


def class_iou(number: int) -> Metric:
    """Return the metric that is the intersection over union of one class."""

    def summands(statistics: Statistics) -> NDArray[np.int64]:
        return pixel_counts(statistics)[:, :, number]

    def of_sum(total: NDArray[Any]) -> float:
        return float(class_ious(total[:, None])[0])

    metric = sum_metric(f"iou_{number}", "IoU", summands, of_sum, as_percent=True)
    return with_limits([replace(metric, of_parts=True)])[metric.name]


def pixel_counts(confusion: NDArray[Any]) -> NDArray[np.int64]:
    """Return how many pixels are of each class, are called so, and are both: int64 [..., 3, classes]."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([confusion.sum(axis=-1), confusion.sum(axis=-2), right], axis=-2)


def class_ious(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return the intersection over union of each class, [classes]; nan where it occurs nowhere.

    Parameters
    ----------
    counts : array [3, classes]
        As `pixel_counts` gives them, or sums of those.
    """
    true, predicted, right = counts.astype(np.float64)
    union = true + predicted - right
    return np.asarray(np.divide(right, union, out=np.full(union.shape, np.nan), where=union > 0))


def mean_iou(counts: NDArray[Any]) -> float:
    """Return the mean of `class_ious` over the classes that occur; nan where none does."""
    return _mean(class_ious(counts))


def pixel_accuracy(counts: NDArray[Any]) -> float:
    """Return the share of pixels whose class is predicted; nan without pixels."""
    true, _, right = counts
    return float(right.sum() / true.sum()) if true.sum() else float("nan")


def mean_accuracy(counts: NDArray[Any]) -> float:
    """Return the mean, over the classes that are true or predicted somewhere, of the share predicted of each.

    One that is predicted and nowhere true counts as 0, as in torchmetrics' ``MulticlassAccuracy``.
    """
    true, predicted, right = counts.astype(np.float64)
    occurs = true + predicted > 0
    return _mean(right[occurs] / np.maximum(true[occurs], 1))


def _of_counts(
    name: str, label: str, score: Callable[[NDArray[Any]], float], num_classes: int, note: str = ""
) -> Metric:
    def summands(statistics: Statistics) -> NDArray[np.int64]:
        return pixel_counts(statistics)

    def of_sum(total: NDArray[Any]) -> float:
        return score(total.reshape(3, num_classes))

    return sum_metric(name, label, summands, of_sum, as_percent=True, note=note)


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
