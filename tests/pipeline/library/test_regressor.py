"""The regressor under scikit-learn's own rules, and beside scikit-learn's ridge."""

import numpy as np
import pytest
from sklearn.datasets import make_multilabel_classification, make_regression
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.utils.estimator_checks import check_estimator

from cache.errors import DataError
from pipeline.library.estimators import TransferClassifier
from pipeline.library.regressor import TransferRegressor


@pytest.fixture(scope="module")
def numbers():
    X, y = make_regression(600, 20, n_informative=10, noise=40, random_state=0)
    return X.astype(np.float32), y + 500


@pytest.mark.filterwarnings("ignore")
def test_the_regressor_keeps_the_rules_of_scikit_learn():
    check_estimator(TransferRegressor(c_values=(0.1, 1.0), scalers=("standard",), cv=2))


def test_it_is_as_good_as_a_ridge_of_scikit_learn(numbers):
    X, y = numbers
    ours = TransferRegressor(random_state=0).fit(X[:400], y[:400]).score(X[400:], y[400:])
    theirs = RidgeCV(np.logspace(-3, 3, 13)).fit(X[:400], y[:400]).score(X[400:], y[400:])
    assert ours == pytest.approx(theirs, abs=0.02)


@pytest.mark.parametrize("log_target", [False, True])
def test_intervals_hold_nine_in_ten(numbers, log_target):
    X, y = numbers
    y = np.exp((y - 500) / 400) if log_target else y
    regressor = TransferRegressor(log_target=log_target, random_state=0).fit(X[:400], y[:400])
    low, high = regressor.predict_interval(X[400:]).T
    assert 0.8 < ((low <= y[400:]) & (y[400:] <= high)).mean() < 0.98
    predicted = regressor.predict(X[400:])
    assert ((low < predicted) & (predicted < high)).all()


def test_several_numbers_have_a_column_each(numbers):
    X, y = numbers
    regressor = TransferRegressor(random_state=0).fit(X, np.stack([y, -2 * y], axis=1))
    assert regressor.predict(X[:5]).shape == (5, 2)
    assert regressor.predict_interval(X[:5]).shape == (5, 2, 2)
    np.testing.assert_allclose(regressor.predict(X)[:, 1], -2 * regressor.predict(X)[:, 0], rtol=1e-3)


def test_a_number_without_a_logarithm_is_refused(numbers):
    with pytest.raises(ValueError, match="no logarithm"):
        TransferRegressor(log_target=True).fit(numbers[0], numbers[1] - 500)


def test_zero_and_one_for_each_of_several_labels_are_predicted_as_one_against_the_rest_does(tmp_path):
    X, Y = make_multilabel_classification(400, 20, n_classes=4, random_state=0)
    X = X.astype(np.float32)
    ours = TransferClassifier("logistic", random_state=0).fit(X[:300], Y[:300])
    probabilities, predicted = ours.predict_proba(X[300:]), ours.predict(X[300:])
    assert probabilities.shape == predicted.shape == (100, 4)
    assert set(np.unique(predicted)) == {0, 1}
    theirs = OneVsRestClassifier(LogisticRegression(max_iter=1000)).fit(X[:300], Y[:300]).predict_proba(X[300:])
    of_ours, of_theirs = (average_precision_score(Y[300:], scores) for scores in (probabilities, theirs))
    assert of_ours > of_theirs - 0.02
    ours.save(tmp_path / "labels")
    np.testing.assert_array_equal(TransferClassifier.load(tmp_path / "labels").predict(X[300:]), predicted)


def test_a_saved_regressor_predicts_the_same_and_a_classifier_is_none(numbers, tmp_path):
    X, y = numbers
    fitted = TransferRegressor(log_target=True, random_state=0).fit(X, np.exp((y - 500) / 400))
    fitted.save(tmp_path / "head")
    loaded = TransferRegressor.load(tmp_path / "head")
    assert np.array_equal(loaded.predict(X), fitted.predict(X))
    assert np.array_equal(loaded.predict_interval(X), fitted.predict_interval(X))
    assert loaded.get_params() == fitted.get_params()
    TransferClassifier("ridge", random_state=0).fit(X, y > 500).save(tmp_path / "classes")
    with pytest.raises(ValueError, match="no regressor"):
        TransferRegressor.load(tmp_path / "classes")


def test_a_number_that_is_none_is_not_learned_from(numbers):
    X, y = numbers
    with pytest.raises(
        DataError, match=r"y does not know the number of 2 of \d+ samples, the first is sample 0: leave"
    ):
        TransferRegressor().fit(X, [None, None, *y[2:]])
