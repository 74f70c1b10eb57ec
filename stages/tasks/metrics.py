"""Scores of predicted classes: functions of true and predicted classes, and the metrics made of them.

Counts decide most of them, so most are functions of sums over samples: how often each class is the true one, is
predicted, and is both. Scores of other kinds of prediction stand with their task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.tasks.base import Metric, Statistics, mean_metric, sum_metric, with_limits
from stages.tasks.calibration import brier_scores, calibration_error

Classes = NDArray[np.int64]

OLD_NAMES: Mapping[str, str] = {"macro_f1": "f1_macro", "auc": "auc_macro"}
"""What results written before version 2 call a metric, and what it is called now."""

BRIER_NOTE = "The Brier score is the mean squared error of probabilities; lower is better."
ECE_NOTE = "The calibration error is by how much probabilities differ from the share that is right, beyond chance."


def class_metrics(class_names: Sequence[str]) -> dict[str, Metric]:
    """Return the metrics of one class a sample.

    Each takes structured statistics [n] with the fields ``probabilities``, float [classes], and ``target``, int64.

    - ``accuracy``: share of samples whose class is predicted.
    - ``balanced_accuracy``: mean over the classes of the share predicted of their samples.
    - ``f1_macro``: F1 averaged over the classes that are present or predicted; ``f1_micro``: of all counts together,
      which for one class a sample is the accuracy.
    - ``auc_macro``: see `auc_macro`.
    - ``log_loss``: mean of the negative natural logarithm of the true class's probability.
    - ``qwk``: see `quadratic_kappa`; for classes that are in an order.
    - ``brier``: mean of `brier_scores`; ``ece``: `calibration_error` of the predicted class's probability.
    """
    num_classes = len(class_names)

    def counts(statistics: Statistics) -> Any:
        return class_counts(statistics["target"], _predicted(statistics), num_classes)

    def kappa(statistics: Statistics) -> Any:
        return kappa_summands(statistics["target"], _predicted(statistics), num_classes)

    def is_right(statistics: Statistics) -> NDArray[np.bool_]:
        return np.asarray(_predicted(statistics) == statistics["target"])

    def share_right(outputs: NDArray[Any], target: Classes) -> float:
        return float((outputs.argmax(axis=1) == target).mean())

    def mean_recall(outputs: NDArray[Any], target: Classes) -> float:
        return balanced_accuracy(target, outputs.argmax(axis=1))

    def squares(statistics: Statistics) -> NDArray[np.float64]:
        return brier_scores(statistics["probabilities"], statistics["target"][:, None] == np.arange(num_classes))

    def error(statistics: Statistics) -> float:
        return calibration_error(statistics["probabilities"].max(axis=1), is_right(statistics))

    def area(statistics: Statistics) -> float:
        return auc_macro(statistics["target"], statistics["probabilities"])

    area_note = (
        f"AUC is the chance that an image of “{class_names[1]}” gets a higher score for it than one of "
        f"“{class_names[0]}”."
        if num_classes == 2
        else "AUC is the chance that an image of a class gets a higher score for it than one of another class, as a "
        "mean over the classes."
    )
    metrics = [
        mean_metric("accuracy", "accuracy", is_right, as_percent=True, of_outputs=share_right),
        sum_metric(
            "balanced_accuracy",
            "balanced accuracy",
            counts,
            _balanced_accuracy,
            as_percent=True,
            of_outputs=mean_recall,
        ),
        sum_metric("f1_macro", "macro-F1", counts, _f1_macro, note="Macro-F1 weighs every class alike."),
        sum_metric("f1_micro", "micro-F1", counts, _f1_micro),
        Metric("auc_macro", "AUC", area, note=area_note),
        mean_metric(
            "log_loss",
            "log loss",
            _log_losses,
            higher_is_better=False,
            note="Log loss punishes confident mistakes; lower is better.",
            score=_mean_log_loss,
        ),
        sum_metric("qwk", "quadratic kappa", kappa, kappa_of_sums),
        mean_metric("brier", "Brier score", squares, higher_is_better=False, note=BRIER_NOTE),
        Metric("ece", "calibration error", error, False, as_percent=True, note=ECE_NOTE, ranks=False),
    ]
    # of several classes an area compares samples by a probability, on which the other classes' outputs have a part
    certain = ("log_loss", "brier", *["auc_macro"] * (num_classes > 2))
    return with_limits([replace(metric, of_certainty=metric.name in certain) for metric in metrics])


def class_counts(target: Classes, predicted: Classes, num_classes: int) -> Any:
    """Return what each sample adds to the counts of classes, a SciPy CSR array int64 [n, 3 * num_classes].

    Three ones at most: its true class, its predicted class, and, where these agree, the class that is right. Sparse,
    because a sample would otherwise cost as much as there are classes.
    """
    from scipy.sparse import csr_array

    rows, right = np.arange(len(target)), np.flatnonzero(predicted == target)
    columns = np.concatenate([target, num_classes + predicted, 2 * num_classes + target[right]])
    entries = np.ones(len(columns), dtype=np.int64), (np.concatenate([rows, rows, right]), columns)
    return csr_array(entries, shape=(len(target), 3 * num_classes))


def balanced_accuracy(target: Classes, predicted: Classes) -> float:
    """Return the mean, over the classes that `target`, int64 [n], has, of the share of each that is predicted.

    scikit-learn's ``balanced_accuracy_score``, to the bit.
    """
    num_classes = int(max(target.max(), predicted.max())) + 1
    return _balanced_accuracy(np.asarray(class_counts(target, predicted, num_classes).sum(axis=0)))


def auc_macro(target: Classes, probabilities: NDArray[np.floating]) -> float:
    """Return the area under the ROC curve: of class 1 where there are two classes, else the mean of one against rest.

    The mean is over the classes that some samples have and some have not (Hand and Till 2001, "A simple
    generalisation of the area under the ROC curve for multiple class classification problems", section 2, has this
    and the average over pairs); nan where there is none.

    Parameters
    ----------
    target : int64 [n]
    probabilities : float [n, classes]
    """
    classes = np.unique(target)
    if len(classes) < 2:
        return float("nan")
    if probabilities.shape[1] == 2:
        return area_under_roc(target == 1, probabilities[:, 1])
    return float(np.mean([area_under_roc(target == number, probabilities[:, number]) for number in classes]))


def quadratic_kappa(target: Classes, predicted: Classes, num_classes: int) -> float:
    """Return by how much predictions in ordered classes, int64 [n] each, are nearer than chance would put them.

    One minus the mean squared distance of the true from the predicted class over that of independent ones of the same
    frequencies (Cohen 1968, "Weighted kappa", with quadratic weights); nan where all are of one and the same class.
    """
    return kappa_of_sums(np.asarray(kappa_summands(target, predicted, num_classes).sum(axis=0)).ravel())


def kappa_summands(target: Classes, predicted: Classes, num_classes: int) -> Any:
    """Return the counts of classes of each sample, then the square of the distance, [n, 3 * num_classes + 1]."""
    from scipy.sparse import csr_array, hstack

    squares = csr_array(((target - predicted) ** 2)[:, None])
    return hstack([class_counts(target, predicted, num_classes), squares], format="csr")


def kappa_of_sums(counts: NDArray[Any]) -> float:
    """Return the kappa of what `kappa_summands` add up to."""
    true, predicted = counts[:-1].reshape(3, -1)[:2]
    numbers = np.arange(len(true))
    by_chance = true @ (numbers[:, None] - numbers) ** 2 @ predicted / true.sum()
    return float(1 - counts[-1] / by_chance) if by_chance else float("nan")


def area_under_roc(positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Return the area under a ROC curve: scikit-learn's to the bit, without the checks that take its time.

    That matters to an interval, which is made of ten thousand areas.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = np.cumsum(positive[order])[last_of_ties]
    false_alarms = 1 + last_of_ties - hits
    # points on a straight line between others change the area's last digits, and scikit-learn leaves them out
    is_corner = np.ones(len(hits), dtype=bool)
    is_corner[1:-1] = (np.diff(hits, 2) != 0) | (np.diff(false_alarms, 2) != 0)
    true_rate = np.append(0, hits[is_corner]) / hits[-1]
    false_rate = np.append(0, false_alarms[is_corner]) / false_alarms[-1]
    return float((np.diff(false_rate) * (true_rate[1:] + true_rate[:-1]) / 2.0).sum())


def _predicted(statistics: Statistics) -> Classes:
    return np.asarray(statistics["probabilities"].argmax(axis=1))


def _balanced_accuracy(counts: NDArray[Any]) -> float:
    true, _, right = counts.reshape(3, -1)
    present = true > 0
    return float(np.mean(right[present] / true[present]))


def _f1_macro(counts: NDArray[Any]) -> float:
    true, predicted, right = counts.reshape(3, -1)
    union = true + predicted
    present = union > 0
    return float(np.mean(2 * right[present] / union[present]))


def _f1_micro(counts: NDArray[Any]) -> float:
    true, predicted, right = counts.reshape(3, -1).sum(axis=1)
    return float(2 * right / (true + predicted))


def _log_losses(statistics: Statistics) -> NDArray[np.float64]:
    """Return each sample's log loss; a probability of 0 counts as the least that its type tells from it at 1."""
    probabilities = statistics["probabilities"]
    epsilon = np.finfo(probabilities.dtype).eps
    true_probabilities = np.take_along_axis(probabilities, statistics["target"][:, None], axis=1)[:, 0]
    return np.asarray(-np.log(np.clip(true_probabilities, epsilon, 1 - epsilon).astype(np.float64)))


def _mean_log_loss(statistics: Statistics) -> float:
    """Return scikit-learn's mean, whose last digits results have always had: it sums in the probabilities' type."""
    from sklearn.metrics import log_loss

    probabilities = np.ascontiguousarray(statistics["probabilities"])
    return float(log_loss(statistics["target"], probabilities, labels=np.arange(probabilities.shape[1])))
