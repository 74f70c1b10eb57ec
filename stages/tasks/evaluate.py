"""How good predictions are, and how sure one can be of it: scores, bootstrap intervals, paired tests.

Everything here is a function of labels and predictions. What the numbers mean for a choice between methods is said
in ``pipeline.evaluation.comparison``; what training cost is measured in ``stages.runtime.cost``.

An image can be tested under several seeds. Such tests are not independent of each other, so intervals and tests that
pool seeds take the image as their unit: pass `images`, the number of the image that each row is about.
"""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score
from sklearn.metrics import log_loss as mean_log_loss

from cache.errors import CutonceError, DataError

RESAMPLES = 10_000


class Metrics(TypedDict):
    """The ``test`` object of ``result.json``."""

    accuracy: float
    accuracy_ci95: list[float]
    macro_f1: float
    auc: float | None
    log_loss: float
    confusion: list[list[int]]


class Difference(NamedTuple):
    """A difference in accuracy with the ends of its 95 % interval, as shares (0.02 is two points)."""

    value: float
    low: float
    high: float


def evaluate(labels: ArrayLike, probabilities: ArrayLike, *, seed: int = 0) -> Metrics:
    """Score predictions against the truth.

    Parameters
    ----------
    labels : int [n]
        True classes.
    probabilities : float [n, classes]
        Predicted probabilities; the largest is the prediction.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    Metrics
        Accuracy with its 95 % bootstrap interval; F1 averaged over the classes that are present or predicted; area
        under the ROC curve (two classes, both present; else None), class 1 being the positive one; mean log loss
        (natural logarithm); confusion matrix, true classes down, predicted classes across.

    Raises
    ------
    DataError
        If there is nothing to score.
    CutonceError
        If a probability is not a finite number, which is what a training that diverged leaves behind.
    """
    true, predicted_probabilities = np.asarray(labels), np.asarray(probabilities)
    if not len(true):
        raise DataError("there is no test image to evaluate on; give more images, or a larger `test_size` share")
    if not np.isfinite(predicted_probabilities).all():
        raise CutonceError("the predicted probabilities are not finite: the training diverged; try a lower rate")
    classes = np.arange(predicted_probabilities.shape[1])
    predicted = predicted_probabilities.argmax(axis=1)
    two_present = len(classes) == 2 and len(np.unique(true)) == 2
    return {
        "accuracy": float(np.mean(predicted == true)),
        "accuracy_ci95": list(accuracy_interval(predicted == true, seed=seed)),
        "macro_f1": float(f1_score(true, predicted, average="macro", zero_division=0)),
        "auc": float(roc_auc_score(true, predicted_probabilities[:, 1])) if two_present else None,
        "log_loss": float(mean_log_loss(true, predicted_probabilities, labels=classes)),
        "confusion": confusion_matrix(true, predicted, labels=classes).tolist(),
    }


def accuracy_interval(correct: ArrayLike, images: ArrayLike | None = None, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of an accuracy (`correct`: bool [n])."""
    return _bootstrap_interval(*_per_image(np.asarray(correct, dtype=np.int64), images), seed)


def paired_difference(
    correct_a: ArrayLike, correct_b: ArrayLike, images: ArrayLike | None = None, *, seed: int = 0
) -> Difference:
    """Return accuracy of `a` minus accuracy of `b` on the same tests (bool [n] each), with its bootstrap interval."""
    sums, counts = _per_image(_gains(correct_a, correct_b), images)
    return Difference(float(sums.sum() / counts.sum()), *_bootstrap_interval(sums, counts, seed))


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike, images: ArrayLike | None = None) -> float:
    """Return the two-sided p-value of `a` and `b` being right equally often on the same tests (bool [n] each).

    The exact form of McNemar's test: of the images on which the two differ, each is as likely to favour the one as
    the other, so the count is binomial with probability 1/2 (McNemar 1947, "Note on the sampling error of the
    difference between correlated proportions or percentages"; Dietterich 1998, "Approximate statistical tests for
    comparing supervised classification learning algorithms", section 3.1). An image that was tested several times has
    one vote, for the method that was right on it more often; with one test per image this is McNemar's test itself,
    otherwise the sign test over images.
    """
    sums, _ = _per_image(_gains(correct_a, correct_b), images)
    for_a, for_b = int((sums > 0).sum()), int((sums < 0).sum())
    return float(binomtest(for_a, for_a + for_b).pvalue) if for_a + for_b else 1.0


def _gains(correct_a: ArrayLike, correct_b: ArrayLike) -> NDArray[np.int64]:
    """Return 1 where only `a` is right, -1 where only `b` is, else 0."""
    gains: NDArray[np.int64] = np.subtract(correct_a, correct_b, dtype=np.int64)
    return gains


def _per_image(scores: NDArray[np.int64], images: ArrayLike | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sum of the scores of each image and how often it was tested, both int64 [images]."""
    if images is None:
        return scores, np.ones(len(scores), dtype=np.int64)
    _, index, counts = np.unique(np.asarray(images), return_inverse=True, return_counts=True)
    sums = np.zeros(len(counts), dtype=np.int64)
    np.add.at(sums, index, scores)
    return sums, counts


def _bootstrap_interval(sums: NDArray[np.int64], counts: NDArray[np.int64], seed: int) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of sum(sums) / sum(counts) over resamples of the images.

    Percentile bootstrap (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13). Images of the
    same sum and count are interchangeable, and there are few kinds of them: how often each kind is drawn in a
    resample with replacement is one multinomial draw, so that no resample of the images has to be made.
    """
    kinds, sizes = np.unique(np.stack([sums, counts], axis=1), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(sums), sizes / len(sums), size=RESAMPLES)
    means = (drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
