"""Mixed precision: the arithmetic of the forward pass, and the scaling that float16 gradients need."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from cache.errors import UsageError
from stages.runtime.device import supports_bf16

Autocast = Literal["none", "bf16", "fp16"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def default_autocast(device: torch.device) -> Autocast:
    """Return the arithmetic in which a device trains if nothing else is asked for.

    On NVIDIA's GPUs 16 bits, as everybody trains there: bf16 where it is computed by itself (from Ampere on), else
    fp16. Elsewhere float32.
    """
    if device.type != "cuda":
        return "none"
    return "bf16" if supports_bf16(device) else "fp16"


class MixedPrecision:
    """Weights stay in float32; what autocast says is safe is computed in 16 bits (Micikevicius et al. 2018).

    Parameters
    ----------
    autocast : {"none", "bf16", "fp16"}
    device : torch.device
        Where the model is.

    Raises
    ------
    UsageError
        If the device does not compute in it.
    """

    def __init__(self, autocast: Autocast, device: torch.device) -> None:
        if autocast == "fp16" and device.type not in ("cuda", "cpu"):
            raise UsageError(f"`amp_dtype` fp16 needs its gradients scaled, which {device.type} does not do; use bf16")
        if autocast == "bf16" and device.type == "cuda" and not supports_bf16(device, emulated=True):
            raise UsageError("`amp_dtype` bf16 is beyond this GPU; use fp16")
        self._dtype = _DTYPES.get(autocast)
        self._device = device
        self.scaler = GradScaler(device.type, enabled=autocast == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass."""
        return nullcontext() if self._dtype is None else torch.autocast(self._device.type, self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those there are."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: Optimizer, parameters: list[nn.Parameter], clip: float | None) -> None:
        """Change the weights; with `clip`, by gradients of no greater norm than that, over all parameters.

        float16 gradients that overflowed are left out, and the next ones scaled less.
        """
        if clip is not None:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, clip)
        self.scaler.step(optimizer)
        self.scaler.update()
