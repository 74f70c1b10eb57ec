import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    log_loss,
    roc_auc_score,
)

from stages.tasks.base import evaluate
from stages.tasks.metrics import OLD_NAMES, auc_macro, balanced_accuracy, quadratic_kappa
from stages.tasks.single_label import SingleLabel

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


def kept(task, probabilities, target):
    return task.statistic(torch.as_tensor(probabilities), torch.as_tensor(target))


def sure(predicted, classes):
    """Return probabilities that say `predicted`."""
    return np.full((len(predicted), classes), 0.1 / classes) + 0.9 * np.eye(classes)[predicted]


def test_metrics_are_those_worked_out_by_hand():
    task = SingleLabel("ab")
    scores = evaluate(task, kept(task, [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]], [0, 0, 0, 1]))
    assert scores["accuracy"] == scores["f1_micro"] == 0.75
    assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["f1_macro"] == pytest.approx((2 * 2 / (2 * 2 + 1) + 2 * 1 / (2 * 1 + 1)) / 2)
    assert scores["auc_macro"] == 1.0
    assert scores["log_loss"] == pytest.approx(-sum(math.log(p) for p in (0.9, 0.8, 0.4, 0.7)) / 4)


def test_a_class_without_samples_neither_fails_nor_lowers_f1():
    task = SingleLabel("abc")
    rows = kept(task, [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], [0, 1])
    assert evaluate(task, rows)["f1_macro"] == 1.0
    assert task.confusion(rows).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


@given(pairs)
@settings(deadline=None, max_examples=150)
def test_scores_of_classes_are_those_of_scikit_learn(both):
    target, predicted = np.array(both).T
    scores = evaluate(SingleLabel("abcde"), kept(SingleLabel("abcde"), sure(predicted, 5), target))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert scores["balanced_accuracy"] == balanced_accuracy_score(target, predicted)
        assert balanced_accuracy(target, predicted) == scores["balanced_accuracy"]
        assert scores["f1_macro"] == f1_score(target, predicted, average="macro", zero_division=0)
        assert scores["f1_micro"] == pytest.approx(f1_score(target, predicted, average="micro"))
        kappa = cohen_kappa_score(target, predicted, weights="quadratic", labels=np.arange(5))
    assert scores["accuracy"] == (target == predicted).mean()
    assert scores["qwk"] == pytest.approx(kappa, nan_ok=True)
    assert quadratic_kappa(target, predicted, 5) == pytest.approx(kappa, nan_ok=True)


@given(st.integers(0, 1000), st.integers(3, 6))
@settings(deadline=None, max_examples=30)
def test_auc_of_several_classes_is_the_mean_of_one_against_rest(seed, classes):
    random = np.random.default_rng(seed)
    target, probabilities = random.integers(classes, size=40), random.dirichlet(np.ones(classes), 40)
    assume(len(np.unique(target)) == classes)
    expected = roc_auc_score(target, probabilities, multi_class="ovr", average="macro")
    assert auc_macro(target, probabilities) == pytest.approx(expected)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=60))
@settings(deadline=None)
def test_auc_of_two_classes_is_the_one_of_scikit_learn_to_the_bit_with_ties_too(samples):
    target, eighths = np.array(samples, dtype=np.int64).T
    assume(0 < target.sum() < len(target))
    probabilities = np.stack([8 - eighths, eighths], axis=1) / 8
    assert auc_macro(target, probabilities) == roc_auc_score(target, probabilities[:, 1])


def test_auc_of_several_classes_passes_over_those_that_are_absent():
    target, probabilities = np.array([0, 0, 1, 1]), np.random.default_rng(0).dirichlet(np.ones(3), 4)
    areas = [roc_auc_score(target == number, probabilities[:, number]) for number in (0, 1)]
    assert auc_macro(target, probabilities) == np.mean(areas)
    assert np.isnan(auc_macro(np.zeros(4, dtype=int), probabilities))


def test_log_loss_of_single_samples_has_the_mean_of_scikit_learn_even_where_one_is_certain_and_wrong():
    task = SingleLabel("abc")
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 50).astype(np.float32)
    probabilities[7] = [0, 1, 0]
    target = np.zeros(50, dtype=np.int64)
    rows = kept(task, probabilities, target)
    metric = task.metrics["log_loss"]
    expected = log_loss(target, probabilities, labels=[0, 1, 2])
    assert metric.score(rows) == expected
    assert metric.per_sample(rows).mean() == pytest.approx(expected, rel=1e-6)
    assert 5 < metric.per_sample(rows)[7] < 50


def test_each_metric_says_which_way_is_better():
    """Right predictions score at least as high as wrong ones, or as low where lower is better."""
    task, target = SingleLabel("abc"), np.array([0, 1, 2, 0, 1, 2])
    right, wrong = (evaluate(task, kept(task, sure(predicted, 3), target)) for predicted in (target, (target + 1) % 3))
    for name, metric in task.metrics.items():
        assert metric.name == name
        assert right[name] > wrong[name] if metric.higher_is_better else right[name] < wrong[name]


def test_old_names_lead_to_metrics_there_are():
    assert set(OLD_NAMES.values()) <= set(SingleLabel("ab").metrics)
    assert not set(OLD_NAMES) & set(SingleLabel("ab").metrics)


def test_a_thousand_classes_cost_no_table_of_samples_by_classes_squared():
    import tracemalloc

    random = np.random.default_rng(0)
    task = SingleLabel([str(number) for number in range(1000)])
    rows = kept(task, random.random((2000, 1000), dtype=np.float32), random.integers(1000, size=2000))
    tracemalloc.start()
    for name in ("balanced_accuracy", "f1_macro", "f1_micro"):
        task.metrics[name].score(rows)
    assert tracemalloc.get_traced_memory()[1] < 24e6  # as a table of classes, dense: 48e6
    tracemalloc.stop()


def test_what_is_shown_is_known_and_explained():
    for names in ("ab", "abc"):
        task = SingleLabel(names)
        assert set(task.shown) <= set(task.metrics) - {task.primary}
        assert all(task.metrics[name].note for name in task.shown)
    assert "auc_macro" in SingleLabel("ab").shown
