"""From probabilities to decisions: from which probability on a class is predicted, and which classes are possible.

Both are set by predictions for images that the model was not fitted to, and that are no test images.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]


def threshold_for_recall(scores: Scores, is_positive: NDArray[np.bool_], recall: float) -> float:
    """Return the highest probability from which on positives are found as often as `recall` says.

    The next positive reaches it with at least that chance: of n held-out ones the floor((n + 1)(1 - recall))-th from
    below counts (Vovk, Gammerman & Shafer 2005, "Algorithmic Learning in a Random World", section 4.2). 0, that is all,
    where there are too few of them for that.

    Parameters
    ----------
    scores : float [n]
        Probabilities of the class that is looked for.
    is_positive : bool [n]
    recall : float
    """
    positives = np.sort(scores[is_positive])
    # rounded first, since (n + 1) * 0.05 may be a whole number but for its last digits
    rank = math.floor(round((len(positives) + 1) * (1 - recall), 9))
    return float(positives[rank - 1]) if rank else 0.0


def threshold_for_cost(scores: Scores, is_positive: NDArray[np.bool_], missed: float, false_alarm: float) -> float:
    """Return the probability from which on to predict the positive class, at the least cost on these samples.

    Of all such the middle of the range nearest to ``false_alarm / (missed + false_alarm)``, which is the best one for
    probabilities that are what they say (Elkan 2001, "The Foundations of Cost-Sensitive Learning", section 2).

    Parameters
    ----------
    scores : float [n]
        Probabilities of the class that is looked for.
    is_positive : bool [n]
    missed, false_alarm : float
        What each positive costs below the threshold, and each negative from it on.
    """
    order = np.argsort(scores, kind="stable")
    values, positive = scores[order].astype(np.float64), is_positive[order]
    below = np.concatenate([[0], np.cumsum(positive)]) * missed  # by how many samples lie below the threshold
    above = np.concatenate([np.cumsum(~positive[::-1])[::-1], [0]]) * false_alarm
    # a threshold lies between two different scores, or beyond all
    ends = np.concatenate([[0.0], values, [1.0]])
    possible = np.concatenate([[True], np.diff(values) > 0, [True]])
    costs = np.where(possible, below + above, np.inf)
    best = np.flatnonzero(costs <= costs.min() * (1 + 1e-12))
    middles = (ends[best] + ends[best + 1]) / 2
    return float(middles[np.abs(middles - false_alarm / (missed + false_alarm)).argmin()])


def least_possible(probabilities: Scores, target: NDArray[np.int64], coverage: float) -> float:
    """Return the probability from which on a class is possible, so that the true one is in `coverage` of the cases.

    Split-conformal sets of the least ambiguity (Sadinle, Lei & Wasserman 2019, "Least Ambiguous Set-Valued Classifiers
    With Bounded Error Levels", section 2): the smallest on average of all that cover as much. 0, so that all classes
    are possible, where there are too few samples to promise more.

    Parameters
    ----------
    probabilities : float [n, classes]
    target : int64 [n]
    coverage : float
    """
    of_true = probabilities[np.arange(len(target)), target]
    return threshold_for_recall(of_true, np.ones(len(target), dtype=bool), coverage)


def possible_classes(probabilities: Scores, least: float) -> NDArray[np.bool_]:
    """Return which classes are possible, bool [n, classes]: those that reach `least`, and the most probable one always.

    An empty set would say less than its most probable class, and with that one more are covered, never fewer.
    """
    possible = probabilities >= least
    possible[np.arange(len(probabilities)), probabilities.argmax(axis=1)] = True
    return np.asarray(possible)
