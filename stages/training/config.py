"""How a model is trained, beyond its optimiser and schedule: plain values, which a checkpoint can name and compare."""

from __future__ import annotations

from dataclasses import dataclass

from stages.config.bounds import require, require_at_least
from stages.training.amp import Autocast


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Attributes
    ----------
    epochs : int
        Passes over the training batches.
    seed : int
        What a step draws depends on it, on the epoch and on the place of the step in it, and on nothing else.
    label_smoothing : float
        Share of each target that is spread over all classes.
    l1 : float
        Factor of the sum of the absolute values of the regularised weights.
    clip_grad : float, optional
        Greatest norm of the gradient.
    grad_accum_steps : int
        Batches whose gradients make one step; the last step of an epoch may have fewer.
    amp_dtype : {"none", "bf16", "fp16"}
        Arithmetic of the forward pass in training. Validation is in full precision.
    model_ema_decay : float, optional
        Decay of an exponential moving average of the weights, which is then what is validated and kept.
    patience : int, optional
        Stop after this many epochs without a lower validation loss.
    checkpoint_seconds : float
        Time between checkpoints within an epoch; there is one after each epoch in any case.
    """

    epochs: int
    seed: int = 0
    label_smoothing: float = 0.0
    l1: float = 0.0
    clip_grad: float | None = None
    grad_accum_steps: int = 1
    amp_dtype: Autocast = "none"
    model_ema_decay: float | None = None
    patience: int | None = None
    checkpoint_seconds: float = 300.0

    def __post_init__(self) -> None:
        require_at_least(self, {"epochs": 1, "seed": 0, "l1": 0, "grad_accum_steps": 1, "patience": 1})
        require("clip_grad", self.clip_grad, "more than 0", lambda norm: norm > 0)
        smoothing = self.label_smoothing
        require("label_smoothing", smoothing, "at least 0 and less than 1", lambda share: 0 <= share < 1)
