import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import (
    cohen_kappa_score,
    mean_absolute_error,
    mean_squared_error,
    median_absolute_error,
    r2_score,
)

from stages.tasks.regression import Regression

TWO = Regression(("a", "b"), (3.0, -1.0), (2.0, 0.5))


def numbers(seed, n=80, width=2, decimals=None):
    random = np.random.default_rng(seed)
    target = random.normal(size=(n, width))
    prediction = 0.6 * target + 0.5 * random.normal(size=(n, width))
    if decimals is not None:
        target, prediction = (np.round(values, decimals) + 0.02 for values in (target, prediction))  # ties, no zeros
    return torch.from_numpy(prediction), torch.from_numpy(target)


@pytest.mark.parametrize("decimals", [None, 1])
def test_scores_of_several_numbers_are_the_means_of_those_of_scikit_learn(decimals):
    rows = TWO.statistic(*numbers(0, decimals=decimals))
    target, prediction = rows["target"], rows["prediction"]
    expected = {
        "r2": r2_score(target, prediction),
        "mae": mean_absolute_error(target, prediction),
        "rmse": np.sqrt(mean_squared_error(target, prediction, multioutput="raw_values")).mean(),
        "median_relative_error": np.median(np.abs(prediction - target) / np.abs(target), axis=0).mean(),
        "spearman": np.mean([spearmanr(target[:, i], prediction[:, i])[0] for i in range(2)]),
    }
    scores = {name: metric.score(rows) for name, metric in TWO.metrics.items()}
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert np.isnan(scores["interval_coverage"])


def test_what_is_not_known_takes_no_part():
    prediction, target = numbers(1)
    target[torch.from_numpy(np.random.default_rng(0).random((80, 2)) < 0.3)] = float("nan")
    rows = TWO.statistic(prediction, target)
    known = [~np.isnan(rows["target"][:, i]) for i in range(2)]
    pairs = [(rows["target"][known[i], i], rows["prediction"][known[i], i]) for i in range(2)]
    for name, score in (
        ("r2", r2_score),
        ("mae", mean_absolute_error),
        ("spearman", lambda *pair: spearmanr(*pair)[0]),
        ("median_relative_error", lambda true, predicted: np.median(np.abs(predicted - true) / np.abs(true))),
    ):
        assert TWO.metrics[name].score(rows) == pytest.approx(np.mean([score(*pair) for pair in pairs]))


def test_of_logarithms_the_share_is_theirs_and_that_of_the_unit_stands_beside_it():
    task = Regression(("price",), (13.0,), (0.7,), log=True)
    rows = task.statistic(*numbers(2, width=1))
    target, prediction = rows["target"], rows["prediction"]
    assert task.metrics["r2"].score(rows) == pytest.approx(r2_score(np.log(target), np.log(prediction)))
    assert task.metrics["r2_original"].score(rows) == pytest.approx(r2_score(target, prediction))
    assert task.metrics["mae"].score(rows) == pytest.approx(mean_absolute_error(target, prediction))
    assert median_absolute_error(target, prediction) > 1000  # in the unit, not its logarithm
    assert "r2_original" not in TWO.metrics


def test_settings_are_compared_by_outputs_as_by_the_numbers_they_mean():
    prediction, target = numbers(3)
    target[3, 1] = float("nan")
    metric = TWO.metrics["r2"]
    assert metric.of_outputs(prediction.numpy(), target.numpy()) == pytest.approx(
        metric.score(TWO.statistic(prediction, target))
    )


def test_a_small_spread_about_a_large_number_is_no_constant():
    task = Regression(("seconds",), (1.7e9,), (1000.0,))
    prediction, target = numbers(4, width=1)
    rows = task.statistic(prediction, target)
    assert task.metrics["r2"].score(rows) == pytest.approx(r2_score(target, prediction), rel=1e-6)
    assert np.isnan(task.metrics["r2"].score(task.statistic(prediction, torch.full((80, 1), 0.1))))


@pytest.mark.parametrize("levels", [("0", "0.5", "1"), ("small", "medium", "large")])
def test_kappa_and_accuracy_are_those_of_the_nearest_levels(levels):
    task = Regression(levels=levels, mean=(0.4,), scale=(0.3,))
    random = np.random.default_rng(0)
    true = random.integers(3, size=60)
    values = task.collate([task.load(levels[number]) for number in true])
    rows = task.statistic(values + torch.from_numpy(random.normal(size=(60, 1))), values)
    steps = np.array([0, 0.5, 1]) if levels[0] == "0" else np.arange(3)
    predicted = np.abs(rows["prediction"] - steps).argmin(axis=1)
    assert task.metrics["qwk"].score(rows) == pytest.approx(cohen_kappa_score(true, predicted, weights="quadratic"))
    assert task.metrics["accuracy"].score(rows) == (true == predicted).mean()


def test_relative_errors_leave_out_what_is_zero():
    task = Regression()
    rows = task.statistic(torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([[0.0], [1.0], [4.0]]))
    assert task.metrics["median_relative_error"].score(rows) == pytest.approx(0.75)
    assert np.isnan(task.metrics["median_relative_error"].score(rows[:1]))


def test_coverage_counts_the_numbers_within_their_intervals():
    task = Regression(interval=(1.0,))
    rows = task.statistic(torch.tensor([[0.0], [0.0], [0.0]]), torch.tensor([[1.0], [-1.5], [float("nan")]]))
    assert task.metrics["interval_coverage"].score(rows) == 0.5


def test_predictions_that_are_all_the_same_order_nothing():
    task, target = Regression(), torch.tensor([[1.0], [-1.5], [0.5]])
    spearman = task.metrics["spearman"]
    assert spearman.score(task.statistic(torch.zeros(3, 1), target)) == 0
    assert np.isnan(spearman.score(task.statistic(target, torch.zeros(3, 1))))
