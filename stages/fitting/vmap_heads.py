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

PRETRAINED_FACTOR = 0.1
"""Rate of pretrained blocks against that of a new output layer above them."""

_BETA2, _EPSILON = 0.999, 1e-8


class VmapHeads:
    """Heads of one kind, trained side by side.

    Parameters
    ----------
    heads : sequence of Head
        M of them, equal but for the values of their tensors.
    rates, decays : sequence of float
        Highest learning rate and decoupled weight decay of each; biases and normalisation do not decay.
    device : torch.device
    """

    def __init__(
        self, heads: Sequence[Head], rates: Sequence[float], decays: Sequence[float], device: torch.device
    ) -> None:
        self.size = len(heads)
        self._pattern = copy.deepcopy(heads[0]).to(device)
        self._single = len(heads) == 1
        self.buffers: dict[str, Tensor] = {}
        if self._single:
            self.parameters = {name: one for name, one in self._pattern.named_parameters() if one.requires_grad}
        else:
            parameters, buffers = stack_module_state([copy.deepcopy(head).to(device) for head in heads])
            self.parameters = {name: one.detach().requires_grad_(True) for name, one in parameters.items()}
            self.buffers = dict(buffers)
        self._rates = torch.tensor(rates, device=device)
        self._decays = torch.tensor(decays, device=device)
        self._first = {name: torch.zeros_like(one) for name, one in self.parameters.items()}
        self._second = {name: torch.zeros_like(one) for name, one in self.parameters.items()}
        self._steps = 0

    def train(self, mode: bool) -> None:
        """Put all heads in training or in evaluation mode."""
        self._pattern.train(mode)

    def logits(self, rows: Tensor) -> Tensor:
        """Return the logits of all heads, [M, b, classes], for rows [b, *row_shape]."""
        if self._single:
            logits: Tensor = self._pattern(rows)
            return logits[None]

        def of_one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            found: Tensor = functional_call(self._pattern, (parameters, buffers), (rows,))
            return found

        stacked: Tensor = vmap(of_one, randomness="different")(dict[str, Tensor](self.parameters), self.buffers)
        return stacked

    def step(self, losses: Tensor, factor: float, beta1: float) -> None:
        """Take one step of AdamW (Loshchilov & Hutter 2019) down the losses [M], at `factor` of each rate."""
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()))
        self._steps += 1
        first_weight, second_weight = 1 - beta1**self._steps, 1 - _BETA2**self._steps
        with torch.no_grad():
            for (name, parameter), gradient in zip(self.parameters.items(), gradients, strict=True):
                first = self._first[name].lerp_(gradient, 1 - beta1)
                second = self._second[name].mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
                shape = (1,) * parameter.ndim if self._single else (-1, *(1,) * (parameter.ndim - 1))
                rate = self._rates.view(shape) * factor * self._share(name)
                if self._decaying(name, parameter):
                    parameter.mul_(1 - rate * self._decays.view(shape))
                update = first / ((second / second_weight).sqrt_().add_(_EPSILON))
                parameter.sub_(update.mul_(rate / first_weight))

    def weights(self, number: int) -> dict[str, Tensor]:
        """Return a copy of all tensors of one head."""
        if self._single:
            return {name: value.detach().clone() for name, value in self._pattern.state_dict().items()}
        both = {**self.parameters, **self.buffers}
        return {name: both[name][number].detach().clone() for name in self._pattern.state_dict()}

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
