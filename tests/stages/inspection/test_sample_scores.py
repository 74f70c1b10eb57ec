"""Scores of samples are the task's, and what is no share is refused."""

import numpy as np
import pytest

from cache.errors import UsageError
from stages.inspection.sample_scores import sample_scores
from tests.stages.fitting.rows_of_digits import numbered_classes
from tests.stages.fitting.tags import Tags


def test_samples_of_classes_are_right_or_wrong():
    probabilities = np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]], np.float32)
    scores = sample_scores(numbered_classes(2), probabilities, np.array([0, 0, 1]))
    assert scores.dtype == np.bool_
    assert scores.tolist() == [True, False, False]


def test_a_task_whose_metric_is_no_share_of_what_is_right_is_refused():
    with pytest.raises(UsageError, match="wrong_tags of the task tags is none"):
        sample_scores(Tags(2), np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
