"""Likely label errors by confident learning.

Northcutt, Jiang & Chuang (2021), "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70; by cleanlab,
which its authors wrote.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.errors import UsageError


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
