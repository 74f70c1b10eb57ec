"""Options of the loss that a task may know nothing of, whatever is trained by it."""

from __future__ import annotations

import torch

from cache.errors import UsageError
from stages.tasks.base import Task


def require_smoothing(task: Task, option: str, smoothing: float) -> None:
    """Refuse to smooth targets that cannot be smoothed.

    Raises
    ------
    UsageError
        That names the option.
    """
    nothing = torch.zeros(0, task.out_features)
    try:
        task.loss(nothing, nothing, smoothing=smoothing)
    except UsageError as error:
        raise UsageError(f"`{option}` {smoothing:g}: {error}") from error


def no_classes_to_weigh(task: Task) -> UsageError:
    """Return the error that a task has no classes of which rare ones could count more."""
    return UsageError(f"`class_weights` balanced weighs classes, and the task {task.name} has none")
