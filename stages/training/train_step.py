"""One step of an optimiser: over several batches, in parts where memory is short, together with other processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim import Optimizer

from cache.errors import CutonceError
from stages.runtime.device import to_device
from stages.runtime.distributed import SINGLE_PROCESS, Rank
from stages.runtime.memory import free_cached, is_out_of_memory
from stages.runtime.norm_layers import NORM_LAYERS
from stages.tasks.base import Task, find_metric
from stages.tasks.running_score import Sums, is_of_sums, sums_of
from stages.training.amp import MixedPrecision
from stages.training.class_weights import ClassWeights
from stages.training.config import TrainConfig
from stages.training.history import RunningMetrics
from stages.training.losses import TaskLoss, l1_penalty, logits_of, statistics_of
from stages.training.outcomes import Outcome, is_time_to_read, on_host
from stages.training.sample_images import Inputs, parts_of

Batch = tuple[Inputs, Tensor]


class NotFiniteError(CutonceError):
    """A training is lost: its loss or its weights are not numbers any more. Says which.

    Attributes
    ----------
    steps_ago : int
        How many steps were taken since; more than 0 only where losses are read late, as of a GPU.
    """

    def __init__(self, message: str, steps_ago: int = 0) -> None:
        super().__init__(message)
        self.steps_ago = steps_ago


class TrainStep:
    """What is done to a model with each few batches.

    Parameters
    ----------
    model : nn.Module
        Inputs -> logits, alone or with those of auxiliary classifiers.
    optimizer : Optimizer
    options : TrainConfig
    task : Task
    rank : Rank
        One of several processes that each have a share of every step's samples.
    weights : ClassWeights, optional
        How much classes count in the loss; by default alike.

    Attributes
    ----------
    device : torch.device
        Where the model is.
    precision : MixedPrecision
    micro_batches : int
        In how many parts a batch goes through the model; doubled when memory runs out.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        options: TrainConfig,
        task: Task,
        rank: Rank = SINGLE_PROCESS,
        weights: ClassWeights | None = None,
    ) -> None:
        self._model, self._optimizer, self._task, self._rank = model, optimizer, task, rank
        self.device = next(model.parameters()).device
        here = None if weights is None else weights.to(self.device)
        self._loss, self._metric = TaskLoss(task, options.label_smoothing, here), find_metric(task)
        self._l1, self._clip = options.l1, options.clip_grad
        self.precision = MixedPrecision(options.amp_dtype, self.device)
        self.micro_batches = 1
        self._names: list[str] = []
        self._unread: list[tuple[list[str], Outcome]] = []

    def __call__(self, batches: Sequence[Batch], seed: int) -> RunningMetrics:
        """Move the weights once, by the mean gradient over all samples of `batches`, of all processes.

        Parameters
        ----------
        batches : sequence of (inputs, targets)
        seed : int
            What the model draws, for dropout for one, depends on it and on the number of parts.

        Returns
        -------
        RunningMetrics
            Sums over all samples, of all processes.

        Raises
        ------
        NotFiniteError
            If the loss is NaN or infinite; on a CPU, and where several processes train, before anything is changed.
        CutonceError
            If there is too little memory even for one sample at a time.
        """
        *_, metrics = [*self.take(batches, seed), *self.outstanding()]
        return metrics

    def take(self, batches: Sequence[Batch], seed: int) -> list[RunningMetrics]:
        """Move the weights once, as a call does; return what is known by now of steps, in their order.

        A GPU is not waited for: there it is nothing for some steps, and then that of all of them together. On a CPU,
        and where several processes train, it is always that of this step.

        Raises
        ------
        NotFiniteError, CutonceError
            As for a call, also of steps that were taken before.
        """
        outcome = self._gradients(batches, seed)
        alone = self._rank.world_size == 1
        if not alone:
            outcome = replace(outcome, sums=self._averaged_over_processes(outcome.sums))
        self._unread.append((self._names, outcome))
        late = alone and not is_time_to_read([unread for _, unread in self._unread], self.device)
        known = [] if late else self.outstanding()
        self.precision.step(self._optimizer, self._trained(), self._clip)
        return known

    def outstanding(self) -> list[RunningMetrics]:
        """Return what came of the steps that nothing is known of yet, in their order.

        Raises
        ------
        NotFiniteError
            If the loss of one of them is NaN or infinite.
        """
        names, unread = [names for names, _ in self._unread], on_host([outcome for _, outcome in self._unread])
        self._unread.clear()
        metrics = []
        for number, outcome in enumerate(unread):
            *values, count = outcome.sums.tolist()
            metric = RunningMetrics(dict(zip(names[number], values, strict=True)), [], int(count))
            if not outcome.sums.isfinite().all():
                raise NotFiniteError(f"training loss became {metric.loss}", len(unread) - 1 - number)
            metrics.append(replace(metric, score_sums=self._score_sums(outcome.outputs)))
        return metrics

    def _gradients(self, batches: Sequence[Batch], seed: int) -> Outcome:
        """Compute gradients of the mean loss, however many parts it takes; return what `_backward` does."""
        while True:
            statistics = self._running_statistics()
            try:
                return self._backward(batches, seed)
            except RuntimeError as error:
                largest = max(len(targets) for _, targets in batches)
                if not is_out_of_memory(error):
                    raise
                if self.micro_batches >= largest:
                    raise CutonceError(
                        f"the memory of {self.device} is not enough to train on one image at a time; choose a smaller "
                        "`image_size`, unfreeze less, or use `amp_dtype`"
                    ) from error
            # only here has the error let go of what the forward pass held
            for buffer, saved in statistics:
                buffer.copy_(saved)
            self.micro_batches *= 2
            free_cached(self.device)
            warnings.warn(
                f"not enough memory on {self.device} for a batch of {largest}: it is computed in "
                f"{self.micro_batches} parts "
                "from now on",
                stacklevel=2,
            )

    def _backward(self, batches: Sequence[Batch], seed: int) -> Outcome:
        """Compute gradients of the mean loss; return the terms of the loss with the number of samples behind them."""
        torch.manual_seed(seed)
        self._optimizer.zero_grad(set_to_none=True)
        count = sum(len(targets) for _, targets in batches)
        sums: dict[str, Tensor] = {}
        outputs: list[tuple[Tensor, Tensor]] = []
        scored = is_of_sums(self._metric)
        for inputs, targets, given in self._parts_of(batches):
            with self.precision.autocast():
                output = self._model(inputs)
            terms = self._loss.terms(output, targets)
            self.precision.backward(torch.stack(list(terms.values())).sum() / count)
            sums = {name: sums.get(name, 0.0) + term.detach() for name, term in terms.items()}
            if scored:
                outputs.append((logits_of(output).detach(), given))
        if self._l1 and (regularized := self._trained(regularized=True)):
            penalty = self._l1 * l1_penalty(regularized)
            self.precision.backward(penalty)
            sums["l1"] = penalty.detach() * count
        self._names = list(sums)
        term_sums = torch.stack(list(sums.values()))
        # filled in where it is: a number that is brought there waits for the device
        return Outcome(torch.cat([term_sums, term_sums.new_full((1,), count)]), tuple(outputs))

    def _score_sums(self, outputs: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
        """Return what samples, as (logits, targets), add to the primary metric, [k]; k is 0 if it is no sum.

        In float64, since the variance of large numbers is a small difference of large sums.
        """
        if not is_of_sums(self._metric):
            return []
        statistics = [statistics_of(self._task, logits, targets) for logits, targets in outputs]
        sums = [sums_of(self._metric, part) for part in statistics]
        totals: Sums = np.sum([part for part in sums if part is not None], axis=0)
        if self._rank.world_size == 1:
            return list(totals.tolist())
        exchanged = torch.from_numpy(totals).to(self.device)  # where the gradients are
        torch.distributed.all_reduce(exchanged)
        return list(exchanged.tolist())

    def _averaged_over_processes(self, sums: Tensor) -> Tensor:
        """Replace the gradients by their mean over the samples of all processes; return the sums over them.

        DistributedDataParallel exchanges gradients while they are computed. So it cannot repeat what ran out of
        memory, must be made anew for each block that begins to train, and counts a process with fewer samples as much
        as the others. One exchange after the last backward pass has none of these limits.
        """
        parameters = self._trained()
        count = sums[-1]
        has_gradient = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=self.device)
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters
        ]
        flat = torch.cat([has_gradient, sums, *(gradient.flatten() * count for gradient in gradients)])
        torch.distributed.all_reduce(flat)
        read = flat[: len(has_gradient) + len(sums)].cpu()  # once for both: each copy waits for the device
        has_gradient, sums = torch.split(read, [len(has_gradient), len(sums)])
        means = flat[len(read) :].div_(flat[len(read) - 1])
        mean_of_each = torch.split(means, [parameter.numel() for parameter in parameters])
        for parameter, gradient, mean, has_grad in zip(
            parameters, gradients, mean_of_each, has_gradient.tolist(), strict=True
        ):
            if has_grad:
                parameter.grad = gradient.copy_(mean.view_as(gradient))
        return sums

    def _parts_of(self, batches: Sequence[Batch]) -> Iterator[tuple[Inputs, Tensor, Tensor]]:
        """Yield inputs and targets on the device, and the targets as they were given."""
        for inputs, targets in batches:
            for part, part_targets in parts_of(inputs, targets, min(self.micro_batches, len(targets))):
                yield part.to(self.device, non_blocking=True), to_device(part_targets, self.device), part_targets

    def _trained(self, regularized: bool | None = None) -> list[nn.Parameter]:
        return [
            parameter
            for group in self._optimizer.param_groups
            if regularized is None or group["regularised"] == regularized
            for parameter in group["params"]
            if parameter.requires_grad
        ]

    def _running_statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Return the buffers that a forward pass moves, each with a copy: a repeated step must move them once."""
        layers = [layer for layer in self._model.modules() if isinstance(layer, NORM_LAYERS) and layer.training]
        return [(buffer, buffer.clone()) for layer in layers for buffer in layer.buffers(recurse=False)]
