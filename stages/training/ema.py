"""Which weights of a training are validated and kept: the model's own, or their exponential moving average."""

from __future__ import annotations

from typing import Any

from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer

from stages.config.bounds import is_share, require


class ModelEMA:
    """The model that is validated.

    Parameters
    ----------
    model : nn.Module
    decay : float, optional
        In (0, 1): share of the average that stays in each step. It begins lower, since an average of few steps must
        not hold on to where they began: 1 - (1 + t)^(-2/3) after t steps, until that is more than `decay`. None
        averages nothing.

    Attributes
    ----------
    model : nn.Module
        What is validated: `model` itself, or a copy with averaged weights and statistics.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        require("model_ema_decay", decay, "more than 0 and less than 1; near 1, such as 0.999", is_share)
        self._trained = model
        self._average = None if decay is None else ModelEmaV3(model, decay=decay, use_warmup=True)
        self.model: nn.Module = model if self._average is None else self._average.module

    def update(self, step: int) -> None:
        """Take in the weights after a step; steps count from 1."""
        if self._average is not None:
            self._average.update(self._trained, step=step)


class TrainableState:
    """What a training can change in a model: the parameters of its optimiser, and all buffers.

    Parameters that no group has are frozen for good, and are left out of what is copied and saved.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self._frozen = {name for name, parameter in model.named_parameters() if id(parameter) not in trained}

    def of(self, model: nn.Module) -> dict[str, Tensor]:
        """Return them, of the model or of its average, as they are: not copies."""
        return {name: value for name, value in model.state_dict().items() if name not in self._frozen}

    def snapshot(self, model: nn.Module) -> dict[str, Tensor]:
        """Return a copy of them."""
        return {name: value.clone() for name, value in self.of(model).items()}

    def load(self, model: nn.Module, weights: dict[str, Any]) -> None:
        """Give them to a model."""
        model.load_state_dict(weights, strict=False)
