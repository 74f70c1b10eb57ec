"""Heads on odd rows say what scikit-learn's estimators say that are fitted to the same rows, probabilities included."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC, LinearSVC

from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import head_probabilities, train_foldable_head, train_head
from tests.stages.fitting.moderated_scaler import ModeratedScaler
from tests.stages.fitting.rows_of_digits import fit_problem, numbered_classes, skewed

C = 1e-2
CLASSES = 8
"""That the task has; none of the problems has images of all."""


def plain():
    return skewed(400, 30, 3)


def constant():
    rows, labels = plain()
    rows[:, 3], rows[:, 4] = 7.25, 1e8
    return rows, labels


def scales():
    """A number in units of 1e-8 and one in units of 1e8."""
    rows, labels = plain()
    rows[:, 0] *= 1e-8
    rows[:, 1] *= 1e8
    return rows, labels


def units():
    """So many columns of a table that they might be a layer, each in a unit of its own."""
    rows, labels = skewed(120, 60, 3)
    return (rows * 10 ** np.random.default_rng(1).uniform(-3, 4, 60)).astype(np.float32), labels


def tiny():
    rows, labels = plain()
    return rows * np.float32(1e-8), labels


def huge():
    rows, labels = plain()
    return rows * np.float32(1e8), labels


def duplicates():
    rows, labels = plain()
    rows[:, 5] = rows[:, 4]
    rows[100:300], labels[100:300] = rows[:200], labels[:200]
    return rows, labels


def rare():
    """One image of 200 is of the second class."""
    rows = np.random.default_rng(0).normal(size=(400, 30)).astype(np.float32)
    labels = np.zeros(400, np.int64)
    labels[[7, 207]] = 1
    rows[labels == 1] += 1
    return rows, labels


def single():
    """Four classes of one image each, which is in train."""
    rows, labels = plain()
    labels[:4] = 3 + np.arange(4)
    return rows, labels


def many_numbers():
    rows = np.random.default_rng(0).normal(size=(40, 300)).astype(np.float32)
    return rows, np.repeat([0, 1], 20)[np.random.default_rng(1).permutation(40)]


def one_number():
    rows = np.random.default_rng(0).normal(size=(90, 1)).astype(np.float32)
    return rows, np.random.default_rng(1).integers(3, size=90)


PROBLEMS = (plain, constant, scales, units, tiny, huge, duplicates, rare, single, many_numbers, one_number)

SCALED = [
    *((problem, "standard") for problem in PROBLEMS),
    # of the others one number is all there is of a distance: the rest is below its rounding
    *((problem, "none") for problem in PROBLEMS if problem not in (constant, scales)),
]


def called(value):
    """What a problem is called in the name of a test."""
    return getattr(value, "__name__", value)


def trained(name, rows, labels, *, scaler, balanced=False, **options):
    options = HeadConfig(
        c_values=(C,), scalers=(scaler,), class_weights="balanced" if balanced else "none", cv=0, **options
    )
    last = len(rows) - len(rows) // 4
    train, val = (FeatureRows(rows[part], labels[part]) for part in (slice(last), slice(last, None)))
    return train_head(name, fit_problem(train, val, classes=CLASSES, options=options))


def scores_of(estimator, rows, *, first=0.0):
    """Return scores of all classes, [n, CLASSES], of a fitted estimator; of two, those of the first are `first`."""
    scores = np.full((len(rows), CLASSES), -np.inf)
    decided = estimator.decision_function(rows)
    if decided.ndim == 1:
        decided = np.stack([first * decided, decided], axis=1)
    scores[:, estimator.classes_] = decided
    return scores


def linear(name, rows, labels, weights):
    if name == "logistic":
        return LogisticRegression(C=C, tol=1e-10, max_iter=20000).fit(rows, labels, sample_weight=weights)
    if name == "ridge":
        return RidgeClassifier(alpha=1 / (2 * C)).fit(rows, labels, sample_weight=weights)
    svm = LinearSVC(C=C, tol=1e-9, max_iter=200000, intercept_scaling=300, dual=False)
    return svm.fit(rows, labels, sample_weight=weights)


def scaled(rows, weights=None):
    return ModeratedScaler().fit_transform(rows.astype(np.float64), sample_weight=weights)


def probabilities(found, rows):
    return head_probabilities(found.module, rows, numbered_classes(CLASSES))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("name", ["logistic", "svm", "ridge"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=called)
def test_linear_heads_have_the_probabilities_of_scikit_learn(problem, name, balanced):
    rows, labels = problem()
    found = trained(name, rows, labels, scaler="standard", balanced=balanced)
    weights = numbered_classes(CLASSES).weights(labels) if balanced else None
    seen = scaled(rows, weights if name == "ridge" else None)  # whose rows weigh as much in mean and deviation
    scores = scores_of(linear(name, seen, labels, weights), seen, first=-1.0 if name == "ridge" else 0.0)
    expected = softmax(scores / found.settings.get("temperature", 1.0), axis=1)
    assert np.abs(probabilities(found, rows) - expected).max() < 3e-3


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("problem", "scaler"), SCALED, ids=called)
def test_kernel_machines_have_the_probabilities_of_scikit_learn(problem, scaler, balanced):
    rows, labels = problem()
    found = trained("rbf", rows, labels, scaler=scaler, balanced=balanced)
    seen = scaled(rows) if scaler == "standard" else rows - rows.mean(axis=0, dtype=np.float64)
    scores, present = np.full((len(rows), CLASSES), -np.inf), np.unique(labels)
    scores[:, present] = 0
    for number in present[1:] if len(present) == 2 else present:
        machine = SVC(C=1000 * C, gamma=1 / (seen.shape[1] * seen.var()), class_weight="balanced" if balanced else None)
        scores[:, number] = machine.fit(seen, labels == number).decision_function(seen)
    expected = softmax(scores / found.settings["temperature"], axis=1)
    assert np.abs(probabilities(found, rows) - expected).max() < 5e-3


@pytest.mark.parametrize("problem", [plain, tiny, huge, rare, single, many_numbers], ids=called)
def test_neighbors_have_the_votes_of_scikit_learn(problem):
    """Of the other problems many rows are as near to each other as rounding tells."""
    rows, labels = problem()
    found = trained("knn", rows, labels, scaler="none", n_neighbors=(5,))
    temperature = float(found.module.log_temperature.exp())
    neighbors = KNeighborsClassifier(
        5, metric="cosine", algorithm="brute", weights=lambda distances: np.exp((1 - distances) / temperature)
    ).fit(rows.astype(np.float64), labels)
    expected = np.zeros((len(rows), CLASSES))
    expected[:, neighbors.classes_] = neighbors.predict_proba(rows.astype(np.float64))
    assert np.abs(probabilities(found, rows) - expected).max() < 1e-3


@pytest.mark.parametrize(("problem", "scaler"), SCALED, ids=called)
def test_nearest_means_have_the_probabilities_of_distances_in_any_unit(problem, scaler):
    rows, labels = problem()
    found = trained("ncm", rows, labels, scaler=scaler)
    seen = scaled(rows) if scaler == "standard" else rows - rows.mean(axis=0, dtype=np.float64)
    distances = np.full((len(rows), CLASSES), np.inf)
    for number in np.unique(labels):
        distances[:, number] = ((seen - seen[labels == number].mean(axis=0)) ** 2).sum(axis=1) / 2
    said = probabilities(found, rows)
    assert np.abs(said - softmax(-distances / found.settings["temperature"], axis=1)).max() < 1e-3
    # one temperature does not flatten what the means tell
    assert found.val_loss < -np.log(np.bincount(labels, minlength=CLASSES).max() / len(labels)) + 0.8


@pytest.mark.parametrize("name", ["ncm", "rbf", "knn"])
def test_no_head_hangs_on_the_unit_of_the_features(name):
    rows, labels = plain()
    said = [
        probabilities(trained(name, rows * np.float32(unit), labels, scaler="none"), rows * np.float32(unit))
        for unit in (1, 2.0**-27, 2.0**27)
    ]
    assert np.abs(said[1] - said[0]).max() < 1e-5
    assert np.abs(said[2] - said[0]).max() < 1e-5


@pytest.mark.parametrize("name", ["svm", "rbf", "ridge", "ncm"])
def test_an_image_of_a_class_of_its_own_leaves_the_probabilities_out_of_folds_of_others_as_they_are(name):
    """In its fold nothing was fitted to its class; that says nothing of how sure margins of the others are."""
    rows, labels = plain()
    losses = []
    for kind in (labels, np.where(np.arange(len(labels)) == 11, 3, labels)):
        train, val = FeatureRows(rows[:300], kind[:300]), FeatureRows(rows[300:], kind[300:])
        options = HeadConfig(c_values=(C,), scalers=("standard",))
        problem = fit_problem(train, val, classes=CLASSES, options=options)
        said = softmax(train_foldable_head(name, problem)[1]().outputs[0].astype(np.float64), axis=1)
        others = np.arange(len(labels)) != 11
        losses.append(-np.log(said[others, labels[others]]).mean())
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
