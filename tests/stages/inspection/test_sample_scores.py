"""What a score is made of is the task's, and its variance that of other samples."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from stages.inspection.sample_scores import (
    mean_of_defined,
    require_rising,
    score_of,
    scored_samples,
    scores_of_resamples,
    variance_of,
)
from stages.tasks.base import find_metric, mean_metric
from stages.tasks.dense import Dense
from stages.tasks.regression import Regression
from tests.stages.fitting.rows_of_digits import numbered_classes

PROBABILITIES = np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4], [0.1, 0.9]], np.float32)


def test_samples_of_classes_are_right_or_wrong_and_their_variance_is_binomial():
    task = numbered_classes(2)
    right = scored_samples(task, PROBABILITIES, np.array([0, 0, 1, 1]))
    assert right.dtype == np.bool_
    assert right.tolist() == [True, False, False, True]
    accuracy = find_metric(task)
    assert score_of(accuracy, right[1:]) == 1 / 3
    assert variance_of(accuracy, right[1:]) == 1 / 3 * (1 - 1 / 3) / 3


def test_of_numbers_the_statistics_are_kept_and_resampled():
    generator = np.random.default_rng(0)
    true = generator.normal(size=(200, 1))
    task, predicted = Regression(), true + 0.5 * generator.normal(size=(200, 1))
    samples, metric = scored_samples(task, predicted, true), find_metric(task)
    assert samples["target"].shape == (200, 1)
    assert score_of(metric, samples) == metric.score(task.statistic(torch.tensor(predicted), torch.tensor(true)))
    drawn = generator.integers(200, size=(300, 200))
    by_hand = [metric.score(samples[rows]) for rows in drawn]
    counts = np.stack([np.bincount(rows, minlength=200) for rows in drawn]).astype(float)
    assert scores_of_resamples(metric, samples, counts) == pytest.approx(by_hand)
    assert variance_of(metric, samples) == pytest.approx(np.var(by_hand), rel=0.2)
    assert variance_of(metric, samples) == variance_of(metric, samples)


def test_a_score_that_is_not_defined_has_no_part_in_a_mean():
    scores = np.array([[0.5, np.nan, 1.0], [np.nan] * 3])
    assert mean_of_defined(scores).tolist() == pytest.approx([0.75, np.nan], nan_ok=True)


def test_a_metric_that_is_better_the_lower_it_is_is_refused():
    metric = mean_metric("distance", "distance", np.asarray, higher_is_better=False)
    task = SimpleNamespace(name="tags", reads="text", primary=metric.name, metrics={metric.name: metric})
    with pytest.raises(UsageError, match="distance of the task tags is not: name another `metric`"):
        require_rising(task)


def test_a_class_for_each_pixel_has_no_learning_curve_and_may_be_probed():
    with pytest.raises(UsageError, match="some of the images at a time"):
        require_rising(Dense(["road", "sky"]))
    assert require_rising(Dense(["road", "sky"]), on_maps=True).name == "miou"
