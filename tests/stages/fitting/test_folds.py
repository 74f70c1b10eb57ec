"""Which rows are fitted and scored."""

import numpy as np
import pytest

from cache.errors import UsageError
from stages.config.heads import HeadConfig
from stages.fitting.folds import divisions, make_cv

LABELS = np.arange(60) % 3


def test_folds_score_each_row_once_and_never_a_row_they_fitted():
    scoring = make_cv(HeadConfig(), 45, 60, LABELS, seed=0)
    assert scoring.description == "5-fold cross-validation on train+val"
    assert sorted(np.concatenate([scored for _, scored in scoring.splits])) == list(range(60))
    assert all(not set(fitted) & set(scored) for fitted, scored in scoring.splits)
    assert all(np.bincount(LABELS[scored]).tolist() == [4, 4, 4] for _, scored in scoring.splits)


def test_groups_stay_together():
    groups = np.arange(60) // 4
    scoring = make_cv(HeadConfig(), 45, 60, LABELS, seed=0, groups=groups)
    assert scoring.description.endswith("that keep groups together")
    for fitted, scored in scoring.splits:
        assert not set(groups[fitted]) & set(groups[scored])


def test_more_folds_than_samples_of_a_class_are_refused_and_fewer_are_made_where_none_were_asked_for():
    rare = np.where(np.arange(60) < 3, 0, 1)
    with pytest.raises(UsageError, match=r"the rarest class has 3 samples .* ask for at most 3, or for 0 to"):
        make_cv(HeadConfig(cv=4), 45, 60, rare, 0)
    assert make_cv(HeadConfig(), 45, 60, rare, 0).description.startswith("3-fold")
    with pytest.raises(
        UsageError, match=r"the rarest class has 1 groups .* ask for 0 to select on the validation split"
    ):
        make_cv(HeadConfig(cv=2), 45, 60, rare, 0, groups=np.where(rare == 0, 0, np.arange(60)))


def test_zero_folds_and_many_rows_are_scored_on_the_validation_split():
    assert make_cv(HeadConfig(cv=0), 45, 60, LABELS, 0).is_holdout
    many = np.arange(12_000) % 3
    scoring = make_cv(HeadConfig(), 9_000, 12_000, many, 0)
    assert scoring.splits == ((slice(0, 9000), slice(9000, 12000)),)
    assert not make_cv(HeadConfig(cv=3), 9_000, 12_000, many, 0).is_holdout


def test_rows_without_strata_are_split_as_they_come_and_groups_of_them_stay_together():
    scoring = make_cv(HeadConfig(), 45, 60, None, seed=0)
    assert scoring.description == "5-fold cross-validation on train+val"
    assert sorted(np.concatenate([scored for _, scored in scoring.splits])) == list(range(60))
    assert all(not set(fitted) & set(scored) for fitted, scored in scoring.splits)
    groups = np.arange(60) // 4
    for fitted, scored in make_cv(HeadConfig(), 45, 60, None, 0, groups).splits:
        assert not set(groups[fitted]) & set(groups[scored])
    assert make_cv(HeadConfig(cv=15), 45, 60, None, 0, groups).description.startswith("15-fold")
    with pytest.raises(UsageError, match="there are 15 groups in train"):
        make_cv(HeadConfig(cv=16), 45, 60, None, 0, groups)


def test_folds_of_several_labels_have_their_share_of_each_and_a_rare_one_is_no_limit():
    labels = np.random.default_rng(0).random((60, 4)) < [0.5, 0.25, 0.2, 0.0]
    labels[7, 3] = True
    scoring = make_cv(HeadConfig(), 45, 60, labels, seed=0)
    assert scoring.description == "5-fold cross-validation on train+val"
    assert sorted(np.concatenate([scored for _, scored in scoring.splits])) == list(range(60))
    counts = np.array([labels[scored].sum(axis=0) for _, scored in scoring.splits])
    assert (np.ptp(counts, axis=0) <= 2).all()
    groups = np.arange(60) // 4
    for fitted, scored in make_cv(HeadConfig(), 45, 60, labels, 0, groups).splits:
        assert not set(groups[fitted]) & set(groups[scored])
    with pytest.raises(UsageError, match="there are 15 groups in train"):
        make_cv(HeadConfig(cv=16), 45, 60, labels, 0, groups)


@pytest.mark.filterwarnings("error")
def test_rare_parts_of_a_range_are_joined_with_those_beside_them():
    parts = np.repeat(np.arange(6), [1, 30, 2, 25, 1, 1])
    scoring = make_cv(HeadConfig(), 45, 60, parts, seed=0, are_classes=False)
    assert scoring.description == "5-fold cross-validation on train+val"
    low = np.array([(parts[scored] <= 1).sum() for _, scored in scoring.splits])
    assert low.min() >= 6
    assert make_cv(HeadConfig(cv=20), 45, 60, parts, seed=0, are_classes=False).description.startswith("20-fold")


def test_divisions_are_of_other_seeds_and_the_first_is_that_of_the_search():
    labels = np.arange(60) % 3
    plans = divisions(5, 5, 60, labels, 0)
    assert len(plans) == 5
    first = make_cv(HeadConfig(), 45, 60, labels, 0)
    for pair, expected in zip(plans[0].splits, first.splits, strict=True):
        np.testing.assert_array_equal(pair[1], expected[1])
    assert not np.array_equal(plans[0].splits[0][1], plans[1].splits[0][1])


def test_there_is_no_division_that_leaves_a_fold_one_class():
    assert divisions(5, 1, 10, np.array([0] * 9 + [1]), 0) == ()
    assert divisions(5, 1, 10, np.arange(10) % 2, 0, np.zeros(10, np.int64)) == ()
    assert len(divisions(5, 1, 11, np.array([0] * 5 + [1] * 5 + [2]), 0)) == 1
