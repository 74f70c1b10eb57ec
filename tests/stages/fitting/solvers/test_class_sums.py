"""Sums over rows that come block by block, against numpy's over all rows in float64."""

import numpy as np
import pytest

from stages.fitting.feature_rows import FeatureRows
from stages.fitting.solvers.class_sums import ClassSums, approximate_mean, iter_scaled
from tests.stages.fitting.rows_of_digits import skewed

WIDTH, CLASSES = 12, 3


@pytest.fixture
def rows():
    return FeatureRows(*skewed(count=300, width=WIDTH, classes=CLASSES))


def sums_of(rows, weights, *, l2=False):
    center = np.full(WIDTH, 0.5, dtype=np.float32)
    return ClassSums.of(rows, CLASSES, weights, center, l2=l2)


def reference(features, l2):
    exact = features.astype(np.float64)
    return exact / np.linalg.norm(exact, axis=1, keepdims=True) if l2 else exact - 0.5


@pytest.mark.parametrize("l2", [False, True])
def test_sums_are_those_of_weighted_rows(rows, l2):
    features, labels = skewed(count=300, width=WIDTH, classes=CLASSES)
    weights = np.random.default_rng(1).uniform(0.5, 2, 300).astype(np.float32)
    sums, exact = sums_of(rows, weights, l2=l2), reference(features, l2)
    weighted = exact * weights[:, None]
    assert np.allclose(sums.total, weighted.sum(axis=0), rtol=1e-5)
    assert np.allclose(sums.squares, (weighted * exact).sum(axis=0), rtol=1e-5)
    of_classes = np.stack([weighted[labels == number].sum(axis=0) for number in range(CLASSES)])
    assert np.allclose(sums.by_class, of_classes, rtol=1e-5, atol=1e-3)
    assert np.allclose(sums.class_weight, [weights[labels == number].sum() for number in range(CLASSES)])
    assert sums.weight == pytest.approx(weights.sum(), rel=1e-6)


def test_mean_and_deviation_are_those_of_the_rows(rows):
    features, _ = skewed(count=300, width=WIDTH, classes=CLASSES)
    mean, deviation = sums_of(rows, np.ones(300, dtype=np.float32)).standardization()
    assert np.allclose(mean, reference(features, False).mean(axis=0), atol=1e-5)
    assert np.allclose(deviation, features.std(axis=0), rtol=1e-4)


def test_a_fold_is_taken_off_and_put_back():
    features, labels = skewed(count=300, width=WIDTH, classes=CLASSES)
    one = np.ones(300, dtype=np.float32)
    whole, fold, rest = (
        sums_of(FeatureRows(features[part], labels[part]), one[part])
        for part in (slice(None), slice(0, 100), slice(100, None))
    )
    for sums in (whole - fold, rest):
        assert np.allclose(sums.by_class, rest.by_class, atol=1e-2)
        assert np.allclose(sums.squares, rest.squares, rtol=1e-4)
        assert np.allclose(sums.class_weight, rest.class_weight)
    assert np.allclose((fold + rest).total, whole.total, rtol=1e-5)
    assert (fold + ClassSums.empty(CLASSES, fold.center, l2=False)).weight == fold.weight


def test_rows_come_once_each_and_in_order(rows):
    features, _ = skewed(count=300, width=WIDTH, classes=CLASSES)
    parts = list(iter_scaled(rows, approximate_mean(rows), l2=False))
    assert np.concatenate([indices for indices, _ in parts]).tolist() == list(range(300))
    scaled = np.concatenate([block.numpy() for _, block in parts])
    assert np.allclose(scaled, features - features.mean(axis=0), atol=0.5)
