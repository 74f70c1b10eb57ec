"""Many torch heads trained at once, each with its own learning rate and weight decay, on the same batches.

What the heads share, the reading of the rows above all, is done once, and their matrix products become one batched
product (`torch.func`), as DINOv2 does for its linear probes. A head trained so takes the same steps as one trained
alone: losses are summed, so that no gradient crosses over, and AdamW acts element by element.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from stages.network.heads.base import Head
from stages.runtime.norm_layers import NORM_LAYERS

PRETRAINED_FACTOR = 0.1
"""Rate of pretrained blocks against that of a new output layer above them."""

_BETA2, _EPSILON = 0.999, 1e-8


def has_norm_layers(head: nn.Module) -> bool:
    """Return whether a head normalizes rows by others of their batch, of which there have to be two then."""
    return any(isinstance(module, NORM_LAYERS) for module in head.modules())


class VmapHeads(nn.Module):
    """Heads of one kind, trained side by side: rows [b, *row_shape] -> logits [b, M, out_features].

    Parameters
    ----------
    heads : sequence of Head
        M of them, equal but for the values of their tensors.
    rates, decays : sequence of float
        Highest learning rate and decoupled weight decay of each; biases and normalization do not decay.
    device : torch.device
    """

    def __init__(
        self, heads: Sequence[Head], rates: Sequence[float], decays: Sequence[float], device: torch.device
    ) -> None:
        super().__init__()
        self.size = len(heads)
        self._pattern = copy.deepcopy(heads[0]).to(device)
        self._single = len(heads) == 1
        self._normalizes = has_norm_layers(heads[0])
        self._trained: dict[str, Tensor] = {
            name: parameter for name, parameter in self._pattern.named_parameters() if parameter.requires_grad
        }
        self._fixed: dict[str, Tensor] = {}
        if not self._single:
            parameters, buffers = stack_module_state([copy.deepcopy(head).to(device) for head in heads])
            self._trained = {name: stacked.detach().requires_grad_(True) for name, stacked in parameters.items()}
            self._fixed = dict(buffers)
        self._rates = torch.tensor(rates, device=device)
        self._decays = torch.tensor(decays, device=device)
        self._first = {name: torch.zeros_like(parameter) for name, parameter in self._trained.items()}
        self._second = {name: torch.zeros_like(parameter) for name, parameter in self._trained.items()}
        self._steps = 0
        self._optimizer: torch.optim.AdamW | None = None
        self._highest: list[float] = []

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits of all heads, row by row."""
        return self.logits(rows).transpose(0, 1)

    def logits(self, rows: Tensor, *, own: bool = False) -> Tensor:
        """Return the logits head by head, [M, b, out_features].

        Of the same rows, [b, *row_shape], or, where each has its `own`, of [M, b, *row_shape].
        """
        if self.training and self._normalizes and rows.shape[int(own)] == 1:
            # of a single row there is no variance, and torch takes none; twice, it is its own mean
            return self.logits(rows.repeat_interleave(2, dim=int(own)), own=own)[:, :1]
        if self._single:
            logits: Tensor = self._pattern(rows[0] if own else rows)
            return logits[None]
        if own:

            def own_logits(parameters: dict[str, Tensor], buffers: dict[str, Tensor], rows: Tensor) -> Tensor:
                output: Tensor = functional_call(self._pattern, (parameters, buffers), (rows,))
                return output

            of_own: Tensor = vmap(own_logits, randomness="different")(self._trained, self._fixed, rows)
            return of_own

        def single_logits(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            output: Tensor = functional_call(self._pattern, (parameters, buffers), (rows,))
            return output

        stacked: Tensor = vmap(single_logits, randomness="different")(self._trained, self._fixed)
        return stacked

    def step(self, losses: Tensor, factor: float, beta1: float) -> None:
        """Take one step of AdamW (Loshchilov & Hutter 2019) down the losses [M], at `factor` of each rate."""
        gradients = torch.autograd.grad(losses.sum(), list(self._trained.values()))
        self._steps += 1
        first_weight, second_weight = 1 - beta1**self._steps, 1 - _BETA2**self._steps
        with torch.no_grad():
            for (name, parameter), gradient in zip(self._trained.items(), gradients, strict=True):
                first_moment = self._first[name].lerp_(gradient, 1 - beta1)
                second_moment = self._second[name].mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
                shape = (1,) * parameter.ndim if self._single else (-1, *(1,) * (parameter.ndim - 1))
                rate = self._rates.view(shape) * factor * self._share(name)
                if self._decaying(name, parameter):
                    parameter.mul_(1 - rate * self._decays.view(shape))
                update = first_moment / ((second_moment / second_weight).sqrt_().add_(_EPSILON))
                parameter.sub_(update.mul_(rate / first_weight))

    def step_alike(self, losses: Tensor, factor: float, beta1: float) -> None:
        """Take the step of `step` where all heads have the rate and the decay of the first.

        By torch's own kernel, which takes a third of the time, and rounds otherwise.
        """
        if self._optimizer is None:
            groups: dict[tuple[float, float], list[Tensor]] = {}
            for name, parameter in self._trained.items():
                decay = float(self._decays[0]) if self._decaying(name, parameter) else 0.0
                groups.setdefault((float(self._rates[0]) * self._share(name), decay), []).append(parameter)
            self._highest = [rate for rate, _ in groups]
            self._optimizer = torch.optim.AdamW(
                [{"params": tensors, "lr": rate, "weight_decay": decay} for (rate, decay), tensors in groups.items()],
                eps=_EPSILON,
                fused=next(iter(self._trained.values())).device.type in ("cpu", "cuda"),
            )
        gradients = torch.autograd.grad(losses.sum(), list(self._trained.values()))
        for parameter, gradient in zip(self._trained.values(), gradients, strict=True):
            parameter.grad = gradient.contiguous()  # the kernel goes through memory as it lies
        for group, rate in zip(self._optimizer.param_groups, self._highest, strict=True):
            group["lr"], group["betas"] = rate * factor, (beta1, _BETA2)
        self._optimizer.step()

    def weights(self, number: int) -> dict[str, Tensor]:
        """Return a copy of all tensors of one head."""
        if self._single:
            return {name: value.detach().clone() for name, value in self._pattern.state_dict().items()}
        tensors = {**self._trained, **self._fixed}
        return {name: tensors[name][number].detach().clone() for name in self._pattern.state_dict()}

    def head(self, weights: dict[str, Tensor]) -> Head:
        """Return a head with these tensors, on the CPU, in evaluation mode."""
        head: Head = copy.deepcopy(self._pattern)
        head.load_state_dict(weights)
        return head.cpu().eval()

    def _decaying(self, name: str, parameter: nn.Parameter | Tensor) -> bool:
        """As timm decides it: matrices and kernels decay; vectors, biases and scales do not."""
        dimensions = parameter.ndim if self._single else parameter.ndim - 1
        return dimensions > 1 and not name.endswith(".bias")

    def _share(self, name: str) -> float:
        return PRETRAINED_FACTOR if name.startswith(self._pattern.pretrained) else 1.0
