"""Stage 2: cached features + labels -> a head, selected without the test split, which never enters this module.

Every head ends as a torch module: a linear scikit-learn model is folded, with its scaler, into one ``nn.Linear``, so
that saving, joining to the trunk and starting a fine-tuning from it need neither scikit-learn nor pickle. How each kind
is fitted, and its settings are chosen, is told in its own file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.errors import CutonceError, UsageError, listed
from stages.config.head_registry import find_head, import_head, names_where
from stages.config.heads import HeadConfig, HeadName
from stages.fitting.blocks import fit_blocks
from stages.fitting.depths import fit_depths
from stages.fitting.epochs.map_heads import map_loss, map_statistics
from stages.fitting.epochs.torch_heads import fit_torch_head
from stages.fitting.feature_rows import (
    BATCH_ROWS,
    AnyFeatureRows,
    FeatureRows,
    StreamedFeatureRows,
    in_batches,
    require_in_memory,
    require_learnable,
)
from stages.fitting.out_of_fold import OutOfFold, nested
from stages.fitting.problem import CutContext, FitProblem
from stages.fitting.registry import FitFunction
from stages.fitting.result import HeadFit
from stages.fitting.solvers.linear_targets import two_sided
from stages.network.heads.base import Head, vector_width
from stages.network.heads.registry import recipe_of_head
from stages.network.map_layout import MapLayout
from stages.runtime.device import is_lost, not_deterministic, told_as_lost
from stages.runtime.float32 import float32_products
from stages.runtime.memory import free_cached, is_out_of_device_memory
from stages.tasks.base import Statistics, Task, find_metric
from stages.tasks.loss_options import no_classes_to_weigh, require_smoothing
from stages.training.evaluation import evaluate_loss, predict
from stages.training.history import Epoch
from stages.training.losses import logits_of

__all__ = [
    "CutContext",
    "FeatureRows",
    "FitProblem",
    "HeadResult",
    "StreamedFeatureRows",
    "head_method",
    "head_probabilities",
    "head_settings",
    "needs_memory",
    "train_foldable_head",
    "train_head",
]

Computed = TypeVar("Computed")

_LOG = logging.getLogger("cutonce")


@dataclass
class HeadResult:
    """A head, what was tried to get it, and how it validates.

    Attributes
    ----------
    module : Head
        Features [b, *row_shape] -> outputs [b, out_features]; what is tested and used. Refitted on train+validation
        with the selected setting.
    module_train_only : Head
        The same head fitted on train alone: what fine-tuning starts from, since it validates on the validation split.
    val_score, val_loss : float
        Primary metric of the task, and mean loss, of `module_train_only` on the validation split.
    task : Task
        With what `module_train_only` set of it on the validation split: thresholds of labels, intervals of numbers.
    settings : dict
        What was chosen.
    selection : list of dict
        Everything that was tried, with its ``score``.
    history : list of Epoch
        Of torch heads; empty for closed fits.
    val_activated : ndarray of float32 [n, out_features]
        What `module_train_only` says of the rows of validation, as the task reads it; empty where it answers for each
        pixel, of which no more than `val_statistics` is kept.
    val_statistics : array [n, ...]
        What the task keeps of these.
    """

    name: HeadName
    module: Head
    module_train_only: Head
    val_score: float
    val_loss: float
    task: Task
    settings: dict[str, Any] = field(default_factory=dict)
    selection: list[dict[str, Any]] = field(default_factory=list)
    history: list[Epoch] = field(default_factory=list)
    val_activated: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    val_statistics: Statistics = field(default_factory=lambda: np.empty(0))

    @property
    def method(self) -> Literal["linear", "head"]:
        """The method of transfer this head is compared as."""
        return head_method(self.name)

    @property
    def trainable_parameters(self) -> int:
        """Parameters of the head."""
        return sum(parameter.numel() for parameter in self.module.parameters())


def head_method(name: HeadName) -> Literal["linear", "head"]:
    """Return the method of transfer a head is compared as: a linear model on the features, or a head beyond that."""
    return find_head(name).method


def head_settings(name: HeadName, options: HeadConfig, task: Task) -> dict[str, Any]:
    """Return all options of stage 2 by name, as a head is trained with them."""
    on_maps = "dense" in find_head(name).tasks and task.name == "dense"
    return options.resolved(recipe_of_head(name, on_maps=True)) if on_maps else options.resolved()


def get_fit(name: HeadName) -> FitFunction:
    """Return what fits the head called `name`, with all that it needs imported."""
    if find_head(name).in_epochs:
        return partial(fit_torch_head, name)
    fit: FitFunction = import_head(name)
    return fit


def train_head(name: HeadName, problem: FitProblem) -> HeadResult:
    """Train the head called `name` on cached features.

    Raises
    ------
    UsageError
        If there is no such head, or it does not fit the task or the shape of the features, or cannot stream them.
    DataError
        If a split is empty, train holds fewer than two classes, or features are not finite.
    """
    return _train(name, problem)[0]


def train_foldable_head(name: HeadName, problem: FitProblem) -> tuple[HeadResult, Callable[[], OutOfFold | None]]:
    """Train a head as `train_head` does; return it with what makes its outputs out of the folds of the problem.

    That is None where `problem.divisions` are none. It takes time of its own, and holds the rows until it is let go.
    """
    return _train(name, replace(problem, compared=True))


def _train(name: HeadName, problem: FitProblem) -> tuple[HeadResult, Callable[[], OutOfFold | None]]:
    result, fold = _where_there_is_room(name, problem, partial(_trained, name))

    def folded(rows: FitProblem) -> OutOfFold | None:
        return fold() if rows is problem else _trained(name, rows)[1]()

    return result, partial(_where_there_is_room, name, problem, folded)


def _where_there_is_room(name: HeadName, problem: FitProblem, compute: Callable[[FitProblem], Computed]) -> Computed:
    """Return what is computed on the device of a problem or, if its memory is short, on the processor.

    Raises
    ------
    UsageError
        If it is to be deterministic, and torch knows no such way for an operator on the device.
    CutonceError
        If the device is lost.
    """
    device = problem.device
    try:
        return compute(problem)
    except RuntimeError as error:
        if operator := not_deterministic(error):
            raise UsageError(
                f"`deterministic`: torch cannot train {name} with the same bits each time, for want of such a kernel "
                f"for {operator}: leave the option out, or use `device` cpu"
            ) from error
        if is_lost(error):
            raise CutonceError(told_as_lost(device, error)) from error
        if not is_out_of_device_memory(error, device):
            raise
        reason = str(error).splitlines()[0]
    free_cached(device)  # only here has the error let go of what was computed
    _LOG.warning(f"the memory of {device} is not enough for {name}, which the processor computes instead ({reason})")
    return compute(replace(problem, device=torch.device("cpu"), shared={}))


@float32_products()
def _trained(name: HeadName, problem: FitProblem) -> tuple[HeadResult, Callable[[], OutOfFold | None]]:
    kind, fit = find_head(name), get_fit(name)
    require_head_for(name, problem.task, problem.train.row_shape, bags=problem.bags, maps=problem.maps)
    require_classes_to_balance(problem.task, problem.labels, problem.config)
    require_smoothed_loss(name, problem.task, problem.config)
    require_learnable(problem.train, problem.val, problem.task)
    if problem.blocks is not None or needs_memory(name, of_depths=problem.taps is not None):
        require_in_memory(kind.name, problem.train)
        require_in_memory(kind.name, problem.val)

    def fit_rows(rows: FitProblem) -> HeadFit:
        if rows.blocks is not None:
            return fit_blocks(kind, fit, rows.blocks, rows)
        return fit(rows) if rows.taps is None else fit_depths(kind, fit, rows.taps, rows)

    fitted = fit_rows(problem)
    validated = _validate(fitted.head_train_only, problem)
    settings = {"refitted on": "train+val", **fitted.settings}
    if problem.maps is None and (constant := one_sided_labels(problem.task, problem.train.labels)):
        settings["not learned"] = listed(constant)
    result = HeadResult(
        name,
        fitted.head,
        fitted.head_train_only,
        validated.score,
        validated.loss,
        validated.task,
        settings,
        fitted.candidates,
        fitted.history,
        validated.activated,
        validated.statistics,
    )
    fold = fitted.fold or partial(nested, lambda rows: fit_rows(rows).head, problem)
    return result, float32_products()(fold)


def needs_memory(name: HeadName, *, of_depths: bool) -> bool:
    """Return whether a head takes rows of features in memory alone, and not as they are streamed.

    Of features `of_depths` landmarks are taken, which are few.
    """
    return not find_head(name).streams and not of_depths


class _Validated(NamedTuple):
    """How a head validates, by the names that `HeadResult` has for it."""

    score: float
    loss: float
    task: Task
    activated: NDArray[np.float32]
    statistics: Statistics


def _validate(head: Head, problem: FitProblem) -> _Validated:
    """Return loss and score on the validation split, the task as calibrated by the same outputs, and what these say."""
    task = problem.task
    if problem.targets is not None:
        statistics = map_statistics(head, problem.val, problem.targets, task)
        loss = map_loss(head, problem.val, problem.targets, task)
        return _Validated(find_metric(task).score(statistics), loss, task, np.empty((0, 0), np.float32), statistics)
    outputs: list[Tensor] = []
    hook = head.register_forward_hook(lambda _module, _inputs, output: outputs.append(logits_of(output).cpu()))
    try:
        loss, score = evaluate_loss(head, _labelled_batches(problem.val), task)
    finally:
        hook.remove()
    activated, labels = task.activate(torch.cat(outputs)), torch.from_numpy(problem.val.labels)
    calibrated = task.calibrated(activated, labels) if task.calibrates else task
    return _Validated(score, loss, calibrated, np.asarray(activated), calibrated.statistic(activated, labels))


def one_sided_labels(task: Task, labels: NDArray[Any]) -> list[str]:
    """Return the names of the labels that all rows have where it is known, or none: nothing tells them apart.

    There are none where a row has one class, or numbers.
    """
    if labels.ndim == 1 or task.outputs == "values":
        return []
    one_sided = np.setdiff1d(np.arange(task.out_features), two_sided(labels))
    return [task.decode(label) for label in torch.eye(task.out_features)[one_sided]]


def in_words(names: Sequence[str]) -> str:
    """Return names with commas, and "and" before the last."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def require_head_for(
    name: HeadName,
    task: Task,
    row_shape: tuple[int, ...],
    *,
    bags: bool,
    maps: MapLayout | None = None,
    option: str = "head",
) -> None:
    """Refuse a head that does not predict the task, or does not take rows of the kind: nothing is computed for it.

    Parameters
    ----------
    row_shape
        Of the row of an image, or of what became of the images of a sample.
    bags
        Whether samples have several images.
    maps
        What is in a row, where there is an answer for each place of it.
    option
        Which names the head.

    Raises
    ------
    UsageError
        That names the heads that do.
    """
    kind = find_head(name)
    if (kind.tasks or maps is not None) and task.name not in kind.tasks:
        able = names_where(lambda other: (maps is None and not other.tasks) or task.name in other.tasks)
        meant = f"for the task {in_words(kind.tasks)}" if kind.tasks else "a module that answers for an image"
        raise UsageError(
            f"`{option}` {kind.name} is {meant}, not for {task.name}; "
            + (f"take one that is: {able}" if able else "no head is")
        )
    if kind.rows == "bag" and not bags:
        raise UsageError(
            f"`{option}` {kind.name} takes samples of several images (`images`, `sample`, `frames`), and here each is "
            f"one; take one of the others: {names_where(lambda other: other.rows not in ('bag', 'maps'))}"
        )
    if kind.rows == "vector" and maps is None:
        vector_width(kind.name, row_shape)


