"""Logistic regression and the linear SVM come to the coefficients that scikit-learn comes to."""

import pickle
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from stages.fitting.solvers import linear_models as linear
from stages.fitting.solvers.linear_models import LinearModelFactory
from tests.stages.fitting.moderated_scaler import ModeratedScaler
from tests.stages.fitting.rows_of_digits import numbered_classes, skewed


def scaled_by_scikit_learn(scaling, rows):
    rows = rows.astype(np.float64)
    return {
        "none": lambda: rows,
        "standard": lambda: ModeratedScaler().fit_transform(rows),
        "l2": lambda: normalize(rows),
    }[scaling]()


def fitted(loss, scaling, rows, labels, c, classes, balanced=False, final=True):
    center = rows.mean(axis=0)
    model = LinearModelFactory(loss, numbered_classes(classes), center, balanced)(scaling, rows - center, labels)
    model.fit(c, final=final)
    return model, model.scores(rows - center)


def reference(loss, c):
    if loss == "logistic":
        return LogisticRegression(C=c, tol=1e-9, max_iter=20000)
    # liblinear penalises its intercept, the less the larger this scaling is
    return LinearSVC(C=c, tol=1e-9, max_iter=200000, intercept_scaling=300, dual=False)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_scores_are_those_of_scikit_learn(loss, scaling, classes, balanced):
    rows, labels = skewed(classes=classes)
    _, scores = fitted(loss, scaling, rows.astype(np.float64), labels, 0.05, classes, balanced)
    scaled = scaled_by_scikit_learn(scaling, rows)
    # LinearSVC's own class_weight weighs a row in the problem of its own class alone
    weights = numbered_classes(classes).weights(labels) if balanced else None
    expected = reference(loss, 0.05).fit(scaled, labels, sample_weight=weights).decision_function(scaled)
    actual = scores[:, 1] if classes == 2 else scores
    if loss == "logistic" and classes > 2:  # a constant over the classes changes no probability
        actual, expected = (margins - margins.mean(axis=1, keepdims=True) for margins in (actual, expected))
    assert np.abs(actual - expected).max() < (1e-4 if loss == "logistic" else 1e-3)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_of_few_wide_rows_the_minimum_is_found_in_their_span(loss, scaling, classes, monkeypatch):
    rows, labels = skewed(count=60, width=500, classes=classes)
    center, few = rows.mean(axis=0), slice(0, 40)
    factory = LinearModelFactory(loss, numbered_classes(classes), center)
    everywhere = factory(scaling, (rows - center)[few], labels[few])
    assert factory.bytes_beside_rows(40) == 0
    monkeypatch.setattr(linear, "PREPARED_FROM", 40 * 500)
    in_span = factory(scaling, (rows - center)[few], labels[few])
    assert factory.bytes_beside_rows(40) == 2 * 4 * 40 * 500
    assert factory.prepared(rows - center, [scaling]) is factory  # each model has axes of its own
    assert in_span._seen.rows.shape == (40, 40)
    for c in (1e-4, 1e-2):  # each from where the last one ended
        for model in (everywhere, in_span):
            model.fit(c, final=True)
        said = [model.scores(rows - center) for model in (everywhere, in_span)]
        assert np.abs(said[0] - said[1]).max() < 1e-3 * np.abs(said[0]).max()
    assert in_span.evaluations < 1.3 * everywhere.evaluations
    assert in_span._axes.dtype == torch.float64  # as final fits of few rows are
    handed_over = factory(scaling, (rows - center)[few], labels[few])
    handed_over.state = deepcopy(in_span.state)
    handed_over.fit(1e-2, final=True)
    assert handed_over.evaluations < in_span.evaluations / 2
    assert np.abs(handed_over.scores(rows - center) - said[1]).max() < 1e-3 * np.abs(said[1]).max()
    logits = in_span.head()(torch.from_numpy(rows)).detach().numpy()
    assert np.abs(logits - said[1]).max() < 1e-4 * max(np.abs(said[1]).max(), 1.0)


@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_scores_as_the_model_does(scaling, classes):
    rows, labels = skewed(classes=classes)
    model, scores = fitted("logistic", scaling, rows, labels, 0.1, classes)
    logits = model.head()(torch.from_numpy(rows)).detach().numpy()
    assert np.abs(logits - scores).max() < 1e-4
    assert np.allclose(model.head(2.0)(torch.from_numpy(rows)).detach().numpy(), scores / 2, atol=1e-4)


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_a_path_that_begins_where_the_last_fit_ended_ends_where_a_fit_from_zero_ends(loss):
    rows, labels = skewed()
    center = rows.mean(axis=0)
    walked = LinearModelFactory(loss, numbered_classes(3), center)("standard", rows - center, labels)
    for c in (1e-3, 1e-2, 1e-1):
        walked.fit(c, final=True)
    from_zero, scores = fitted(loss, "standard", rows, labels, 1e-1, 3)
    assert np.abs(walked.scores(rows - center) - scores).max() < 1e-4
    handed_over = LinearModelFactory(loss, numbered_classes(3), center)("standard", rows - center, labels)
    handed_over.state = deepcopy(walked.state)
    before = handed_over.evaluations
    handed_over.fit(1e-1, final=True)
    assert handed_over.evaluations - before < from_zero.evaluations / 2


