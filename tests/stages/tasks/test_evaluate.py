import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from cache.errors import CutonceError, DataError
from stages.tasks.evaluate import accuracy_interval, evaluate, mcnemar, paired_difference

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def test_metrics_are_those_worked_out_by_hand():
    labels = [0, 0, 0, 1]
    probabilities = [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]]
    metrics = evaluate(labels, probabilities)
    assert metrics["accuracy"] == 0.75
    assert metrics["confusion"] == [[2, 1], [0, 1]]
    assert metrics["macro_f1"] == pytest.approx((2 * 2 / (2 * 2 + 1) + 2 * 1 / (2 * 1 + 1)) / 2)
    assert metrics["auc"] == 1.0
    assert metrics["log_loss"] == pytest.approx(-sum(math.log(p) for p in (0.9, 0.8, 0.4, 0.7)) / 4)
    assert list(metrics) == ["accuracy", "accuracy_ci95", "macro_f1", "auc", "log_loss", "confusion"]


def test_auc_is_given_only_for_two_classes_that_are_both_present():
    two = [[0.9, 0.1], [0.2, 0.8]]
    three = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]
    assert evaluate([0, 1], two)["auc"] == 1.0
    assert evaluate([0, 0], two)["auc"] is None
    assert evaluate([0, 1], three)["auc"] is None


def test_a_class_without_test_images_neither_fails_nor_lowers_f1():
    metrics = evaluate([0, 1], [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    assert metrics["macro_f1"] == 1.0
    assert metrics["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_a_certain_and_wrong_prediction_has_a_finite_log_loss():
    assert 5 < evaluate([1, 0], [[1.0, 0.0], [1.0, 0.0]])["log_loss"] < 50


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(DataError, match="no test image"):
        evaluate([], np.empty((0, 2)))


def test_probabilities_of_a_training_that_diverged_are_refused():
    with pytest.raises(CutonceError, match="diverged; try a lower rate"):
        evaluate([0, 1], [[0.5, 0.5], [np.nan, np.nan]])


@pytest.mark.parametrize(("right", "n"), [(600, 656), (85, 100), (20, 2000), (450, 900)])
def test_interval_is_the_one_of_the_binomial_distribution(right, n):
    low, high = accuracy_interval(np.arange(n) < right)
    expected = binom.ppf([0.025, 0.975], n, right / n) / n
    assert [low, high] == pytest.approx(expected, abs=1.5 / n + 0.0005)


def test_interval_covers_the_true_accuracy_nearly_95_times_in_100():
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        low, high = accuracy_interval(random.random(200) < 0.8)
        covered += low <= 0.8 <= high
    assert 0.91 < covered / 400 < 0.98


def test_interval_with_repeated_images_is_the_one_of_resampling_images():
    random = np.random.default_rng(3)
    images = np.sort(random.integers(0, 80, 200))
    ease = random.random(80)
    correct = random.random(200) < ease[images]
    present, index = np.unique(images, return_inverse=True)
    rows = [np.flatnonzero(index == one) for one in range(len(present))]
    means = [
        correct[np.concatenate([rows[one] for one in random.integers(0, len(present), len(present))])].mean()
        for _ in range(4000)
    ]
    assert accuracy_interval(correct, images) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


def test_interval_is_the_same_for_the_same_seed_and_another_for_another():
    correct = np.arange(300) < 250
    assert accuracy_interval(correct, seed=1) == accuracy_interval(correct, seed=1)
    labels, probabilities = np.zeros(3001, dtype=int), np.random.default_rng(0).dirichlet([2, 1], 3001)
    of_seeds = {tuple(evaluate(labels, probabilities, seed=seed)["accuracy_ci95"]) for seed in range(8)}
    assert len(of_seeds) > 1


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    [
        (10, 2, 2 * (1 + 12 + 66) / 2**12),
        (5, 0, 2 / 2**5),
        (3, 3, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_is_the_exact_binomial_test_of_the_images_only_one_is_right_on(only_a, only_b, p_value):
    both = np.repeat([[True, True], [False, False]], 20, axis=0)
    one = np.array([[True, False]] * only_a + [[False, True]] * only_b, dtype=bool).reshape(-1, 2)
    a, b = np.concatenate([both, one]).T
    assert mcnemar(a, b) == pytest.approx(p_value)


@given(outcomes)
def test_mcnemar_does_not_care_which_method_is_named_first(pairs):
    a, b = np.array(pairs).T
    assert mcnemar(a, b) == pytest.approx(mcnemar(b, a))


@given(outcomes)
@settings(max_examples=50)
def test_difference_is_that_of_the_accuracies_and_lies_in_its_interval(pairs):
    a, b = np.array(pairs).T
    difference = paired_difference(a, b)
    assert difference.value == pytest.approx(a.mean() - b.mean())
    assert difference.low <= difference.value + 1e-9
    assert difference.value <= difference.high + 1e-9


def test_difference_interval_is_the_one_of_resampling_pairs():
    random = np.random.default_rng(5)
    a, b = random.random(300) < 0.9, random.random(300) < 0.8
    draws = random.integers(0, 300, (4000, 300))
    expected = np.quantile(a[draws].mean(axis=1) - b[draws].mean(axis=1), [0.025, 0.975])
    assert paired_difference(a, b)[1:] == pytest.approx(expected, abs=0.006)


def test_testing_the_same_images_again_makes_nothing_surer():
    random = np.random.default_rng(1)
    a, b = random.random(150) < 0.9, random.random(150) < 0.8
    images = np.arange(150)
    again = [np.tile(one, 3) for one in (a, b, images)]
    assert mcnemar(*again) == mcnemar(a, b)
    assert mcnemar(*again[:2]) < mcnemar(a, b) / 2  # what forgetting which image is which would claim
    assert paired_difference(*again) == paired_difference(a, b)
    assert accuracy_interval(again[0], again[2]) == accuracy_interval(a)
