"""Which heads are averaged, and how much each counts, by what they say of rows that they were not fitted to.

Weights that are chosen by the predictions of all rows and scored on the same rows would be scored too high. So what an
ensemble says of a fold is averaged with weights that are chosen on the *other* folds, as settings of heads are
(`stages.fitting.out_of_fold`); the weights that are used are chosen on all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.tasks.averaging import AveragingTask

ROUNDS = 50
"""Times that a head is added to the ensemble: a weight is a multiple of one in at most so many."""

_LEAST_GAIN = 1e-9
"""A loss that is lower by less is not lower."""


@dataclass(frozen=True)
class Answers:
    """What heads say of the same rows out of folds, one division into folds after the other.

    Attributes
    ----------
    answers : sequence of array [n, out_features]
        Of each head, activated.
    targets : array [n, ...]
    fold, repeat : int64 [n]
        With which part a row was left out, in which division.
    fitted_to_others : bool
        Whether heads were fitted to the rows of all parts but a row's own; else to other rows altogether.
    """

    answers: Sequence[NDArray[np.floating]]
    targets: NDArray[np.generic]
    fold: NDArray[np.int64]
    repeat: NDArray[np.int64]
    fitted_to_others: bool = True

    @property
    def tell(self) -> NDArray[np.bool_]:
        """Which rows tell something of heads, bool [n]: not those of a class that was left out with all its rows.

        Of these every head is wrong, and by how much says how sure it is of all others.
        """
        tell = np.ones(len(self.targets), bool)
        if not self.fitted_to_others or self.targets.ndim > 1:
            return tell
        for repeat in np.unique(self.repeat):
            in_repeat = self.repeat == repeat
            for fold in np.unique(self.fold[in_repeat]):
                left_out = in_repeat & (self.fold == fold)
                tell[left_out] = np.isin(self.targets[left_out], self.targets[in_repeat & ~left_out])
        return tell if tell.any() else ~tell


def average(answers: Sequence[NDArray[np.floating]], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the weighted mean of what heads say, [n, out_features]."""
    mean = sum(weight * part.astype(np.float64) for weight, part in zip(weights, answers, strict=True) if weight)
    return np.asarray(mean, dtype=np.float32)


def select_greedily(
    task: AveragingTask, answers: Answers, *, balanced: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Choose how much each head counts in the mean, by the loss of the task; heads may count nothing.

    Greedy selection with replacement (Caruana, Niculescu-Mizil, Crew and Ksikes 2004, "Ensemble selection from
    libraries of models", section 2), which begins with the best heads by themselves, as many as are best together
    (section 2.2): again and again the head is added, a second time too, with which the mean is best.

    Parameters
    ----------
    task : AveragingTask
    answers : Answers
    balanced : bool
        Whether rare classes count as much as frequent ones.

    Returns
    -------
    weights : float64 [heads]
        Their sum is 1.
    out_of_fold : float32 [n, out_features]
        What the ensemble says of each row, with weights that the other folds chose.
    """
    agreement = np.stack([task.agreement(part, answers.targets) for part in answers.answers])
    counts = _counts(task, agreement[0], answers.targets, balanced=balanced) * answers.tell[:, None]
    outputs = np.empty_like(answers.answers[0], dtype=np.float32)
    for repeat in np.unique(answers.repeat):
        in_repeat = answers.repeat == repeat
        for fold in np.unique(answers.fold[in_repeat]):
            left_out = in_repeat & (answers.fold == fold)
            others = in_repeat & ~left_out
            weights = _greedy(task, agreement[:, others], counts[others])
            outputs[left_out] = average([part[left_out] for part in answers.answers], weights)
    return _greedy(task, agreement, counts), outputs


def _counts(
    task: AveragingTask, agreement: NDArray[np.float64], targets: NDArray[np.generic], *, balanced: bool
) -> NDArray[np.float64]:
    """Return how much each element counts, [n, e]: of a sample all that are known alike, and nothing of the others."""
    known = ~np.isnan(agreement)
    counts = known / np.maximum(known.sum(axis=1, keepdims=True), 1)
    weights = task.weights(targets) if balanced else None
    return counts if weights is None else np.asarray(counts * weights.reshape(len(counts), -1))


def _greedy(task: AveragingTask, agreement: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of heads, [heads], for what they are right about, [heads, n, e]."""
    agreement = np.where(np.isnan(agreement), 0.0, agreement)

    def loss(mean: NDArray[np.float64]) -> float:
        return float((task.agreement_loss(mean) * counts).sum())

    order = np.argsort([loss(of_head) for of_head in agreement], kind="stable")
    means = np.cumsum(agreement[order], axis=0) / np.arange(1, len(order) + 1)[:, None, None]
    begun_with = 1 + int(np.argmin([loss(mean) for mean in means]))
    times = np.zeros(len(agreement))
    times[order[:begun_with]] = 1
    total = agreement[order[:begun_with]].sum(axis=0)
    best, lowest = times.copy(), loss(total / times.sum())
    while times.sum() < ROUNDS:
        size = times.sum() + 1
        losses = [loss((total + of_head) / size) for of_head in agreement]
        added = int(np.argmin(losses))
        times[added] += 1
        total = total + agreement[added]
        if losses[added] < lowest * (1 - _LEAST_GAIN):
            best, lowest = times.copy(), losses[added]
    return np.asarray(best / best.sum())
