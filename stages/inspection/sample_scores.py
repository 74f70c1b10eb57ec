"""What each sample contributes to a score, where that is a share of samples or a mean of shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray

from cache.errors import UsageError
from stages.tasks.base import Statistics, Task, find_metric


def require_share(task: Task) -> Callable[[Statistics], NDArray[Any]]:
    """Return what scores each sample by the task's primary metric: bool where a sample is right or wrong.

    Raises
    ------
    UsageError
        If that metric is not the mean of shares, the higher the better: standard errors and power laws are of such.
    """
    metric = find_metric(task)
    if metric.per_sample is None or not metric.as_percent or not metric.higher_is_better:
        raise UsageError(
            f"learning curves and probes are of a share that is averaged over images, as accuracy is; {metric.name} of "
            f"the task {task.name} is none"
        )
    return metric.per_sample


def sample_scores(task: Task, activated: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
    """Return the score of each sample, [n], of activated outputs of a head, [n, out_features].

    Raises
    ------
    UsageError
        As `require_share`.
    """
    return require_share(task)(task.statistic(torch.from_numpy(activated), torch.from_numpy(targets)))
