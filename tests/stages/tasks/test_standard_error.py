import numpy as np
import pytest
import torch

from stages.tasks.base import find_metric, mean_metric
from stages.tasks.single_label import SingleLabel
from stages.tasks.standard_error import standard_error

RIGHT = mean_metric("accuracy", "accuracy", lambda correct: np.asarray(correct, dtype=bool))


def test_error_of_a_mean_is_the_textbook_one():
    right = np.random.default_rng(0).random(200) < 0.8
    expected = right.std(ddof=1) / np.sqrt(200)
    assert standard_error(RIGHT, right) == pytest.approx(expected)


def test_predictions_of_one_sample_do_not_pretend_to_be_more_samples():
    right = np.random.default_rng(1).random(100) < 0.8
    three_times = standard_error(RIGHT, np.tile(right, 3), np.tile(np.arange(100), 3))
    assert three_times == pytest.approx(standard_error(RIGHT, right))


def test_what_two_methods_have_in_common_is_no_error_of_their_difference():
    random = np.random.default_rng(2)
    right = random.random(400) < 0.7
    other = right ^ (random.random(400) < 0.02)
    assert standard_error(RIGHT, right, against=right) == 0
    paired = standard_error(RIGHT, right, against=other)
    assert paired == pytest.approx((right.astype(int) - other).std(ddof=1) / np.sqrt(400))
    assert paired < standard_error(RIGHT, right) / 3


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "auc_macro"])
def test_error_is_what_scores_vary_by_over_new_samples(name):
    task, random = SingleLabel(["a", "b"]), np.random.default_rng(3)
    metric = find_metric(task, name)

    def sample():
        target = random.integers(2, size=300)
        log_odds = torch.from_numpy(1.5 * (2 * target - 1) + random.normal(0, 1.5, 300)).float()
        return task.statistic(torch.stack([-log_odds, log_odds], dim=1).softmax(dim=1), torch.from_numpy(target))

    spread = np.std([metric.score(sample()) for _ in range(200)])
    told = np.mean([standard_error(metric, sample()) for _ in range(5)])
    assert told == pytest.approx(spread, rel=0.25)


def test_one_group_has_no_error():
    assert np.isnan(standard_error(RIGHT, np.array([True, False, True]), ["one"] * 3))
    with pytest.raises(ValueError, match="not those of the same samples"):
        standard_error(RIGHT, np.array([True]), against=np.array([True, False]))


@pytest.mark.filterwarnings("error")
def test_one_group_has_no_error_of_a_metric_that_is_no_mean_either():
    task = SingleLabel(["a", "b"])
    statistics = task.statistic(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1]))
    assert np.isnan(standard_error(find_metric(task, "f1_macro"), statistics, ["one"] * 2))
