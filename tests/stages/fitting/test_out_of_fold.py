"""Heads out of folds: no row has a say in what is said of it, and all heads have the same folds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.config.heads import HeadConfig
from stages.fitting.fit_head import get_fit, train_foldable_head
from stages.fitting.out_of_fold import best_on_others, nested
from tests.stages.fitting.labels_and_numbers import labelled, numbered, problem_of
from tests.stages.fitting.rows_of_digits import digits, fit_problem, skewed

QUICK = HeadConfig(
    c_values=(1e-3, 1e-1), scalers=("none", "standard"), n_neighbors=(1, 5), fit_epochs=12, hidden_dim=16
)
CLOSED = ("logistic", "svm", "ridge", "ncm", "rbf", "knn", "kernel_ridge")


def noise(count=80, classes=2, groups=None, options=QUICK):
    """Rows that say nothing of their classes, so that whatever is right beyond chance has been peeked at."""
    random = np.random.default_rng(0)
    rows, labels = random.normal(size=(count, 30)).astype(np.float32), np.arange(count) % classes
    train, val = fit_rows(rows, labels, groups)
    return fit_problem(train, val, classes=classes, options=options)


def fit_rows(rows, labels, groups=None):
    train, _, _ = digits(2)
    size = int(0.75 * len(rows))
    parts = (slice(size), slice(size, None))
    return [
        replace(train, features=rows[part], labels=labels[part], groups=None if groups is None else groups[part])
        for part in parts
    ]


def right(out_of_fold, problem):
    return [float(np.mean(outputs.argmax(axis=1) == problem.labels)) for outputs in out_of_fold.outputs]


@pytest.mark.parametrize("name", [*CLOSED, "mlp"])
def test_what_cannot_be_known_is_not_known_out_of_folds(name):
    problem = noise()
    head, fold = train_foldable_head(name, problem)
    out_of_fold = fold()
    assert out_of_fold.outputs.shape == (5, 80, 2)
    assert np.mean(right(out_of_fold, problem)) == pytest.approx(0.5, abs=0.13)
    known = head.module.eval()(torch.from_numpy(problem.all_rows.features)).argmax(dim=1).numpy()
    if name not in ("ncm", "mlp"):
        assert np.mean(known == problem.labels) > 0.6  # of rows that it was fitted to it knows more


@pytest.mark.parametrize("name", [*CLOSED, "linear", "mlp"])
def test_what_can_be_known_is_known_out_of_folds_that_are_the_same_for_all(name):
    train, val, _ = digits(3)
    problem = fit_problem(train, val, classes=3, options=replace(QUICK, fit_epochs=40))
    out_of_fold = train_foldable_head(name, problem)[1]()
    assert right(out_of_fold, problem)[0] > 0.9
    expected = replace(problem, compared=True).divisions
    assert len(expected) == len(out_of_fold.folds) == 1
    for number, (_, scored) in enumerate(expected[0].splits):
        assert set(out_of_fold.folds[0][scored]) == {number}


@pytest.mark.parametrize("name", ["ridge", "knn"])
def test_no_label_of_a_fold_changes_what_is_said_of_it(name):
    options = replace(QUICK, c_values=(1e-2,), scalers=("standard",), n_neighbors=(5,))  # nothing to choose
    problem = replace(noise(count=400, options=options), compared=True)
    (plan,) = problem.divisions
    scored = plan.splits[2][1]
    other = problem.labels.copy()
    other[scored] = 1 - other[scored]
    turned = replace(
        problem,
        train=replace(problem.train, labels=other[: len(problem.train)]),
        val=replace(problem.val, labels=other[len(problem.train) :]),
    )
    turned.__dict__["divisions"] = problem.divisions  # folds are stratified by labels, and here they are not to change
    before, after = (get_fit(name)(rows).fold().outputs[0][scored] for rows in (problem, turned))
    order = [np.argsort(outputs[:, 1] - outputs[:, 0], kind="stable") for outputs in (before, after)]
    np.testing.assert_array_equal(*order)  # temperatures are of the other folds, whose models were shown these labels


def test_a_fold_does_not_choose_its_own_setting():
    scores = np.array([[0.5, 0.9, 0.5], [0.6, 0.6, 0.6], [0.6, 0.6, 0.6]])
    assert best_on_others(scores) == [0, 1, 0]  # and of equals the first
    assert best_on_others(np.array([[0.0, 0.0, 9.0], [1.0, 1.0, 1.0]]))[2] == 1


def test_groups_are_left_out_as_a_whole():
    groups = np.arange(80) // 4
    problem = noise(groups=groups)
    out_of_fold = train_foldable_head("logistic", problem)[1]()
    for folds in out_of_fold.folds:
        assert all(len(set(folds[groups == group])) == 1 for group in range(20))


@pytest.mark.parametrize("name", ["ridge", "kernel_ridge", "knn", "mlp"])
@pytest.mark.parametrize("make", [labelled, numbered])
def test_labels_and_numbers_are_folded_too(name, make):
    problem = problem_of(*make(unknown=0.1), options=replace(QUICK, fit_epochs=4))
    out_of_fold = train_foldable_head(name, problem)[1]()
    assert out_of_fold.outputs.shape == (5, 120, problem.labels.shape[1])
    assert np.isfinite(out_of_fold.activated(problem.task)).all()


def test_a_head_that_does_not_know_its_scores_by_folds_is_searched_in_each():
    problem = replace(noise(count=400), compared=True)
    seen = []

    def fit(rows):
        seen.append((len(rows.train), len(rows.val)))
        return train_foldable_head("ncm", rows)[0].module

    assert nested(fit, problem).outputs.shape == (1, 400, 2)
    assert seen == [(256, 64)] * 5


def test_of_two_rows_a_search_in_a_fold_leaves_out_none():
    rows = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    train, val = fit_rows(rows, np.array([0, 1, 0, 1]))
    out_of_fold = train_foldable_head("sgd", fit_problem(train, val, classes=2, options=QUICK))[1]()
    assert out_of_fold.outputs.shape == (5, 4, 2)
    assert np.isfinite(out_of_fold.outputs).all()


def test_a_class_of_one_sample_is_in_one_fold_alone_and_is_compared_all_the_same():
    rows, labels = skewed(count=120)
    labels[7], task = 3, 4
    train, val = fit_rows(rows, labels)
    problem = fit_problem(train, val, classes=task, options=QUICK)
    assert problem.cv.is_holdout  # by that settings are chosen
    for name in ("logistic", "ridge", "knn", "mlp"):
        out_of_fold = train_foldable_head(name, problem)[1]()
        assert out_of_fold.folds.shape == (5, 120)
        assert np.isfinite(out_of_fold.outputs).all()


def test_rows_are_not_folded_where_settings_are_not_cross_validated():
    assert train_foldable_head("logistic", noise(options=replace(QUICK, cv=0)))[1]() is None
