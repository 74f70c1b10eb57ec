"""Losses of many models at once are those of each alone, over the rows that it is fitted to."""

import numpy as np
import pytest
import torch

from stages.fitting.solvers.device_targets import DeviceTargets
from stages.fitting.solvers.linear_models import LinearModelFactory
from stages.tasks.multi_label import MultiLabel
from tests.stages.fitting.rows_of_digits import numbered_classes

GENERATOR = np.random.default_rng(0)
FOLDS = [np.arange(0, 40), np.arange(20, 60)]
OF_MODELS = [0, 1, 1]


def labels_of(kind):
    if kind != "labels":
        return GENERATOR.integers(0, kind, 60), numbered_classes(kind)
    labels = GENERATOR.integers(0, 2, (60, 4)).astype(np.float32)
    labels[::5, 1] = np.nan
    labels[:, 2] = 1
    return labels, MultiLabel("abcd")


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("kind", [2, 4, "labels"])
@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_losses_and_slopes_are_those_of_each_model_alone(loss, kind, balanced, pretended_cuda):
    labels, task = labels_of(kind)
    factory = LinearModelFactory(loss, task, np.zeros(3, np.float32), balanced)
    device = torch.device("cuda")
    targets = DeviceTargets(factory, labels, FOLDS, device, torch.float64)
    folds = torch.tensor(OF_MODELS, device=device)
    scores = torch.randn(60, 3, targets.width, generator=torch.Generator().manual_seed(1)).double()
    sums, slopes = torch.zeros(3, dtype=torch.float64, device=device), torch.zeros_like(scores)
    for part in (slice(0, 25), slice(25, 60)):
        losses, slopes_of_part = targets.losses_and_slopes(scores[part].to(device), part, folds)
        sums += losses
        slopes[part] = slopes_of_part.cpu()
    means = targets.mean_losses(sums, folds).cpu()
    for number, fold in enumerate(OF_MODELS):
        rows, alone = FOLDS[fold], targets.learned[fold]
        expected, expected_slopes = alone.losses_and_slopes(scores[rows, number].clone(), slice(0, 40))
        assert float(means[number]) == pytest.approx(float(expected.mean()), rel=1e-6, abs=1e-6)
        assert torch.allclose(slopes[rows, number], expected_slopes, atol=1e-6)
        others = np.setdiff1d(np.arange(60), rows)
        assert not slopes[others, number].any()


def test_the_only_model_of_all_rows_has_no_weights():
    factory = LinearModelFactory("logistic", numbered_classes(3), np.zeros(3, np.float32))
    targets = DeviceTargets(factory, np.arange(9) % 3, [slice(0, 9)], torch.device("cpu"), torch.float32)
    assert targets.members is None
    assert targets.counts.tolist() == [9]
