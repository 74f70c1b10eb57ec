"""Random numbers of one's own for torchvision's transforms, which know the global generator only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DRAWS = frozenset(
    {
        torch.rand,
        torch.randn,
        torch.randint,
        torch.randperm,
        torch.normal,
        torch.bernoulli,
        torch.multinomial,
        torch._sample_dirichlet,  # what torch.distributions.Beta draws
        Tensor.uniform_,
        Tensor.normal_,
        Tensor.random_,
        Tensor.bernoulli_,
        Tensor.exponential_,
    }
)
"""Every way in which torchvision's transforms draw random numbers."""


class ThreadGenerator(TorchFunctionMode):
    """Inside, this thread draws its random numbers from one generator.

    Seeding the global generator for each image would disturb whatever else draws from it, dropout in another thread
    for one, and be disturbed by it; a mode concerns its own thread alone.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in _DRAWS:
            return func(*args, **(kwargs or {}))
        return func(*args, **{**(kwargs or {}), "generator": self.generator})
