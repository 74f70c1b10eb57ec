"""Heads on maps: steps over cached rows, a loss on thinned masks, scores on whole ones; memory is that of a few images.

Neighboring pixels are nearly always of one class, so a loss on every fourth or eighth pixel of each side learns the
same in a fraction of the time. Epochs are compared on validation masks that are thinned alike; what is reported of a
head, of the validation split too, is of every pixel of the masks as they are stored.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.fitting.feature_rows import AnyFeatureRows, in_batches
from stages.fitting.problem import FitProblem, PixelTargets, full_batches_of_views
from stages.network.heads.base import Head
from stages.network.heads.map_head import MapHead, resized
from stages.runtime.device import supports_bf16, uploaded
from stages.runtime.float32 import float32_products
from stages.runtime.seeding import epoch_seed
from stages.tasks.base import Statistics, Task, TensorBatch, find_metric
from stages.training.config import TrainConfig
from stages.training.history import Epoch, Validation
from stages.training.lr_schedules import LRScheduleConfig, make_schedule

MOST_NUMBERS = 1 << 24
"""Of the largest array that whole masks are predicted in: probabilities of some images at the size of their masks."""

_WARMUP = 0.1
"""Share of the steps in which the rate of the one-cycle schedule rises."""

_ANNEALED = 0.75
"""Share of the epochs after which one may be the best: before, the rate is high, and the best of some is luck."""

_BELOW_ALL = 2.0
"""Taken off the scores of others, which are shares."""

_STEP_IMAGES = 8
"""Images that a head is asked about at a time where masks are thinned."""


class MapHeadTraining:
    """The trainee that is a head on maps; see :func:`stages.training.train_loop.run_epochs`.

    Parameters
    ----------
    template : Head
        A `MapHead`.
    settings : list of dict
        Highest rate and weight decay, of one.
    problem : FitProblem
    rows : FeatureRows or StreamedFeatureRows
        What is trained on.
    scaler : object
        Of no use: the heads have a BatchNorm in front.
    validates : bool
        Whether there is a validation split beside the rows.
    label_size : (int, int), optional
        Height and width that masks are thinned to; by default what suits the head.

    Attributes
    ----------
    head : MapHead
        What is trained, on the device.
    """

    def __init__(
        self,
        template: Head,
        settings: list[dict[str, float]],
        problem: FitProblem,
        rows: AnyFeatureRows,
        scaler: object,
        validates: bool = True,
        label_size: tuple[int, int] | None = None,
    ) -> None:
        (self._setting,) = settings
        self.settings = settings
        recipe, options = problem.recipe, problem.config
        # no early end: epochs are few, and what counts comes as the rate goes down
        self.config = TrainConfig(recipe.epochs, problem.seed, label_smoothing=options.fit_label_smoothing)
        self._problem, self._rows, self._validates = problem, rows, validates
        self.head = as_map_head(copy.deepcopy(template)).to(problem.device)
        self.head.convolves_in_bf16 = convolves_in_bf16(self.head, problem.device)
        self._metric, self._masks = find_metric(problem.task), masks_of(problem)
        self._size = label_size or self.head.label_size
        decaying, others = _by_decay(self.head)
        self._optimizer = torch.optim.AdamW(
            [
                {"params": decaying, "weight_decay": self._setting["weight decay"]},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self._setting["rate"],
            fused=problem.device.type in ("cpu", "cuda"),
        )
        steps_per_epoch = max(len(rows) // recipe.batch_size, 1)
        self._schedule = make_schedule(
            self._optimizer, LRScheduleConfig("onecycle", _WARMUP), steps_per_epoch, recipe.epochs
        )
        self._class_weights = (
            class_weights_of(self._masks, rows.labels, self._size, problem.task).to(problem.device)
            if problem.balanced
            else None
        )
        self._epoch, self._loss_sum, self._seen = 0, 0.0, 0

    @float32_products(tf32=True)  # as torch has convolutions by itself: they are nearly all of the time
    def train_epoch(self, epoch: int) -> None:
        """Show the head the full batches of an epoch."""
        self._epoch, self._loss_sum, self._seen = epoch, 0.0, 0
        seed = epoch_seed(self.config.seed, epoch)
        torch.manual_seed(seed)
        self.head.train()
        for indices, views, block in full_batches_of_views(self._rows, self._problem, seed):
            if len(block) == 1:  # the mean of an image has no variance over a batch of one
                indices, views, block = (np.repeat(part, 2, axis=0) for part in (indices, views, block))
            losses = self._losses(self._inputs(block), self._targets(self._rows.labels[indices], views))
            loss = losses.mean()
            self._optimizer.zero_grad(set_to_none=True)
            if math.isfinite(value := float(loss.detach())):
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()
            self._schedule.step()
            self._loss_sum += value * len(indices)
            self._seen += len(indices)

    def validate(self) -> list[Validation]:
        """Return loss and score on the thinned masks of validation."""
        if not self._validates:
            return []
        val = self._problem.val
        loss, statistics = self.validated()
        if statistics is None:
            return [Validation(loss, math.nan, math.nan)]
        score = self._metric.score(statistics)
        selection = score if self._metric.higher_is_better else -score
        if self._epoch <= _ANNEALED * self.config.epochs:
            selection -= _BELOW_ALL
        return [Validation(loss / len(val), score, selection)]

    @float32_products(tf32=True)
    @torch.no_grad()
    def validated(self) -> tuple[float, Statistics | None]:
        """Return the loss on the thinned masks of validation, summed, and what the task keeps of each; None if lost."""
        self.head.eval()
        task, val = self._problem.task, self._problem.val
        loss, statistics = 0.0, []
        for indices, block in _few(val, _STEP_IMAGES):
            targets = self._targets(val.labels[indices])
            logits = resized(self.head(self._inputs(block)), self._size)
            loss += float(task.loss(logits, targets))
            if not math.isfinite(loss):
                return loss, None
            statistics.append(task.statistic(logits, targets))
        return loss, np.concatenate(statistics)

    def row(self, index: int, validation: Validation, seconds: float) -> Epoch | None:
        """Return the row of the epoch; None where the loss is lost."""
        train_loss = self._loss_sum / self._seen if self._seen else math.nan
        if not math.isfinite(train_loss) or not math.isfinite(validation.loss):
            return None
        rate = float(self._optimizer.param_groups[0]["lr"])
        return Epoch(self._epoch, train_loss, None, validation.loss, validation.score, rate, seconds)

    def snapshot(self, index: int) -> dict[str, Tensor]:
        """Return a copy of all tensors."""
        return {name: tensor.detach().clone() for name, tensor in self.head.state_dict().items()}

    def end_epoch(self) -> None:
        """Nothing is kept on disk: a head that was stopped is trained again."""

    def _inputs(self, block: NDArray[Any]) -> Tensor:
        return uploaded(torch.from_numpy(block), self._problem.device).float()

    def _targets(self, places: NDArray[np.int64], views: NDArray[np.int64] | None = None) -> Tensor:
        return uploaded(torch.from_numpy(self._masks.thinned(places, self._size, views)), self._problem.device)

    def _losses(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each image, [b]."""
        return self._problem.task.loss(
            resized(self.head(rows), self._size),
            targets,
            smoothing=self.config.label_smoothing,
            class_weights=self._class_weights,
            reduction="none",
        )


