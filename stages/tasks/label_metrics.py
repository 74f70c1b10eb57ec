"""Scores of several labels a sample: average precision, areas, F1 and ranking, over the labels that are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.tasks.base import Metric, Statistics, mean_metric, sum_metric, with_limits
from stages.tasks.calibration import calibration_error
from stages.tasks.metrics import BRIER_NOTE, ECE_NOTE, area_under_roc
from stages.tasks.weighted_scores import (
    WeightedMean,
    WeightedScore,
    weighted_area_under_roc,
    weighted_average_precision,
)

Labels = NDArray[np.floating]
"""1, 0, or nan where it is not known, [n, labels]."""


def label_metrics(class_names: Sequence[str]) -> dict[str, Metric]:
    """Return the metrics of several labels a sample.

    Each takes structured statistics [n] with the fields ``probabilities``, float [labels], ``target``, float32
    [labels], and ``predicted``, bool [labels]. What is not known counts in none.

    - ``map_macro``: average precision of each label, averaged over those with a positive; ``map_micro``: that of all
      pairs of sample and label in one ranking.
    - ``auc_macro``: area under the ROC curve, averaged over the labels that some samples have and some have not.
    - ``f1_macro``, ``f1_micro``: F1 by the thresholds, averaged over the labels that are there or predicted, and of
      all counts together.
    - ``label_ranking``: label ranking average precision: of each label that a sample has, the share of true ones among
      those ranked as high (Tsoumakas et al. 2010, "Mining multi-label data"); 1 for a sample that has all or none.
    - ``exact_match``: share of samples whose labels are all predicted rightly.
    - ``log_loss``: mean binary cross-entropy.
    - ``brier``: mean squared error of the probabilities; ``ece``: `calibration_error` of each label's probability.
    """

    def counts(statistics: Statistics) -> NDArray[np.int64]:
        target, predicted = statistics["target"], statistics["predicted"]
        known = ~np.isnan(target)
        return np.stack([target == 1, predicted & known, predicted & (target == 1)], axis=1).astype(np.int64)

    metrics = [
        Metric(
            "map_macro",
            "mAP",
            lambda statistics: _mean_over_labels(average_precision, statistics["probabilities"], statistics["target"]),
            as_percent=True,
            note="mAP is the average precision of each label, as a mean over the labels.",
            of_outputs=lambda outputs, target: _mean_over_labels(average_precision, outputs, target),
            weighted=lambda statistics: _each_label(weighted_average_precision, statistics),
        ),
        Metric(
            "map_micro",
            "micro-mAP",
            _pooled_average_precision,
            as_percent=True,
            weighted=_weighted_pooled_average_precision,
        ),
        Metric(
            "auc_macro",
            "AUC",
            lambda statistics: _mean_over_labels(_area, statistics["probabilities"], statistics["target"]),
            note="AUC is the chance that an image with a label gets a higher score for it than one without, as a mean "
            "over the labels.",
            weighted=lambda statistics: _each_label(weighted_area_under_roc, statistics),
        ),
        sum_metric("f1_macro", "macro-F1", counts, _f1_macro, note="Macro-F1 weighs every label alike."),
        sum_metric("f1_micro", "micro-F1", counts, _f1_micro),
        mean_metric("label_ranking", "label ranking", label_ranking),
        mean_metric("exact_match", "exact match", _is_exact, as_percent=True),
        mean_metric("log_loss", "log loss", _log_losses, higher_is_better=False),
        sum_metric("brier", "Brier score", _squares, _mean_of_known, higher_is_better=False, note=BRIER_NOTE),
        Metric("ece", "calibration error", _calibration_error, False, as_percent=True, note=ECE_NOTE, ranks=False),
    ]
    certain = ("log_loss", "brier")
    return with_limits([replace(metric, of_certainty=metric.name in certain) for metric in metrics])


def _squares(statistics: Statistics) -> NDArray[np.float64]:
    """Return the squared errors of each sample, summed over its known labels, and how many these are."""
    known = ~np.isnan(statistics["target"])
    errors = np.where(known, statistics["probabilities"].astype(np.float64) - statistics["target"], 0.0)
    return np.stack([(errors**2).sum(axis=1), known.sum(axis=1)], axis=1)


def _mean_of_known(sums: NDArray[Any]) -> float:
    return float(sums[0] / sums[1]) if sums[1] else float("nan")


def _calibration_error(statistics: Statistics) -> float:
    known = ~np.isnan(statistics["target"])
    return (
        calibration_error(statistics["probabilities"][known], statistics["target"][known] == 1)
        if known.any()
        else float("nan")
    )


def average_precision(positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Return the area under the steps of precision over recall, ties together; nan without a positive.

    That is the mean, over the positives, of the share of positives among those that are ranked as high: two sorts of
    numbers, which take a tenth of the time of a sorted order, and that matters where settings are compared by it.
    """
    true_scores, all_scores = np.sort(scores[positive]), np.sort(scores)
    if not len(true_scores):
        return float("nan")
    return float(_shares_of_true(true_scores, all_scores).mean())


