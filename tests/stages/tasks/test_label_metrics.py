import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    label_ranking_average_precision_score,
    log_loss,
    roc_auc_score,
)

from stages.tasks.calibration import calibration_error
from stages.tasks.label_metrics import average_precision, best_thresholds
from stages.tasks.multi_label import MultiLabel


def statistics_of(seed, n=60, labels=5, ties=False, unknown=0.0):
    random = np.random.default_rng(seed)
    target = (random.random((n, labels)) < 0.3).astype(np.float32)
    logits = random.normal(size=(n, labels)) + target
    if ties:
        logits = np.round(logits)
    target[random.random((n, labels)) < unknown] = np.nan
    task = MultiLabel([f"label {number}" for number in range(labels)])
    return task, task.statistic(task.activate(torch.from_numpy(logits)), torch.from_numpy(target))


@pytest.mark.parametrize("ties", [False, True])
def test_scores_are_those_of_scikit_learn(ties):
    task, rows = statistics_of(0, ties=ties)
    target, scores, predicted = rows["target"].astype(int), rows["probabilities"], rows["predicted"]
    expected = {
        "map_macro": average_precision_score(target, scores, average="macro"),
        "map_micro": average_precision_score(target, scores, average="micro"),
        "auc_macro": roc_auc_score(target, scores, average="macro"),
        "f1_macro": f1_score(target, predicted, average="macro"),
        "f1_micro": f1_score(target, predicted, average="micro"),
        "label_ranking": label_ranking_average_precision_score(target, scores),
        "exact_match": (target == predicted).all(axis=1).mean(),
        "log_loss": log_loss(target.ravel(), scores.ravel().astype(np.float64)),
        "brier": brier_score_loss(target.ravel(), scores.ravel().astype(np.float64)),
        "ece": calibration_error(scores.ravel(), target.ravel() == 1),
    }
    assert {name: metric.score(rows) for name, metric in task.metrics.items()} == pytest.approx(expected, rel=1e-6)


def test_what_is_not_known_takes_no_part():
    task, rows = statistics_of(1, unknown=0.3)
    known = ~np.isnan(rows["target"])
    per_label = [(rows["target"][known[:, i], i], rows["probabilities"][known[:, i], i]) for i in range(5)]
    score = {name: metric.score(rows) for name, metric in task.metrics.items()}
    assert score["map_macro"] == pytest.approx(np.mean([average_precision_score(*pair) for pair in per_label]))
    assert score["auc_macro"] == pytest.approx(np.mean([roc_auc_score(*pair) for pair in per_label]))
    assert score["map_micro"] == pytest.approx(
        average_precision_score(rows["target"][known], rows["probabilities"][known])
    )
    assert score["f1_micro"] == pytest.approx(f1_score(rows["target"][known], rows["predicted"][known]))
    moved = rows.copy()
    moved["probabilities"][~known] = 0.123
    moved["predicted"][~known] ^= True
    assert {name: metric.score(moved) for name, metric in task.metrics.items()} == pytest.approx(score)


def test_a_label_without_a_positive_has_no_precision_and_no_area_and_does_not_count():
    task, rows = statistics_of(2)
    rows["target"][:, 2], rows["predicted"][:, 2] = 0, False
    rest = [0, 1, 3, 4]
    for name, expected in (
        ("map_macro", average_precision_score(rows["target"][:, rest], rows["probabilities"][:, rest])),
        ("auc_macro", roc_auc_score(rows["target"][:, rest], rows["probabilities"][:, rest])),
        ("f1_macro", f1_score(rows["target"], rows["predicted"], average="macro", zero_division=np.nan)),
    ):
        assert task.metrics[name].score(rows) == pytest.approx(expected)
    rows["target"][:, 2] = 1  # all have it: a precision of 1, and no area
    assert task.metrics["auc_macro"].score(rows) == pytest.approx(
        roc_auc_score(rows["target"][:, rest], rows["probabilities"][:, rest])
    )


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=30))
@settings(deadline=None, max_examples=100)
def test_average_precision_of_any_ties_is_that_of_scikit_learn(pairs):
    positive, scores = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs], dtype=float)
    if positive.any():
        assert average_precision(positive, scores) == pytest.approx(average_precision_score(positive, scores))
    else:
        assert np.isnan(average_precision(positive, scores))


def test_settings_are_compared_by_outputs_as_they_would_be_by_probabilities():
    task, _ = statistics_of(3)
    logits, target = (
        np.random.default_rng(0).normal(size=(50, 5)),
        (np.random.default_rng(1).random((50, 5)) < 0.4) * 1.0,
    )
    target[0] = np.nan
    statistics = task.statistic(task.activate(torch.from_numpy(logits)), torch.from_numpy(target))
    metric = task.metrics["map_macro"]
    assert metric.of_outputs(logits, target) == pytest.approx(metric.score(statistics))


def test_ranking_of_a_sample_with_all_labels_or_none_is_perfect():
    task = MultiLabel("abc")
    rows = task.statistic(torch.tensor([[0.1, 0.2, 0.3]] * 3), torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0]]))
    assert task.metrics["label_ranking"].per_sample(rows) == pytest.approx([1, 1, 1 / 3])


def test_a_threshold_stands_in_the_middle_of_what_it_tells_apart():
    target = np.array([[1, 1], [1, 0], [0, 0], [0, np.nan]])
    probabilities = np.array([[0.9, 0.4], [0.7, 0.2], [0.3, 0.1], [0.1, 0.9]])
    assert best_thresholds(target, probabilities) == pytest.approx([0.5, 0.3])
