"""Networks are ranked by rows they were not fitted on, and what chance gives is no difference."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import cross_val_score

from cache.errors import DataError
from stages.fitting.feature_rows import FeatureRows
from stages.inspection.backbone_ranking import (
    CandidateCost,
    Suggestion,
    cross_validated,
    rank_backbones,
    survivors,
)
from stages.tasks.base import find_metric
from stages.tasks.single_label import SingleLabel
from tests.stages.fitting.labels_and_numbers import label_task, labelled, number_task, numbered
from tests.stages.fitting.rows_of_digits import TEN_CLASSES, digits

CPU = torch.device("cpu")
ROWS = digits()[0]


def noisy(rows, deviation, seed):
    noise = np.random.default_rng(seed).normal(0, deviation, rows.features.shape)
    return FeatureRows((rows.features + noise).astype(np.float32), rows.labels, groups=rows.groups)


def test_the_score_is_that_of_cross_validated_ridge_regression():
    statistics = cross_validated(ROWS, TEN_CLASSES, 0, CPU)
    score = find_metric(TEN_CLASSES).score(statistics)
    expected = cross_val_score(RidgeClassifier(1.0), ROWS.features.astype(float), ROWS.labels, cv=5).mean()
    assert len(statistics) == len(ROWS)
    assert score == pytest.approx(expected, abs=0.02)


def test_labels_that_features_say_nothing_of_are_not_predicted():
    """As they would be by a head that had seen the rows it is scored on."""
    generator = np.random.default_rng(0)
    rows = FeatureRows(generator.normal(size=(120, 300)).astype(np.float32), generator.integers(2, size=120))
    task = SingleLabel("ab")
    assert find_metric(task).score(cross_validated(rows, task, 0, CPU)) < 0.65


def test_copies_of_a_sample_in_one_group_are_never_predicted_from_each_other():
    generator = np.random.default_rng(1)
    features, labels = generator.normal(size=(40, 200)).astype(np.float32), generator.integers(2, size=40)
    twice = FeatureRows(np.repeat(features, 2, axis=0), np.repeat(labels, 2), groups=np.repeat(np.arange(40), 2))
    task = SingleLabel("ab")
    assert find_metric(task).score(cross_validated(twice, task, 0, CPU)) < 0.75


def test_the_best_comes_first_and_only_what_differs_by_more_than_chance_is_behind():
    rows = {"good": ROWS, "as good": noisy(ROWS, 0.02, 1), "bad": noisy(ROWS, 1.0, 2)}
    kept = {name: cross_validated(own, TEN_CLASSES, 0, CPU) for name, own in rows.items()}
    ranked = rank_backbones(kept, TEN_CLASSES)
    assert ranked[-1].name == "bad"
    assert [entry.is_tied for entry in ranked] == [True, True, False]
    assert ranked[0].behind.value == 0 > ranked[2].behind.high
    accuracy = ranked[2].score
    assert ranked[2].standard_error == pytest.approx(np.sqrt(accuracy * (1 - accuracy) / len(ROWS)), rel=0.15)
    costs = {"good": CandidateCost(64, 10, 0), "as good": CandidateCost(64, 90, 0), "bad": CandidateCost(64, 500, 0)}
    suggestion = Suggestion(ranked, costs, [], {}, len(ROWS), 1797, find_metric(TEN_CLASSES))
    assert suggestion.recommended.name == "as good"


def test_the_sieve_leaves_the_better_half_but_never_fewer_than_four():
    evidence = {name: float(number) for number, name in enumerate("abcdefghij")}
    assert survivors(evidence) == list("fghij")
    assert survivors({name: evidence[name] for name in "edcba"}) == list("edcb")
    assert survivors({"a": 0.0, "b": 1.0}) == ["a", "b"]


def test_too_few_groups_are_refused():
    rows = FeatureRows(ROWS.features[:9], ROWS.labels[:9], groups=np.zeros(9, dtype=np.int64))
    with pytest.raises(DataError, match="9 images of 1 groups are too few"):
        cross_validated(rows, TEN_CLASSES, 0, CPU)


@pytest.mark.parametrize(("rows_of", "task_of"), [(labelled, label_task), (numbered, number_task)])
def test_several_labels_and_numbers_are_ranked_by_their_own_metric(rows_of, task_of):
    features, targets = rows_of(unknown=0.1)
    task = task_of(targets.shape[1])
    noise = np.random.default_rng(9).normal(0, 3, features.shape).astype(np.float32)
    rows = {"clear": features, "noisy": features + noise}
    kept = {name: cross_validated(FeatureRows(own, targets), task, 0, CPU) for name, own in rows.items()}
    best, other = rank_backbones(kept, task)
    assert (best.name, other.name) == ("clear", "noisy")
    assert best.score > 0.9 > best.score + other.behind.high
    assert 0 < best.standard_error < 0.1
