"""What tasks say of averages is what they say of the statistics and losses of the averaged predictions themselves."""

import numpy as np
import pytest
import torch

from stages.tasks.averaging import AveragingTask
from stages.tasks.dense import Dense
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from stages.tasks.single_label import SingleLabel

RNG = np.random.default_rng(0)
LABELS = np.where(RNG.random((40, 2)) < 0.1, np.nan, RNG.random((40, 2)) < 0.4).astype(np.float32)
NUMBERS = np.where(RNG.random((40, 2)) < 0.1, np.nan, RNG.normal(size=(40, 2)))
CASES = [
    (SingleLabel(["a", "b", "c"]), RNG.integers(0, 3, 40)),
    (MultiLabel(["sky", "dog"]), LABELS),
    (Regression(("width", "height"), (3.0, -1.0), (2.0, 0.5)), NUMBERS),
]


@pytest.mark.parametrize(("task", "targets"), CASES, ids=lambda case: getattr(case, "name", ""))
def test_a_mean_of_predictions_is_scored_as_the_task_scores_it(task, targets):
    outputs = torch.from_numpy(RNG.normal(size=(2, 40, task.out_features)).astype(np.float32))
    answers = np.stack([task.activate(output).numpy() for output in outputs]).astype(np.float64)
    weights = np.array([0.3, 0.7])
    parts = [task.agreement(part, targets) for part in answers]
    mean = task.agreement(np.tensordot(weights, answers, 1), targets)
    np.testing.assert_allclose(mean, np.tensordot(weights, np.stack(parts), 1), atol=1e-12)
    losses = task.agreement_loss(parts[0])
    known = ~np.isnan(parts[0])
    per_sample = np.where(known, losses, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    assert per_sample.mean() == pytest.approx(task.mean_loss(outputs[0].double().numpy(), targets), rel=1e-5)


@pytest.mark.parametrize(("task", "targets"), CASES, ids=lambda case: getattr(case, "name", ""))
def test_statistics_hold_what_was_predicted_and_what_is_true(task, targets):
    activated = task.activate(torch.from_numpy(RNG.normal(size=(40, task.out_features)).astype(np.float32)))
    statistics = task.statistic(activated, torch.from_numpy(targets))
    np.testing.assert_allclose(task.answers(statistics), activated.numpy(), rtol=1e-6)
    np.testing.assert_allclose(task.targets(statistics), targets, rtol=1e-12)
    again = task.statistic(torch.from_numpy(task.answers(statistics)), torch.from_numpy(task.targets(statistics)))
    assert again.dtype == statistics.dtype
    assert isinstance(task, AveragingTask)


def test_counts_of_pixels_have_no_mean():
    assert not isinstance(Dense(["road", "tree"]), AveragingTask)