def map_statistics(head: nn.Module, rows: AnyFeatureRows, masks: PixelTargets, task: Task) -> Statistics:
    """Return what the task keeps of each image, of every pixel of its mask as it is stored.

    Parameters
    ----------
    head : nn.Module
        A `MapHead`, in evaluation mode from here on.
    rows : FeatureRows or StreamedFeatureRows
        Whose labels are places in `masks`.
    """
    return np.concatenate(
        [task.statistic(activated, targets) for activated, targets in _activated(head, rows, masks, task)]
    )


def activated_images(
    head: nn.Module, rows: AnyFeatureRows, masks: PixelTargets, task: Task
) -> Iterator[tuple[Tensor, NDArray[np.uint8]]]:
    """Yield the probabilities of each image, [classes, H, W], beside its mask as it is stored, in order.

    Parameters
    ----------
    head, rows, masks, task
        As of `map_statistics`.
    """
    for activated, targets in _activated(head, rows, masks, task):
        for probabilities, mask in zip(activated, targets, strict=True):
            yield probabilities, mask.numpy()


def _activated(
    head: nn.Module, rows: AnyFeatureRows, masks: PixelTargets, task: Task
) -> Iterator[tuple[TensorBatch, TensorBatch]]:
    """Yield what a head answers at the size of masks as they are stored, and these, some images at a time."""
    head = as_map_head(head).eval()
    device = next(head.parameters()).device
    for indices, block in _few(rows, _STEP_IMAGES):
        places = rows.labels[indices]
        with torch.no_grad(), float32_products():
            logits = head(torch.from_numpy(block).to(device).float())
        for part in _parts(masks.shapes(places), task.out_features):
            targets = task.collate([torch.from_numpy(mask) for mask in masks.full(places[part])])
            shapes = [tuple(target.shape) for target in targets]
            yield activated_at(logits[part], shapes, masks, task), targets


