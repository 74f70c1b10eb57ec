"""What every way of fitting a head returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stages.fitting.out_of_fold import OutOfFold
from stages.fitting.problem import FitProblem
from stages.network.heads.base import Head
from stages.network.heads.linear import LinearHead
from stages.training.history import Epoch


@dataclass(frozen=True)
class HeadFit:
    """The head of the settings that scored best, and how they were found.

    Attributes
    ----------
    head : Head
        Fitted to train+validation.
    head_train_only : Head
        The same fitted to train alone.
    settings : dict
        What was chosen, and how.
    candidates : list of dict
        Everything that was tried, with its ``score``.
    history : list of Epoch
        Of a head that trains in epochs.
    fold : callable, optional
        What makes the outputs out of folds, with what the search knows already; None where nothing is folded. A fit
        that leaves it out is searched anew in each fold, which takes as many times as long.
    finish : callable, optional
        Of a problem whose heads may wait (`FitProblem.deferred`): returns the fit with its heads. Until then they are
        heads that nothing was fitted to, and `settings` are empty.
    """

    head: Head
    head_train_only: Head
    settings: dict[str, Any]
    candidates: list[dict[str, Any]]
    history: list[Epoch] = field(default_factory=list)
    fold: Callable[[], OutOfFold | None] | None = None
    finish: Callable[[], HeadFit] | None = None

    @classmethod
    def deferred(
        cls,
        problem: FitProblem,
        candidates: list[dict[str, Any]],
        finish: Callable[[], HeadFit],
        fold: Callable[[], OutOfFold | None],
    ) -> HeadFit:
        """Return what a search found, its heads still to be fitted."""
        unfitted = LinearHead.of_zeros(problem.train.row_shape, problem.task.out_features)
        return cls(unfitted, unfitted, {}, candidates, fold=fold, finish=finish)
