"""Weights between those that a fine-tuning began with and those that it came to (WiSE-FT).

Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv 2109.01903, equation 3. What they begin with is a
zero-shot model; here it is the head from the cache on the pretrained blocks. The share is chosen on the validation
split, both ends included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.tasks.base import find_metric
from stages.training.ema import TrainableState
from stages.training.evaluation import evaluate_loss
from stages.training.history import TrainResult, validation_rank
from stages.training.train_loop import TrainRun

ALPHAS = (0.2, 0.4, 0.6, 0.8)
"""Shares of the tuned weights that are tried beside none and all."""


@dataclass(frozen=True)
class Interpolation:
    """What the weights are that a network is left with.

    Attributes
    ----------
    alpha : float
        Share of the tuned weights.
    val_loss, val_score : float
        On the validation split.
    tried : dict of float to float
        The score of every share, from 0 to 1.
    """

    alpha: float
    val_loss: float
    val_score: float
    tried: dict[float, float]


def interpolated(start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return the tensors of the same names between two sets, `alpha` of the way.

    Running means and variances of BatchNorm are interpolated as weights are, where they have changed at all; what is no
    floating number, such as the count of batches, is that of the end.
    """
    return {
        name: torch.lerp(start[name], tensor, alpha)
        if tensor.is_floating_point() and not torch.equal(start[name], tensor)
        else tensor
        for name, tensor in end.items()
    }


def choose_interpolation(
    run: TrainRun, weights: TrainableState, start: Mapping[str, Tensor], result: TrainResult
) -> Interpolation:
    """Leave a trained network with the weights between its start and its best epoch that validate best.

    Parameters
    ----------
    run : TrainRun
        Whose model has the weights of the best epoch.
    weights : TrainableState
        Names what the training could change.
    start : mapping of str to Tensor
        What that was before the first step.
    result : TrainResult
        Its history begins with epoch 0, which is the start.
    """
    best, model, first = result.best, run.model, result.history[0]
    assert best is not None, "there is epoch 0"
    end = weights.snapshot(model)
    scores = {0.0: (first.val_loss, first.val_score), 1.0: (best.val_loss, best.val_score)}
    for alpha in ALPHAS if best.epoch else ():  # where the best epoch is the start there is nothing between
        scores[alpha] = _validated(run, weights, model, interpolated(start, end, alpha))
    sign = 1 if find_metric(run.task).higher_is_better else -1

    def rank(alpha: float) -> tuple[float, float]:
        loss, score = scores[alpha]
        return validation_rank(sign * score, loss)

    chosen = max(sorted(scores, reverse=True), key=rank)  # of equals the one that is tuned most
    weights.load(model, interpolated(start, end, chosen) if 0 < chosen < 1 else dict(end if chosen else start))
    model.eval()
    loss, score = scores[chosen]
    return Interpolation(chosen, loss, score, {alpha: scores[alpha][1] for alpha in sorted(scores)})


def _validated(
    run: TrainRun, weights: TrainableState, model: nn.Module, state: dict[str, Tensor]
) -> tuple[float, float]:
    weights.load(model, state)
    return evaluate_loss(model, run.val_batches(), run.task, run.rank)