@pytest.mark.parametrize(("loss", "c"), [("logistic", 3.0), ("hinge", 0.3)])
def test_few_rows_that_can_be_told_apart_are_judged_near_the_minimum_under_weak_regularization(loss, c, monkeypatch):
    rows, labels = skewed(count=120, width=300)
    center, train = rows.mean(axis=0), slice(0, 80)

    def scores(final=False):
        model = LinearModelFactory(loss, numbered_classes(3), center)("none", (rows - center)[train], labels[train])
        model.fit(c, final=final)
        return model.scores(rows - center)

    exact, near = scores(final=True), scores()
    monkeypatch.setattr(linear, "SEPARABLE_UP_TO", 0)
    assert np.abs(near - exact).max() < 0.05 * np.abs(exact).max() < 0.5 * np.abs(scores() - exact).max()


def test_preconditioning_saves_evaluations_and_leaves_the_minimum_where_it_is(monkeypatch):
    rows, labels = skewed(count=4100, width=40)
    rows = rows @ np.random.default_rng(1).normal(size=(40, 40)).astype(np.float32)
    fast, fast_scores = fitted("logistic", "none", rows, labels, 0.1, 3, final=False)
    root = linear.Preconditioner.root
    none = {"along": torch.ones(40), "others": 1.0, "intercept": 1.0}
    monkeypatch.setattr(linear.Preconditioner, "root", lambda *given: replace(root(*given), **none))
    plain, plain_scores = fitted("logistic", "none", rows, labels, 0.1, 3, final=False)
    assert np.abs(fast_scores - plain_scores).max() < 0.2
    assert fast.evaluations < plain.evaluations / 2


@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
def test_a_preconditioner_of_all_rows_serves_models_on_parts_of_them(scaling, monkeypatch):
    monkeypatch.setattr(linear, "PREPARED_FROM", 1200 * 40)
    rows, labels = skewed(count=1200, width=40)
    rows = rows @ np.random.default_rng(1).normal(size=(40, 40)).astype(np.float32)
    center, part = rows.mean(axis=0), slice(0, 900)
    alone = LinearModelFactory("logistic", numbered_classes(3), center)
    shared = alone.prepared(rows - center, [scaling])
    models = [factory(scaling, (rows - center)[part], labels[part]) for factory in (alone, shared)]
    for model in models:
        model.fit(0.1, final=True)
    own, common = models
    assert common._preconditioner.vectors.dtype == torch.float64
    assert shared.preconditioners[scaling].vectors.dtype == torch.float32  # others go on with it
    assert np.abs(own.scores(rows - center) - common.scores(rows - center)).max() < 1e-4
    assert common.evaluations < 1.3 * own.evaluations
    sent = pickle.loads(pickle.dumps(shared))
    assert not sent.preconditioners
    again = sent.prepared(rows - center, [scaling]).preconditioners[scaling]
    assert torch.equal(again.vectors, shared.preconditioners[scaling].vectors)
    assert shared.prepared(rows - center, [scaling]) is shared
    assert alone.prepared((rows - center)[1:], [scaling]) is alone  # few numbers: each fold makes its own


def test_intercepts_of_many_classes_take_steps_of_their_own_length(monkeypatch):
    rows, labels = skewed(count=4100, width=40, classes=40)
    fast, fast_scores = fitted("logistic", "none", rows, labels, 0.01, 40)
    root = linear.Preconditioner.root
    monkeypatch.setattr(linear.Preconditioner, "root", lambda *given: replace(root(*given), intercept=1.0))
    slow, slow_scores = fitted("logistic", "none", rows, labels, 0.01, 40)
    assert np.abs(fast_scores - slow_scores).max() < 1e-3
    assert fast.evaluations < slow.evaluations * 0.6


def test_a_class_without_rows_is_never_predicted():
    rows, labels = skewed(classes=3)
    labels = np.where(labels == 1, 3, labels)
    model, scores = fitted("hinge", "none", rows, labels, 0.1, 5)
    assert set(scores.argmax(axis=1)) <= {0, 2, 3}
    assert set(model.head()(torch.from_numpy(rows)).argmax(dim=1).tolist()) <= {0, 2, 3}


def test_features_far_from_zero_or_constant_do_no_harm():
    rows, labels = skewed()
    moved = rows + 1000
    moved[:, 3] = 1000.5
    expected = fitted("logistic", "standard", np.delete(rows, 3, axis=1), labels, 0.1, 3)[1]
    assert np.abs(fitted("logistic", "standard", moved, labels, 0.1, 3)[1] - expected).max() < 0.05
