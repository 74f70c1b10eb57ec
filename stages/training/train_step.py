"""One step of an optimiser: over several batches, in parts where memory is short, together with other processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim import Optimizer

from cache.errors import CutonceError
from stages.runtime.device import to_device
from stages.runtime.distributed import SINGLE_PROCESS, Rank
from stages.runtime.norm_layers import NORM_LAYERS
from stages.tasks.base import Task, find_metric
from stages.tasks.running_score import Sums, is_of_sums, sums_of
from stages.training.amp import MixedPrecision
from stages.training.config import TrainConfig
from stages.training.history import RunningMetrics
from stages.training.losses import TaskLoss, l1_penalty, logits_of, statistics_of
from stages.training.sample_images import Inputs, parts_of

Batch = tuple[Inputs, Tensor]


class NotFiniteError(CutonceError):
    """A training is lost: its loss or its weights are not numbers any more. Says which."""


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

    Attributes
    ----------
    precision : MixedPrecision
    micro_batches : int
        In how many parts a batch goes through the model; doubled when memory runs out.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, options: TrainConfig, task: Task, rank: Rank = SINGLE_PROCESS
    ) -> None:
        self._model, self._optimizer, self._task, self._rank = model, optimizer, task, rank
        self._device = next(model.parameters()).device
        self._loss, self._metric = TaskLoss(task, options.label_smoothing), find_metric(task)
        self._l1, self._clip = options.l1, options.clip_grad
        self.precision = MixedPrecision(options.amp_dtype, self._device)
        self.micro_batches = 1

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
            If the loss is NaN or infinite; before anything is changed.
        CutonceError
            If there is too little memory even for one sample at a time.
        """
        sums, score_sums = self._gradients(batches, seed)
        if self._rank.world_size > 1:
            sums = self._averaged_over_processes(sums)
            torch.distributed.all_reduce(score_sums)
        *values, count = sums.tolist()
        tally = RunningMetrics(dict(zip(self._names, values, strict=True)), score_sums.tolist(), int(count))
        if not torch.isfinite(sums).all():
            raise NotFiniteError(f"training loss became {tally.loss}")
        self.precision.step(self._optimizer, self._trained(), self._clip)
        return tally

    def _gradients(self, batches: Sequence[Batch], seed: int) -> tuple[Tensor, Tensor]:
        """Compute gradients of the mean loss, however many parts it takes; return what `_backward` does."""
        while True:
            statistics = self._running_statistics()
            try:
                return self._backward(batches, seed)
            except RuntimeError as error:
                largest = max(len(targets) for _, targets in batches)
                if not _is_out_of_memory(error):
                    raise
                if self.micro_batches >= largest:
                    raise CutonceError(
                        f"the memory of {self._device} is not enough to train on one image at a time; choose a smaller "
                        "`image_size`, unfreeze less, or use `amp_dtype`"
                    ) from error
            # only here has the error let go of what the forward pass held
            for buffer, saved in statistics:
                buffer.copy_(saved)
            self.micro_batches *= 2
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            warnings.warn(
                f"not enough memory on {self._device} for a batch of {largest}: it is computed in "
                f"{self.micro_batches} parts "
                "from now on",
                stacklevel=2,
            )

    def _backward(self, batches: Sequence[Batch], seed: int) -> tuple[Tensor, Tensor]:
        """Compute gradients of the mean loss.

        Returns
        -------
        sums : float32 [k + 1]
            Each term of the loss summed over the samples, and their number.
        score_sums : float64
            What they add up to for the primary metric.
        """
        torch.manual_seed(seed)
        self._optimizer.zero_grad(set_to_none=True)
        count = sum(len(targets) for _, targets in batches)
        sums: dict[str, Tensor] = {}
        outputs: list[tuple[Tensor, Tensor]] = []
        for inputs, targets in self._parts_of(batches):
            with self.precision.autocast():
                output = self._model(inputs)
            terms = self._loss.terms(output, targets)
            self.precision.backward(torch.stack(list(terms.values())).sum() / count)
            sums = {name: sums.get(name, 0.0) + term.detach() for name, term in terms.items()}
            outputs.append((logits_of(output).detach(), targets))
        if self._l1 and (regularized := self._trained(regularized=True)):
            penalty = self._l1 * l1_penalty(regularized)
            self.precision.backward(penalty)
            sums["l1"] = penalty.detach() * count
        self._names = list(sums)
        term_sums = torch.stack(list(sums.values()))
        score_sums = self._score_sums(outputs, finite=bool(term_sums.isfinite().all()))
        return torch.cat([term_sums, term_sums.new_tensor([count])]), score_sums

    def _score_sums(self, outputs: Sequence[tuple[Tensor, Tensor]], finite: bool) -> Tensor:
        """Return what samples, as (logits, targets), add to the primary metric, float64 [k]; k is 0 if it is no sum.

        In float64, since the variance of large numbers is a small difference of large sums.

        Statistics of outputs that are not finite are refused. This process must then not fail alone, while others wait
        for its gradients, so it goes on to the exchange with sums of the same length, after which all of them fail.
        """
        totals: Sums = np.empty(0)
        if is_of_sums(self._metric):
            statistics = [
                statistics_of(self._task, logits if finite else torch.zeros_like(logits), targets)
                for logits, targets in outputs
            ]
            sums = [sums_of(self._metric, part) for part in statistics]
            totals = np.sum([part for part in sums if part is not None], axis=0)
        # several processes exchange them where their gradients are
        return torch.from_numpy(totals).to(self._device if self._rank.world_size > 1 else "cpu")

    def _averaged_over_processes(self, sums: Tensor) -> Tensor:
        """Replace the gradients by their mean over the samples of all processes; return the sums over them.

        DistributedDataParallel exchanges gradients while they are computed. So it cannot repeat what ran out of
        memory, must be made anew for each block that begins to train, and counts a process with fewer samples as much
        as the others. One exchange after the last backward pass has none of these limits.
        """
        parameters = self._trained()
        count = sums[-1]
        has_gradient = torch.tensor(
            [float(parameter.grad is not None) for parameter in parameters], device=self._device
        )
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters
        ]
        flat = torch.cat([has_gradient, sums, *(gradient.flatten() * count for gradient in gradients)])
        torch.distributed.all_reduce(flat)
        has_gradient, sums, means = torch.split(
            flat, [len(has_gradient), len(sums), len(flat) - len(has_gradient) - len(sums)]
        )
        means /= sums[-1]
        mean_of_each = torch.split(means, [parameter.numel() for parameter in parameters])
        for parameter, gradient, mean, has_grad in zip(
            parameters, gradients, mean_of_each, has_gradient.tolist(), strict=True
        ):
            if has_grad:
                parameter.grad = gradient.copy_(mean.view_as(gradient))
        return sums

    def _parts_of(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        for inputs, targets in batches:
            for part, part_targets in parts_of(inputs, targets, min(self.micro_batches, len(targets))):
                yield part.to(self._device, non_blocking=True), to_device(part_targets, self._device)

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


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory was short; on CPU and MPS torch says so by the message alone."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        phrase in str(error) for phrase in ("out of memory", "can't allocate memory")
    )