@torch.no_grad()
def map_loss(head: nn.Module, rows: AnyFeatureRows, masks: PixelTargets, task: Task) -> float:
    """Return the mean loss of images, on masks that are thinned as in training."""
    head = as_map_head(head).eval()
    device = next(head.parameters()).device
    loss = 0.0
    for indices, block in _few(rows, _STEP_IMAGES):
        targets = torch.from_numpy(masks.thinned(rows.labels[indices], head.label_size)).to(device)
        logits = head(torch.from_numpy(block).to(device).float())
        loss += float(task.loss(resized(logits, head.label_size), targets))
    return loss / len(rows)


def activated_at(logits: Tensor, shapes: Sequence[tuple[int, ...]], masks: PixelTargets, task: Task) -> TensorBatch:
    """Return the logits of views, [b, classes, h, w], activated at the size of the masks that lie over them."""
    seen = [masks.seen(of_image, (shape[0], shape[1])) for of_image, shape in zip(logits, shapes, strict=True)]
    if len({part.shape for part in seen}) == 1:
        return task.activate(torch.stack(seen), shapes)
    return tuple(task.activate(part[None], [shape])[0] for part, shape in zip(seen, shapes, strict=True))


@float32_products()
def predicted_masks(
    head: nn.Module, rows: NDArray[Any], places: NDArray[np.int64], masks: PixelTargets, task: Task
) -> list[NDArray[np.uint8]]:
    """Return the class of each pixel of some images, whose rows and places are given, each uint8 [H, W]."""
    head = as_map_head(head).eval()
    device = next(head.parameters()).device
    predicted = []
    with torch.no_grad():
        for row, shape in zip(rows, masks.shapes(places), strict=True):
            logits = head(torch.from_numpy(row[None]).to(device).float())
            (mask,) = task.predict(activated_at(logits, [shape], masks, task))
            predicted.append(np.asarray(mask.cpu().numpy(), dtype=np.uint8))
    return predicted


def class_weights_of(masks: PixelTargets, places: NDArray[np.int64], size: tuple[int, int], task: Task) -> Tensor:
    """Return a weight for each class, float32 [classes], whose mean over all pixels is 1.

    The square root of the median of the classes' shares over a class's own: median frequency balancing (Eigen & Fergus
    2015, "Predicting depth, surface normals and semantic labels", section 6.3.2), whose root keeps a class of a
    thousandth of the pixels from ruling the loss. A class that has no pixel has the weight 1.
    """
    counts = np.zeros(task.out_features)
    for start in range(0, len(places), _STEP_IMAGES):
        thinned = masks.thinned(places[start : start + _STEP_IMAGES], size)
        counts += np.bincount(thinned.ravel(), minlength=256)[: task.out_features]
    there = counts > 0
    weights = np.ones(task.out_features)
    weights[there] = np.sqrt(np.median(counts[there]) / counts[there])
    return torch.from_numpy(weights * counts.sum() / (weights * counts).sum()).float()


def convolves_in_bf16(head: nn.Module, device: torch.device) -> bool:
    """Return whether a head is trained with convolutions in bf16: where a processor has instructions for that.

    They take less than half the time, and are nearly all of it; scores are those of another seed.
    """
    return device.type == "cpu" and isinstance(head, MapHead) and head.has_wide_convolutions and supports_bf16(device)


def as_map_head(head: nn.Module) -> MapHead:
    """Return a head that is one on maps."""
    assert isinstance(head, MapHead)
    return head


def masks_of(problem: FitProblem) -> PixelTargets:
    """Return the masks of a problem that has maps."""
    assert problem.targets is not None
    return problem.targets


def _few(rows: AnyFeatureRows, count: int) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Yield all rows in order, so many at a time."""
    for indices, block in in_batches(rows):
        for start in range(0, len(indices), count):
            yield indices[start : start + count], block[start : start + count]


def _parts(shapes: Sequence[tuple[int, int]], classes: int) -> Iterator[slice]:
    """Yield which masks are predicted together: so many that memory stays bounded, one at least."""
    start, largest = 0, 0
    for place, (height, width) in enumerate(shapes):
        larger = max(largest, height * width)
        if place > start and (place + 1 - start) * larger * classes > MOST_NUMBERS:
            yield slice(start, place)
            start, larger = place, height * width
        largest = larger
    if len(shapes):
        yield slice(start, len(shapes))


def _by_decay(head: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the kernels, which decay, and the rest: biases and normalization, as in `VmapHeads`."""
    kernels = [parameter for parameter in head.parameters() if parameter.ndim > 1]
    return kernels, [parameter for parameter in head.parameters() if parameter.ndim <= 1]
