import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel
from statsmodels.stats.multitest import multipletests

from stages.tasks.base import find_metric, mean_metric
from stages.tasks.dense import Dense
from stages.tasks.paired import compare, holm
from stages.tasks.proportions import difference_of_shares, mcnemar
from stages.tasks.single_label import SingleLabel

RIGHT = mean_metric("accuracy", "accuracy", lambda correct: np.asarray(correct, dtype=bool))
ERROR = mean_metric("error", "error", lambda values: np.asarray(values, dtype=np.float64), higher_is_better=False)
TASK = SingleLabel("abc")
F1 = TASK.metrics["f1_macro"]


def classes(seed, n, skill=1.5):
    target = np.random.default_rng(1000).integers(3, size=n)
    logits = np.random.default_rng(seed).normal(size=(n, 3)) + skill * np.eye(3)[target]
    return TASK.statistic(torch.from_numpy(logits).softmax(dim=1), torch.from_numpy(target))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(deadline=None, max_examples=40)
def test_holms_p_values_are_those_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_of_independent_images_it_is_mcnemars_test_and_the_interval_that_goes_with_it():
    a, b = np.arange(100) < 80, np.r_[np.zeros(2, bool), np.ones(70, bool), np.zeros(28, bool)]
    compared = compare(RIGHT, a, b)
    assert compared.p_value == mcnemar(10, 0)
    assert tuple(compared.difference) == (pytest.approx(0.1), *difference_of_shares(10, 0, 100))
    assert compared.method == "McNemar"


def test_a_mean_of_scores_is_compared_by_the_paired_t_test_of_scipy():
    random = np.random.default_rng(0)
    a, b = random.random(40), random.random(40) + 0.15
    compared = compare(ERROR, a, b)
    assert compared.p_value == pytest.approx(ttest_rel(a, b).pvalue)
    assert compared.difference[1:] == pytest.approx(ttest_rel(a, b).confidence_interval())
    grouped = compare(ERROR, np.repeat(a, 3), np.repeat(b, 3), np.repeat(np.arange(40), 3))
    assert grouped.p_value == pytest.approx(compared.p_value)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("widened", [1.0, 1.4])
@pytest.mark.parametrize("groups", [None, 12, 5], ids=["images", "12 groups", "5 groups"])
@pytest.mark.parametrize("metric", [RIGHT, ERROR, F1], ids=lambda metric: metric.name)
def test_an_interval_holds_0_just_where_its_p_value_is_no_less_than_5_percent(metric, groups, widened, seed):
    random = np.random.default_rng(seed)
    numbers = None if groups is None else np.arange(60) * groups // 60
    if metric is F1:
        a, b = classes(seed, 60, 1.0), classes(seed + 100, 60, 1.0 + 0.3 * seed)
    else:
        a, b = random.random(60), random.random(60)
        a, b = (a < 0.85, b < 0.85 - 0.06 * seed) if metric is RIGHT else (a, b + 0.06 * seed)
    compared = compare(metric, a, b, numbers, resamples=500, widened=widened)
    value, low, high = compared.difference
    assert low <= value <= high
    assert (low > 0 or high < 0) == (compared.p_value < 0.05)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("seed", range(8))
def test_an_interval_of_very_few_images_holds_0_where_its_p_value_says_so(n, seed):
    task = Dense(("sky", "road"))
    random = np.random.default_rng(seed)
    b = random.integers(1, 50, (n, 2, 2))
    a = b + random.integers(1, 200) * np.eye(2, dtype=np.int64)  # better on every image
    compared = compare(find_metric(task), a, b, resamples=500)
    value, low, high = compared.difference
    assert low <= value <= high
    assert (low > 0 or high < 0) == (compared.p_value < 0.05)


def test_testing_the_same_images_again_makes_nothing_surer():
    random = np.random.default_rng(1)
    a, b = random.random(150) < 0.9, random.random(150) < 0.8
    tiled = [np.tile(values, 3) for values in (a, b, np.arange(150))]
    assert compare(RIGHT, *tiled) == compare(RIGHT, a, b)
    assert compare(RIGHT, *tiled[:2]).p_value < compare(RIGHT, a, b).p_value / 2  # what forgetting that would claim


def test_a_few_groups_that_all_say_the_same_prove_nothing():
    groups = np.repeat(np.arange(3), 4)
    a, b = np.ones(12, dtype=bool), np.tile([True, True, True, False], 3)
    compared = compare(RIGHT, a, b, groups)
    assert compared.p_value > 0.05
    assert compared.difference.low < 0 < compared.difference.high
    one_of_three = compare(RIGHT, a, np.arange(12) < 8, groups)
    assert one_of_three.p_value == 1.0


def test_the_same_predictions_are_never_told_apart():
    rows = classes(0, 40)
    for metric, same in ((F1, rows), (RIGHT, np.arange(40) < 30), (ERROR, np.arange(40.0))):
        assert compare(metric, same, same, resamples=200).p_value == 1.0
        assert compare(metric, same, same, np.arange(40) // 5, resamples=200).p_value == 1.0
    low, high = compare(RIGHT, np.arange(40) < 30, np.arange(40) < 30).difference[1:]
    assert high == pytest.approx(-low)
    assert 0.08 < high < 0.1  # what 40 images that agree leave possible


def test_a_family_of_equal_methods_is_called_better_in_one_case_of_twenty_at_most():
    random, called = np.random.default_rng(2), 0
    groups = np.repeat(np.arange(12), 10)
    for _ in range(100):
        difficulty = np.repeat(random.normal(1.5, 1.0, 12), 10)
        right = [difficulty + random.normal(0, 1.5, 120) > 0 for _ in range(4)]
        p_values = holm([compare(RIGHT, other, right[0], groups).p_value for other in right[1:]])
        called += min(p_values) < 0.05
    assert called <= 8  # of 100; 5 are allowed on average


def test_results_of_unlike_numbers_of_samples_are_refused():
    with pytest.raises(ValueError, match="not those of the same samples"):
        compare(RIGHT, np.ones(4, bool), np.ones(3, bool))


def test_two_shares_differ_by_no_more_than_all_of_them():
    """Where two groups differ, Student's t alone would end beyond 100 points."""
    all_right, some_wrong = (
        TASK.statistic(torch.eye(3)[torch.isin(torch.arange(18), wrong).long()], torch.zeros(18, dtype=torch.int64))
        for wrong in (torch.tensor([], dtype=torch.int64), torch.tensor([3, 6, 7]))
    )
    for pair, sign in (((all_right, some_wrong), 1), ((some_wrong, all_right), -1)):
        compared = compare(TASK.metrics["accuracy"], *pair, np.repeat(np.arange(6), 3))
        assert compared.method == "paired t"
        assert compared.difference.value == pytest.approx(sign / 6)
        assert (compared.difference.high if sign > 0 else compared.difference.low) == sign
        assert compared.difference.low < 0 < compared.difference.high
