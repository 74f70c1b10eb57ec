"""Ridge and the nearest mean against scikit-learn, and the short ways against the long ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler, normalize

from stages.fitting import rows as rows_module
from stages.fitting.closed import Ridge as OurRidge
from stages.fitting.closed import Sums, fit_nearest_mean, fit_ridge
from stages.fitting.protocol import balanced_weights, make_protocol
from stages.fitting.rows import Rows
from stages.options import Head
from tests.stages.fitting.rows_of_digits import digits, skewed


def scaled_by_scikit_learn(scaling, rows):
    rows = rows.astype(np.float64)
    return {"none": rows, "standard": StandardScaler().fit_transform(rows), "l2": normalize(rows)}[scaling]


def summed(rows, labels, scaling, weights=None):
    weights = np.ones(len(rows), np.float32) if weights is None else weights
    centre = rows[:50].mean(axis=0)
    return Sums.of(Rows(rows, labels), labels.max() + 1, weights, centre, l2=scaling == "l2")


@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
@pytest.mark.parametrize("penalty", [0.5, 50.0])
def test_ridge_has_the_coefficients_of_scikit_learn(scaling, penalty, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 1 << 12)  # many blocks
    rows, labels = skewed()
    head = OurRidge.fit(summed(rows, labels, scaling), scaling).head(penalty)
    scaled = scaled_by_scikit_learn(scaling, rows)
    expected = RidgeClassifier(alpha=penalty).fit(scaled, labels).decision_function(scaled)
    assert np.abs(head(torch.from_numpy(rows)).detach().numpy() - expected).max() < 1e-3


def test_balanced_ridge_is_that_of_scikit_learn():
    rows, labels = skewed()
    head = OurRidge.fit(summed(rows, labels, "none", balanced_weights(labels)), "none").head(5.0)
    # scikit-learn's weights do not have the mean 1 that ours have: both have here
    reference = RidgeClassifier(alpha=5.0, class_weight="balanced").fit(rows.astype(np.float64), labels)
    assert np.abs(head(torch.from_numpy(rows)).detach().numpy() - reference.decision_function(rows)).max() < 1e-3


@pytest.mark.parametrize("scaling", ["none", "l2"])
def test_leaving_one_out_in_one_step_is_leaving_out_one_by_one(scaling):
    rows, labels = skewed(count=120, width=20)
    ones = np.ones(len(rows), np.float32)
    quick = OurRidge.fit(summed(rows, labels, scaling), scaling).predictions(Rows(rows, labels), [2.0], left_out=ones)[
        0
    ]
    targets = 2.0 * (labels[:, None] == np.arange(3)) - 1
    slow = cross_val_predict(Ridge(alpha=2.0), scaled_by_scikit_learn(scaling, rows), targets, cv=LeaveOneOut())
    assert np.abs(quick - slow).max() < 1e-3


def test_sums_of_parts_are_sums_of_the_whole():
    rows, labels = skewed(classes=3)
    ones = np.ones(len(rows), np.float32)
    centre = rows[:10].mean(axis=0)
    whole, first, second = (
        Sums.of(Rows(rows[part], labels[part]), 3, ones[part], centre, l2=False)
        for part in (slice(None), slice(200), slice(200, None))
    )
    for name in ("products", "total", "by_class", "class_weight"):
        assert np.allclose(getattr(first + second, name), getattr(whole, name), rtol=1e-4, atol=1e-2)
        assert np.allclose(getattr(whole - second, name), getattr(first, name), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("folds", [None, 0, 4])
def test_the_penalty_that_scores_best_is_chosen(folds):
    train, val, test = digits()
    options = Head(folds=folds)
    if folds:
        train, val = (replace(one, groups=np.arange(len(one)) // 3) for one in (train, val))
    labels = np.concatenate([train.labels, val.labels])
    groups = np.concatenate([train.groups, val.groups]) if folds else None
    scoring = make_protocol(options, len(train), labels, 0, groups)
    done = fit_ridge(train, val, options.regularisation, options.scalers, 10, scoring, balanced=False)
    assert done.settings["score"] == max(one["score"] for one in done.tried)
    assert len(done.tried) == 2 * 31
    words = {None: "leave-one-out", 0: "validation split", 4: "4-fold cross-validation on train+val that keep groups"}
    assert done.settings["selected by"].startswith(words[folds])
    right = (done.head(torch.from_numpy(test.features).float()).argmax(dim=1).numpy() == test.labels).mean()
    assert abs(right - done.settings["score"]) < 0.03


@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
def test_the_nearest_mean_is_that_of_scikit_learn(scaling):
    rows, labels = skewed()
    done = fit_nearest_mean(
        Rows(rows[:400], labels[:400]), Rows(rows[400:], labels[400:]), [scaling], 3, balanced=False
    )
    scaled = scaled_by_scikit_learn(scaling, rows)
    expected = NearestCentroid().fit(scaled, labels).predict(scaled)
    assert (done.head(torch.from_numpy(rows)).argmax(dim=1).numpy() == expected).mean() > 0.998