def label_ranking(statistics: Statistics) -> NDArray[np.float64]:
    """Return of each sample the mean, over its labels, of the share of true ones among those ranked as high, [n]."""
    target, probabilities = statistics["target"], statistics["probabilities"]
    shares = np.ones(len(target))
    for row, (truth, scores) in enumerate(zip(target, probabilities, strict=True)):
        true_scores, all_scores = np.sort(scores[truth == 1]), np.sort(scores[~np.isnan(truth)])
        if 0 < len(true_scores) < len(all_scores):
            shares[row] = _shares_of_true(true_scores, all_scores).mean()
    return shares


def best_thresholds(target: Labels, probabilities: NDArray[np.floating]) -> list[float]:
    """Return for each label the threshold with the best F1; 0.5 for one without a positive.

    Between the probabilities that it tells apart it is their mean, so that it does not hang on one sample.
    """
    thresholds = []
    for truth, scores in zip(target.T, probabilities.T, strict=True):
        known = ~np.isnan(truth)
        positive, values = truth[known] == 1, scores[known].astype(np.float64)
        if not positive.any():
            thresholds.append(0.5)
            continue
        order = np.argsort(-values, kind="stable")
        ranked = values[order]
        ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        hits = np.cumsum(positive[order])[ends]
        best = int(np.argmax(2 * hits / (1 + ends + positive.sum())))
        lowest = ranked[ends[best]]
        below = ranked[ends[best] + 1] if ends[best] + 1 < len(ranked) else 0.0
        between = float(np.float32((lowest + below) / 2))  # which thresholds are compared as
        thresholds.append(between if between > below else float(lowest))
    return thresholds


def _shares_of_true(true_scores: NDArray[np.floating], all_scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return, of each true score, the share of true ones among all that are as high; both in order."""
    true_above, above = (len(ranked) - np.searchsorted(ranked, true_scores) for ranked in (true_scores, all_scores))
    return np.asarray(true_above / above)


def _mean_over_labels(
    score: Callable[[NDArray[np.bool_], NDArray[np.floating]], float], scores: NDArray[np.floating], target: Labels
) -> float:
    """Return the mean of a score over the labels for which it is defined; nan where it is for none."""
    values = []
    for truth, of_label in zip(target.T, np.ascontiguousarray(scores.T), strict=True):
        known = ~np.isnan(truth)
        values.append(score(truth[known] == 1, of_label[known]))
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _area(positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    return area_under_roc(positive, scores) if 0 < positive.sum() < len(positive) else float("nan")


def _each_label(score: Callable[..., WeightedScore], statistics: Statistics) -> WeightedMean:
    """Return the mean over the labels of a score of the samples of which each is known."""
    scores = []
    for truth, probabilities in zip(statistics["target"].T, statistics["probabilities"].T, strict=True):
        known = np.flatnonzero(~np.isnan(truth))
        scores.append(score(truth[known] == 1, probabilities[known], known, len(truth)))
    return WeightedMean(scores)


def _pooled_average_precision(statistics: Statistics) -> float:
    known = ~np.isnan(statistics["target"])
    return average_precision(statistics["target"][known] == 1, statistics["probabilities"][known])


def _weighted_pooled_average_precision(statistics: Statistics) -> WeightedMean:
    target, probabilities = statistics["target"], statistics["probabilities"]
    known = ~np.isnan(target)
    rows = np.nonzero(known)[0]
    return WeightedMean([weighted_average_precision(target[known] == 1, probabilities[known], rows, len(target))])


def _f1_macro(counts: NDArray[Any]) -> float:
    true, predicted, right = counts.reshape(3, -1)
    union = true + predicted
    present = union > 0
    return float(np.mean(2 * right[present] / union[present])) if present.any() else float("nan")


def _f1_micro(counts: NDArray[Any]) -> float:
    true, predicted, right = counts.reshape(3, -1).sum(axis=1)
    return float(2 * right / (true + predicted)) if true + predicted else float("nan")


def _is_exact(statistics: Statistics) -> NDArray[np.bool_]:
    target = statistics["target"]
    return np.asarray(((statistics["predicted"] == (target == 1)) | np.isnan(target)).all(axis=1))


def _log_losses(statistics: Statistics) -> NDArray[np.float64]:
    probabilities = statistics["probabilities"]
    epsilon = np.finfo(probabilities.dtype).eps
    probabilities = np.clip(probabilities, epsilon, 1 - epsilon).astype(np.float64)
    target = statistics["target"]
    known = ~np.isnan(target)
    losses = -np.log(np.where(target == 1, probabilities, 1 - probabilities)) * known
    return np.asarray(losses.sum(axis=1) / np.maximum(known.sum(axis=1), 1))
