"""What maps are worth: a linear head on them, trained for some epochs and asked about validation; nothing is kept."""

from __future__ import annotations

from dataclasses import replace

import torch

from cache.errors import CutonceError
from stages.fitting.epochs.map_heads import MapHeadTraining
from stages.fitting.problem import FitProblem
from stages.network.heads.map_head import MapHead
from stages.network.heads.registry import build_head, recipe_of_head
from stages.runtime.seeding import preserve_rng_state
from stages.tasks.base import Statistics

FEWEST_EPOCHS, _STEPS = 5, 200
"""Epochs of a training, a quarter of the recipe's; of few images as many as make so many steps, at most the recipe's.
The rate comes down all the same, and depths keep their order."""


def probe_maps(problem: FitProblem, label_size: tuple[int, int]) -> Statistics:
    """Return what the task keeps of each validation image, as a linear head sees it that was trained on train alone.

    Parameters
    ----------
    problem : FitProblem
        With `maps` and `targets`. Of its options none but those of the recipe count.
    label_size : (int, int)
        Height and width that masks are thinned to, in training and for what is returned: the same for all maps that
        are to be compared, so that they are asked about the same pixels.

    Raises
    ------
    CutonceError
        If the training diverges.
    """
    with preserve_rng_state():
        _, statistics = _trained(problem, label_size).validated()
    if statistics is None:
        raise CutonceError("the loss of a linear head on these maps became NaN or infinite: probe other cuts")
    return statistics


def quick_map_head(problem: FitProblem) -> MapHead:
    """Return a linear head that was trained so on the train rows of a problem with `maps` and `targets`."""
    with preserve_rng_state():
        return _trained(problem, None).head


def _trained(problem: FitProblem, label_size: tuple[int, int] | None) -> MapHeadTraining:
    maps = problem.maps
    assert maps is not None, "a head on maps is asked for"
    defaults = recipe_of_head("linear", on_maps=True)
    steps = max(len(problem.train) // defaults.batch_size, 1)
    epochs = min(max(FEWEST_EPOCHS, -(-_STEPS // steps)), defaults.epochs)
    problem = replace(problem, defaults=replace(defaults, epochs=epochs))
    recipe, (decay, *_) = problem.recipe, problem.config.fit_weight_decay
    torch.manual_seed(problem.seed)
    settings = {"dropout": recipe.dropout, "maps": maps.to_json()}
    head = build_head("linear", problem.train.row_shape, problem.task.out_features, settings)
    setting = {"rate": recipe.lr[0], "weight decay": decay}
    training = MapHeadTraining(head, [setting], problem, problem.train, None, label_size=label_size)
    for epoch in range(1, recipe.epochs + 1):
        training.train_epoch(epoch)
    return training
