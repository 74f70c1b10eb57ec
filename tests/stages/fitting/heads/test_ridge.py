"""Ridge and the nearest mean against scikit-learn, and the short ways against the long ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from stages.config.heads import HeadConfig
from stages.fitting import feature_rows as rows_module
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.heads import ridge
from stages.fitting.heads.ncm import fit_ncm
from stages.fitting.heads.ridge import GramSums, RidgeFits, RidgeTargets, decomposed_by_rows, fit_ridge
from stages.fitting.solvers.symmetric import eigendecomposed
from tests.stages.fitting.labels_and_numbers import labelled, numbered, problem_of
from tests.stages.fitting.moderated_scaler import ModeratedScaler
from tests.stages.fitting.rows_of_digits import digits, fit_problem, numbered_classes, skewed

WAYS = ("by products", "by rows")


def scaled_by_scikit_learn(scaling, rows):
    rows = rows.astype(np.float64)
    return {"none": rows, "standard": ModeratedScaler().fit_transform(rows), "l2": normalize(rows)}[scaling]


def decomposed(way, rows, labels, scaling, weights=None):
    weights = np.ones(len(rows), np.float32) if weights is None else weights
    arguments = (
        FeatureRows(rows, labels),
        RidgeTargets(numbered_classes(labels.max() + 1)),
        weights,
        rows[:50].mean(axis=0),
    )
    if way == "by rows":
        return decomposed_by_rows(*arguments, scaling)
    return GramSums.of(*arguments, l2=scaling == "l2").eigendecompose(scaling)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
@pytest.mark.parametrize("penalty", [0.5, 50.0])
def test_ridge_has_the_coefficients_of_scikit_learn(scaling, penalty, way, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 1 << 12)  # many blocks
    rows, labels = skewed()
    head = decomposed(way, rows, labels, scaling).head(penalty)
    scaled = scaled_by_scikit_learn(scaling, rows)
    expected = RidgeClassifier(alpha=penalty).fit(scaled, labels).decision_function(scaled)
    assert np.abs(head(torch.from_numpy(rows)).detach().numpy() - expected).max() < 1e-3


@pytest.mark.parametrize("way", WAYS)
def test_balanced_ridge_is_that_of_scikit_learn(way):
    rows, labels = skewed()
    head = decomposed(way, rows, labels, "none", numbered_classes(3).weights(labels)).head(5.0)
    # scikit-learn's weights do not have the mean 1 that ours have: both have here
    reference = RidgeClassifier(alpha=5.0, class_weight="balanced").fit(rows.astype(np.float64), labels)
    assert np.abs(head(torch.from_numpy(rows)).detach().numpy() - reference.decision_function(rows)).max() < 1e-3


@pytest.mark.parametrize("width", [20, 200])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scaling", ["none", "l2"])
@pytest.mark.parametrize("balanced", [False, True])
def test_leaving_one_out_in_one_step_is_leaving_out_one_by_one(scaling, way, width, balanced):
    rows, labels = skewed(count=120, width=width)
    weights = numbered_classes(3).weights(labels) if balanced else np.ones(len(rows), np.float32)
    quick = decomposed(way, rows, labels, scaling, weights).predictions(
        FeatureRows(rows, labels), [2.0], left_out=weights
    )[0]
    targets = 2.0 * (labels[:, None] == np.arange(3)) - 1
    given = {"cv": LeaveOneOut(), "params": {"sample_weight": weights}}
    slow = cross_val_predict(Ridge(alpha=2.0), scaled_by_scikit_learn(scaling, rows), targets, **given)
    assert np.abs(quick - slow).max() < 1e-3


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(10, 60),
    width=st.integers(2, 90),
    scaling=st.sampled_from(["none", "standard", "l2"]),
    balanced=st.booleans(),
    penalty=st.sampled_from([0.5, 20.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_both_decompositions_give_the_same_predictions(count, width, scaling, balanced, penalty, seed):
    rows, labels = skewed(count=count, width=width, seed=seed)
    weights = numbered_classes(3).weights(labels) if balanced else np.ones(count, np.float32)
    other_rows, other_labels = skewed(count=15, width=width, seed=seed + 100)
    for given_rows, left_out in ((FeatureRows(rows, labels), weights), (FeatureRows(other_rows, other_labels), None)):
        by_products, by_rows = (
            decomposed(way, rows, labels, scaling, weights).predictions(given_rows, [penalty], left_out) for way in WAYS
        )
        assert np.abs(by_products - by_rows).max() < 2e-3


@pytest.mark.parametrize("folds", [None, 0, 3])
def test_the_smaller_matrix_is_decomposed(folds, monkeypatch):
    rows, labels = skewed(count=90, width=400)
    generator = np.random.default_rng(0)
    labels = np.where(generator.random(90) < 0.4, generator.integers(0, 3, 90), labels)
    groups = np.arange(90) // 2 if folds else None
    train, val = (
        FeatureRows(rows[part], labels[part], groups=None if groups is None else groups[part])
        for part in (slice(60), slice(60, None))
    )
    problem = fit_problem(train, val, classes=3, options=HeadConfig(c_values=(1e-3, 1e-2), cv=folds))
    sizes = []
    monkeypatch.setattr(
        ridge,
        "eigendecomposed",
        lambda matrix, *within, **where: sizes.append(len(matrix)) or eigendecomposed(matrix, *within, **where),
    )
    quick = fit_ridge(problem)
    assert max(sizes) <= 90
    by_products = ridge._FitsByProducts(train, val, RidgeTargets(problem.task), np.ones(90, np.float32))
    monkeypatch.setattr(ridge, "_fits", lambda *_: by_products)
    slow = fit_ridge(problem)
    assert max(sizes) == 400
    assert [candidate["score"] for candidate in quick.candidates] == pytest.approx(
        [candidate["score"] for candidate in slow.candidates], abs=1.2 / 90
    )
    assert len({candidate["score"] for candidate in quick.candidates}) > 2
    assert quick.settings["C"] == pytest.approx(slow.settings["C"])
    for name in ("head", "head_train_only"):
        actual, expected = (getattr(result, name)(torch.from_numpy(rows)).detach().numpy() for result in (quick, slow))
        assert np.abs(actual - expected).max() < 2e-3


def test_sums_of_parts_are_sums_of_the_whole():
    rows, labels = skewed(classes=3)
    ones = np.ones(len(rows), np.float32)
    center, targets = rows[:10].mean(axis=0), RidgeTargets(numbered_classes(3))
    whole, first, second = (
        GramSums.of(FeatureRows(rows[part], labels[part]), targets, ones[part], center, l2=False)
        for part in (slice(None), slice(200), slice(200, None))
    )
    for sums, expected_sums in ((first + second, whole), (whole - second, first)):
        assert np.allclose(sums.products, expected_sums.products, rtol=1e-4, atol=1e-2)
        for name in ("total", "squares", "by_class", "class_weight"):
            assert np.allclose(getattr(sums.sums, name), getattr(expected_sums.sums, name), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("folds", [None, 0, 4])
def test_the_penalty_that_scores_best_is_chosen(folds):
    train, val, test = digits()
    options = HeadConfig(cv=folds)
    if folds:
        train, val = (replace(split_rows, groups=np.arange(len(split_rows)) // 3) for split_rows in (train, val))
    result = fit_ridge(fit_problem(train, val, classes=10, options=options))
    assert result.settings["score"] == max(candidate["score"] for candidate in result.candidates)
    assert len(result.candidates) == 2 * 31
    descriptions = {
        None: "leave-one-out",
        0: "validation split",
        4: "4-fold cross-validation on train+val that keep groups",
    }
    assert result.settings["selected by"].startswith(descriptions[folds])
    right = (result.head(torch.from_numpy(test.features).float()).argmax(dim=1).numpy() == test.labels).mean()
    assert abs(right - result.settings["score"]) < 0.03


@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
def test_the_nearest_mean_is_that_of_scikit_learn(scaling):
    rows, labels = skewed()
    train, val = FeatureRows(rows[:400], labels[:400]), FeatureRows(rows[400:], labels[400:])
    result = fit_ncm(fit_problem(train, val, classes=3, options=HeadConfig(scalers=(scaling,))))
    scaled = scaled_by_scikit_learn(scaling, rows)
    expected = NearestCentroid().fit(scaled, labels).predict(scaled)
    assert (result.head(torch.from_numpy(rows)).argmax(dim=1).numpy() == expected).mean() > 0.998


@pytest.mark.parametrize("width", [12, 200])
@pytest.mark.parametrize("scaling", ["none", "standard"])
@pytest.mark.parametrize("kind", [labelled, numbered])
def test_each_target_is_fitted_to_the_rows_where_it_is_known_alone(kind, scaling, width):
    rows, targets = kind(width=width, unknown=0.3)
    targets[:, 1] = np.where(np.isnan(targets[:, 0]), np.nan, np.nan_to_num(targets[:, 1]))  # the first two share rows
    problem = problem_of(rows, targets, options=HeadConfig(c_values=(0.05,), scalers=(scaling,)))
    fitted = fit_ridge(problem)
    outputs = fitted.head(torch.from_numpy(rows)).detach().numpy() * fitted.settings.get("temperature", 1.0)
    assert ("temperature" in fitted.settings) == (kind is labelled)
    signed = 2 * targets - 1 if kind is labelled else targets
    for number, column in enumerate(signed.T):
        known = ~np.isnan(column)
        scaler = ModeratedScaler(with_mean=scaling == "standard", with_std=scaling == "standard").fit(rows[known])
        reference = Ridge(alpha=10.0).fit(scaler.transform(rows[known]).astype(np.float64), column[known])
        assert np.abs(outputs[:, number] - reference.predict(scaler.transform(rows))).max() < 1e-3


@pytest.mark.parametrize("width", [12, 200])
def test_leaving_one_out_skips_rows_that_are_not_known(width):
    rows, targets = numbered(count=60, width=width, unknown=0.2)
    problem = problem_of(rows, targets, options=HeadConfig(c_values=(0.05,), scalers=("none",)))
    predictions = RidgeFits(problem, problem.train, problem.val).left_out("none", [10.0], problem.cv)[0]
    for number, column in enumerate(targets.T):
        known = ~np.isnan(column)
        slow = cross_val_predict(Ridge(alpha=10.0), rows[known].astype(np.float64), column[known], cv=LeaveOneOut())
        assert np.abs(predictions[known, number] - slow).max() < 1e-3


def test_a_target_of_which_nothing_is_known_is_zero_and_hinders_no_other():
    rows, targets = numbered()
    targets[:, 1] = np.nan
    head = fit_ridge(problem_of(rows, targets)).head
    alone = fit_ridge(problem_of(rows, targets[:, :1])).head
    assert (head.output.weight[1] == 0).all()
    assert torch.equal(head.output.weight[0], alone.output.weight[0])
    assert alone.output.weight.shape == (1, rows.shape[1])  # one number is no binary model


def test_groups_of_numbers_are_left_out_whole():
    rows, targets = numbered(count=60)
    fitted = fit_ridge(problem_of(rows, targets, groups=np.arange(60) // 3))
    assert fitted.settings["selected by"] == "5-fold cross-validation on train+val that keep groups together"
    assert 0.5 < fitted.settings["score"] < 1


def test_of_rows_that_are_all_the_same_groups_are_said_the_mean_of_the_others():
    targets = numbered(count=30)[1]
    fitted = fit_ridge(problem_of(np.ones((30, 40), np.float32), targets, groups=np.arange(30) // 3))
    expected = torch.from_numpy(targets.mean(axis=0).astype(np.float32))
    torch.testing.assert_close(fitted.head(torch.ones(1, 40))[0], expected)


@pytest.mark.parametrize("task", ["classes", "numbers"])
def test_penalties_of_wide_rows_are_solved_for_one_by_one_up_to_the_best(task, monkeypatch):
    """Some of the penalties, each with the score that a decomposition gives it, and the same heads."""
    if task == "classes":
        rows, labels = skewed(count=300, width=40)
        generator = np.random.default_rng(0)
        labels = np.where(generator.random(300) < 0.4, generator.integers(0, 3, 300), labels)
        parts = [FeatureRows(rows[part], labels[part]) for part in (slice(200), slice(200, None))]
        problem = fit_problem(*parts, classes=3, options=HeadConfig(cv=0))
    else:
        problem = problem_of(*numbered(), options=HeadConfig(cv=0))
    every = fit_ridge(problem)
    monkeypatch.setattr(ridge, "DECOMPOSED_UP_TO", 1)
    monkeypatch.setattr(ridge, "eigendecomposed", None)
    some = fit_ridge(problem)
    assert 10 <= len(some.candidates) / len(problem.config.scalers) < len(every.candidates) / 2
    scores = {(candidate["scaler"], round(candidate["C"], 9)): candidate["score"] for candidate in every.candidates}
    for candidate in some.candidates:
        known = scores[candidate["scaler"], round(candidate["C"], 9)]
        assert candidate["score"] == pytest.approx(known, abs=0.011)  # a row of a hundred
    assert some.settings["score"] >= every.settings["score"] - 0.011
    others = torch.from_numpy(problem.val.features).float()
    if some.settings["C"] == pytest.approx(every.settings["C"]):
        assert torch.allclose(some.head(others), every.head(others), atol=1e-3)


def test_sums_that_rounding_made_indefinite_are_solved_by_what_is_positive_of_them():
    rows, labels = skewed(count=60, width=8)
    targets, ones = RidgeTargets(numbered_classes(3)), np.ones(60, np.float32)
    sums = GramSums.of(FeatureRows(rows, labels), targets, ones, np.zeros(8, np.float32), l2=False)
    values, vectors = eigendecomposed(sums.normal_equations("none")[0])
    spoilt = replace(sums, products=sums.products - 1.1 * values[0] * np.outer(vectors[:, 0], vectors[:, 0]))
    expected = spoilt.eigendecompose("none").coefficients(1e-6 * values[0])
    solved = spoilt.solve("none", 1e-6 * values[0]).coefficients(0.0)
    assert np.isfinite(solved).all()
    assert np.allclose(solved, expected, rtol=1e-6)


def test_a_decomposition_is_in_float32_only_where_its_rounding_does_no_harm():
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((80, 50))
    matrix = rows.T @ rows
    exact, (values, _) = np.linalg.eigvalsh(matrix), eigendecomposed(matrix)
    assert np.abs(values - exact).max() < 1e-10
    rough, rough_vectors = eigendecomposed(matrix, within=0.5)
    assert 1e-10 < np.abs(rough - exact).max() < 1e-3
    assert rough.dtype == rough_vectors.dtype == np.float64
    assert np.abs(rough_vectors.T @ matrix @ rough_vectors - np.diag(exact)).max() < 1e-2
    assert np.array_equal(eigendecomposed(matrix, within=1e-5)[0], values)
