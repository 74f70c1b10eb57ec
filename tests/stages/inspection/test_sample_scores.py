"""Scores of samples are the task's, and what is no share is refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from cache.errors import UsageError
from stages.inspection.sample_scores import require_share, sample_scores
from stages.tasks.base import mean_metric, sum_metric
from tests.stages.fitting.rows_of_digits import numbered_classes


def test_samples_of_classes_are_right_or_wrong():
    probabilities = np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]], np.float32)
    scores = sample_scores(numbered_classes(2), probabilities, np.array([0, 0, 1]))
    assert scores.dtype == np.bool_
    assert scores.tolist() == [True, False, False]


def scores_of(statistics):
    return statistics


@pytest.mark.parametrize(
    "metric",
    [
        mean_metric("wrong", "wrong", scores_of, as_percent=True, higher_is_better=False),
        mean_metric("distance", "distance", scores_of),
        sum_metric("recall", "recall", scores_of, float, as_percent=True),
    ],
    ids=lambda metric: metric.name,
)
def test_a_metric_that_is_no_mean_of_shares_or_better_the_lower_it_is_is_refused(metric):
    task = SimpleNamespace(name="tags", primary=metric.name, metrics={metric.name: metric})
    with pytest.raises(UsageError, match=f"{metric.name} of the task tags is none"):
        require_share(task)
    share = mean_metric("right", "right", scores_of, as_percent=True)
    assert require_share(SimpleNamespace(name="tags", primary="right", metrics={"right": share})) is scores_of