def require_smoothed_loss(name: HeadName, task: Task, options: HeadConfig) -> None:
    """Refuse to smooth the targets of a head that trains in epochs, where these cannot be smoothed.

    Raises
    ------
    UsageError
    """
    if not options.fit_label_smoothing or not find_head(name).in_epochs or task.reads == "image":
        return
    require_smoothing(task, "fit_label_smoothing", options.fit_label_smoothing)


def require_classes_to_balance(task: Task, labels: NDArray[Any], options: HeadConfig) -> None:
    """Refuse to balance what there is not, or cannot be drawn alike.

    Parameters
    ----------
    task : Task
    labels : array [n, ...]
        Targets of some samples, at least one; of masks, whatever says where they are.
    options : HeadConfig

    Raises
    ------
    UsageError
        That says which option does.
    """
    balanced = options.class_weights == "balanced"
    if not balanced and options.sampling != "balanced":
        return
    if task.reads == "image":  # classes are weighed pixel by pixel
        if options.sampling == "balanced":
            raise UsageError(
                f"`sampling` balanced draws samples of one class each, and each sample of the task {task.name} "
                "has many; use `class_weights` balanced, which weighs pixels"
            )
        return
    weights = task.weights(labels[:1])
    if weights is None and balanced:
        raise no_classes_to_weigh(task)
    if (weights is None or weights.ndim > 1) and options.sampling == "balanced":
        instead = "" if weights is None else "; use `class_weights` balanced, which weighs each label's samples"
        raise UsageError(
            f"`sampling` balanced draws samples of one class each, and the task {task.name} has none{instead}"
        )


@float32_products()
def head_probabilities(module: nn.Module, rows: NDArray[Any] | AnyFeatureRows, task: Task) -> NDArray[np.float32]:
    """Return what a head says of cached features [n, *row_shape], as the task reads it: probabilities or values."""
    blocks: Iterable[Tensor]
    if isinstance(rows, np.ndarray):
        blocks = torch.split(torch.from_numpy(rows), BATCH_ROWS)
    else:
        blocks = (torch.from_numpy(block) for _, block in in_batches(rows))
    return np.asarray(predict(module, blocks, task).numpy())


def _labelled_batches(rows: AnyFeatureRows) -> Iterator[tuple[Tensor, Tensor]]:
    for indices, block in in_batches(rows):
        yield torch.from_numpy(block).float(), torch.from_numpy(rows.labels[indices])
