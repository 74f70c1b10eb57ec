"""Likely label errors by confident learning, and numbers that are far from what the features say.

Northcutt, Jiang & Chuang (2021), "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70; by cleanlab,
which its authors wrote. Of any number of labels a sample each is judged by itself, as cleanlab does it too:
Thyagarajan, Snorrason, Northcutt & Mueller (2022), "Identifying Incorrect Annotations in Multi-Label Classification
Data".
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.errors import UsageError

FAR = 3.5
"""Modified z-score of an error from which on a number is doubted."""

NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution over the median of the distances from its middle."""


@dataclass(frozen=True)
class LabelErrors:
    """Samples whose label is likely wrong, the likeliest first.

    Attributes
    ----------
    indices : ndarray of int64 [m]
    suggested : ndarray of int64 [m]
        The class that fits best.
    quality : ndarray of float32 [m]
        Probability of the label that is given (cleanlab's self-confidence): the lower, the likelier it is wrong.
    """

    indices: NDArray[np.int64]
    suggested: NDArray[np.int64]
    quality: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.indices)


def require_cleanlab() -> None:
    """Refuse to begin without cleanlab.

    Raises
    ------
    UsageError
        That names the extra.
    """
    if importlib.util.find_spec("cleanlab") is None:
        raise UsageError("looking for label errors needs cleanlab: pip install 'cleanlab>=2.9'")


def find_label_errors(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> LabelErrors:
    """Return the samples whose label is likely wrong.

    Parameters
    ----------
    labels : ndarray of int64 [n]
    probabilities : ndarray of float32 [n, classes]
        Out of fold. Samples of a class that their fold had not seen (probability 0) are not judged.

    Raises
    ------
    UsageError
        If cleanlab is not installed.
    """
    require_cleanlab()
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    judged_rows = np.flatnonzero(probabilities[np.arange(len(labels)), labels] > 0)
    # classes without a judged sample are left out: the library wants each of its classes to occur
    classes, numbers = np.unique(labels[judged_rows], return_inverse=True)
    if len(classes) < 2:
        return LabelErrors(judged_rows[:0], judged_rows[:0], np.zeros(0, np.float32))
    class_probabilities = probabilities[np.ix_(judged_rows, classes)]
    # as many as confident learning counts, the least likely labels first: more precise than its other filters on labels
    # that were flipped on purpose
    is_issue = find_label_issues(numbers, class_probabilities, filter_by="low_self_confidence", n_jobs=1)
    quality = np.asarray(get_label_quality_scores(numbers, class_probabilities), dtype=np.float32)
    issues = np.flatnonzero(is_issue & (class_probabilities.argmax(axis=1) != numbers))
    issues = issues[np.argsort(quality[issues], kind="stable")]
    return LabelErrors(judged_rows[issues], classes[class_probabilities[issues].argmax(axis=1)], quality[issues])


@dataclass(frozen=True)
class Doubts:
    """Targets that are likely wrong, the likeliest first; of several labels or numbers a sample, one of them each.

    Attributes
    ----------
    indices : ndarray of int64 [m]
        Of the samples.
    suggested : list of str
        What fits better, in words.
    scores : ndarray of float32 [m]
        Probability of the label that is given; of a number how many times the usual error it is off.
    """

    indices: NDArray[np.int64]
    suggested: list[str]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.indices)


def doubt_classes(labels: NDArray[np.int64], probabilities: NDArray[np.float32], class_names: Sequence[str]) -> Doubts:
    """Return the samples whose class is likely wrong; parameters as in `find_label_errors`."""
    errors = find_label_errors(labels, probabilities)
    return Doubts(errors.indices, [class_names[number] for number in errors.suggested], errors.quality)


def doubt_labels(
    targets: NDArray[np.floating], probabilities: NDArray[np.float32], class_names: Sequence[str]
) -> Doubts:
    """Return the labels that samples likely lack though they are said to have them, or have though they do not.

    Parameters
    ----------
    targets : ndarray of float [n, labels]
        1, 0, or nan where it is not known.
    probabilities : ndarray of float32 [n, labels]
        Out of fold.
    class_names : sequence of str

    Raises
    ------
    UsageError
        If cleanlab is not installed.
    """
    indices, suggested, scores = [], [], []
    for number, name in enumerate(class_names):
        known = np.flatnonzero(~np.isnan(targets[:, number]))
        positive = probabilities[known, number]
        errors = find_label_errors(targets[known, number].astype(np.int64), np.stack([1 - positive, positive], axis=1))
        indices.append(known[errors.indices])
        suggested += [f"{'with' if has_it else 'without'} {name}" for has_it in errors.suggested]
        scores.append(errors.quality)
    return _sorted(np.concatenate(indices), suggested, np.concatenate(scores))


def doubt_numbers(
    targets: NDArray[np.floating], predicted: NDArray[np.floating], words: Callable[[int, int], str]
) -> Doubts:
    """Return the numbers that are much further from what is predicted than is usual.

    Those whose error has a modified z-score above 3.5: its distance from the median of the errors, over 1.4826 times
    the median of these distances (Iglewicz & Hoaglin 1993, "How to Detect and Handle Outliers", section 3.3). Medians,
    since a mean and a deviation would be those of the wrong numbers themselves.

    Parameters
    ----------
    targets, predicted : ndarray of float [n, numbers]
        On the scale that is predicted on, the latter out of fold; nan where a target is not known.
    words : callable
        From the places of a sample and of one of its numbers to what is predicted, in words.
    """
    errors = targets - predicted
    distances = np.abs(errors - np.nanmedian(errors, axis=0))
    usual = NORMAL_MAD * np.nanmedian(distances, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.nan_to_num(distances / usual, nan=0.0)
    indices, numbers = np.nonzero(scores > FAR)
    suggested = [words(index, number) for index, number in zip(indices.tolist(), numbers.tolist(), strict=True)]
    return _sorted(indices, suggested, -scores[indices, numbers].astype(np.float32), -1)


def _sorted(indices: NDArray[np.int64], suggested: Sequence[str], scores: NDArray[np.float32], sign: int = 1) -> Doubts:
    """Return doubts with the lowest of the scores first, which are then given their sign."""
    order = np.argsort(scores, kind="stable")
    return Doubts(indices[order], [suggested[place] for place in order], sign * scores[order])
