"""Several labels a row, against scikit-learn's own one-vs-rest on the rows where a label is known."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from stages.fitting.solvers.linear_models import LinearModelFactory
from stages.fitting.solvers.linear_targets import constant_logits
from tests.stages.fitting.labels_and_numbers import label_task, labelled
from tests.stages.fitting.moderated_scaler import ModeratedScaler


def fitted(loss, rows, labels, *, c=0.3, scaling="none", balanced=False):
    center = rows.mean(axis=0)
    factory = LinearModelFactory(loss, label_task(labels.shape[1]), center, balanced)
    model = factory(scaling, rows - center, labels)
    model.fit(c, final=True)
    return model, center


def test_several_labels_are_scikit_learns_one_against_the_rest():
    rows, labels = labelled()
    model, center = fitted("logistic", rows, labels, scaling="standard")
    scaled = ModeratedScaler().fit_transform(rows.astype(np.float64))
    reference = OneVsRestClassifier(LogisticRegression(C=0.3, tol=1e-8, max_iter=1000)).fit(scaled, labels)
    assert np.abs(model.scores(rows - center) - reference.decision_function(scaled)).max() < 1e-3
    assert np.abs(model.head()(torch.from_numpy(rows)).detach().numpy() - model.scores(rows - center)).max() < 1e-4


@pytest.mark.parametrize(("loss", "balanced"), [("logistic", False), ("logistic", True), ("hinge", False)])
def test_a_label_is_fitted_to_the_rows_where_it_is_known_alone(loss, balanced):
    rows, labels = labelled(unknown=0.3)
    model, center = fitted(loss, rows, labels, balanced=balanced)
    scores = model.scores(rows - center)
    weights = "balanced" if balanced else None
    for number, column in enumerate(labels.T):
        known = ~np.isnan(column)
        if loss == "logistic":
            reference = LogisticRegression(C=0.3, class_weight=weights, tol=1e-8, max_iter=1000)
            allowed = 5e-3
        else:  # liblinear penalizes the intercept, the less the larger its scale
            reference = LinearSVC(C=0.3, intercept_scaling=100, tol=1e-7, max_iter=100_000, dual=False)
            allowed = 2e-2
        expected = reference.fit(rows[known] - center, column[known]).decision_function(rows - center)
        assert np.abs(scores[:, number] - expected).max() < allowed


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_a_label_that_all_have_or_none_has_a_constant_score(loss):
    rows, labels = labelled()
    labels[:, 0], labels[:, 1] = 0, 1
    labels[:100, 1] = np.nan
    model, center = fitted(loss, rows, labels)
    alone, _ = fitted(loss, rows, labels[:, 2:])
    scores = model.scores(rows - center)
    assert np.allclose(scores[:, :2], np.log([1 / 121, 21.0]))
    assert np.allclose(scores[:, :2], constant_logits(labels)[:2])
    assert np.abs(scores[:, 2:] - alone.scores(rows - center)).max() < 1e-3
    assert np.allclose(model.head(temperature=2.0)(torch.from_numpy(rows))[:, :2].detach(), scores[:, :2], atol=1e-5)


def test_where_no_label_can_be_learned_all_scores_are_constant():
    rows, labels = labelled()
    model, center = fitted("logistic", rows, np.zeros_like(labels))
    assert np.allclose(model.scores(rows - center), np.log(1 / 121))
