"""The head of the best setting, and cross-validation of other classifiers, by scikit-learn."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer

from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.folds import stratified_folds
from stages.fitting.heads.fit_rbf_svm import fit_rbf
from stages.fitting.heads.svm import fit_svm
from stages.fitting.solvers import grid, grid_search, host_search
from stages.fitting.solvers.host_search import HostFits
from stages.fitting.solvers.linear_models import LinearModelFactory
from tests.stages.fitting.moderated_scaler import ModeratedScaler
from tests.stages.fitting.rows_of_digits import fit_problem, numbered_classes, skewed
from tests.stages.fitting.solvers.searched import VALUES, searched


def test_the_head_of_a_search_on_held_out_rows_is_that_of_scikit_learn_on_all_rows_but_for_a_temperature():
    rows, labels = skewed(count=800)
    search_result, settings, problem = searched(rows, labels)
    train = len(problem.train)
    result, _ = grid_search.refit_best(problem, HostFits(settings, rows, labels), search_result)
    standard = result.settings["scaler"] == "standard"
    for head, count in ((result.head, len(rows)), (result.head_train_only, train)):
        exact = rows.astype(np.float64)
        scaler = ModeratedScaler(with_mean=standard, with_std=standard).fit(exact[:count])
        reference = LogisticRegression(C=result.settings["C"], tol=1e-9, max_iter=20000)
        reference.fit(scaler.transform(exact[:count]), labels[:count])
        expected = reference.predict_proba(scaler.transform(exact))
        logits = result.settings["temperature"] * head(torch.from_numpy(rows)).detach()
        assert np.abs(logits.softmax(dim=1).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
def test_a_classifier_of_scikit_learn_is_cross_validated_as_scikit_learn_does(classes, scaling):
    rows, labels = skewed(count=500, classes=classes)
    train, val = FeatureRows(rows[:400], labels[:400]), FeatureRows(rows[400:], labels[400:])
    options = HeadConfig(scalers=(scaling,), cv=4)
    problem = fit_problem(train, val, classes=classes + 1, options=options)  # of one class there is no row

    def make(settings):
        return LogisticRegression(max_iter=2000, **settings)

    result = grid_search.cross_validate(problem, make, {"C": [1e-3, 1.0]})
    scaler = {"none": FunctionTransformer(), "standard": ModeratedScaler(), "l2": Normalizer()}[scaling]
    for candidate in result.candidates:
        model = make_pipeline(scaler, make({"C": candidate["C"]}))
        folds = StratifiedKFold(4, shuffle=True, random_state=0)
        assert candidate["score"] == pytest.approx(cross_val_score(model, rows, labels, cv=folds).mean(), abs=1e-9)
    assert result.settings["score"] == max(candidate["score"] for candidate in result.candidates)
    for head, count in ((result.head, 500), (result.head_train_only, 400)):
        model = make_pipeline(scaler, make({"C": result.settings["C"]})).fit(rows[:count], labels[:count])
        logits = result.settings["temperature"] * head(torch.from_numpy(rows)).detach()[:, :classes]
        assert np.abs(logits.softmax(dim=1).numpy() - model.predict_proba(rows)).max() < 1e-3
    assert (result.head(torch.from_numpy(rows)).argmax(dim=1) < classes).all()


def test_probabilities_of_left_out_rows_are_those_of_scikit_learn_at_the_lowest_log_loss():
    rows, labels = skewed(count=600, width=12)
    folds = stratified_folds(4, labels, seed=0)
    make_of = partial(LinearModelFactory, "logistic", numbered_classes(4))  # of one class there is no row
    values = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    probabilities = grid_search.cross_val_proba(make_of, values, rows.astype(np.float16), labels, folds)
    assert probabilities.dtype == np.float32
    assert (probabilities[:, 3] == 0).all()
    expected = {}
    for c in values:
        model = make_pipeline(ModeratedScaler(), LogisticRegression(C=c, tol=1e-8, max_iter=5000))
        expected[c] = cross_val_predict(model, rows, labels, cv=folds, method="predict_proba")
    best = min(expected.values(), key=lambda probabilities: log_loss(labels, probabilities))
    assert np.abs(probabilities[:, :3] - best).max() < 0.02  # fits stop early, as those that are compared do
    assert np.abs(probabilities[:, :3] - best).mean() < 1e-3


@pytest.mark.parametrize("head", ["svm", "rbf"])
def test_what_a_search_said_of_rows_out_of_folds_is_not_fitted_again(head, monkeypatch):
    """Neither for the temperature nor for the comparison of heads; where it is too much to be kept, it is."""
    rows, labels = skewed(count=320, width=20)  # that many are divided once
    labels = np.where(np.random.default_rng(1).random(320) < 0.3, labels[::-1], labels)
    parts = [FeatureRows(rows[part], labels[part]) for part in (slice(240), slice(240, None))]
    problem = fit_problem(*parts, classes=3, options=HeadConfig(cv=3, c_values=VALUES[:5], scalers=("standard",)))
    problem = replace(problem, compared=True)
    fit = {"svm": fit_svm, "rbf": fit_rbf}[head]
    monkeypatch.setattr(grid, "_KEPT_BYTES", 0)
    again = fit(problem)
    folds_again = again.fold()
    monkeypatch.undo()
    monkeypatch.setattr(host_search, "_out_of_fold", None)
    kept = fit(problem)
    folds = kept.fold()
    assert kept.settings["C"] == again.settings["C"]
    assert kept.settings["temperature"] == pytest.approx(again.settings["temperature"], rel=0.02)
    assert np.array_equal(folds.folds, folds_again.folds)
    assert np.abs(folds.outputs - folds_again.outputs).max() < 0.05 * np.abs(folds.outputs).max()
