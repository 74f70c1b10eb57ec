"""Points in a plane: PCA as scikit-learn's is defined, UMAP by its library, which is named where it is not there."""

import importlib.util

import numpy as np
import pytest

from cache.errors import UsageError
from stages.inspection.feature_map import map_features, require_feature_map

RANDOM = np.random.default_rng(0)
ROWS = (RANDOM.normal(size=(60, 12)) * np.linspace(5, 0.5, 12) + 3).astype(np.float16)


def test_the_points_are_the_two_directions_of_most_variance():
    found = map_features(ROWS, "pca")
    centered = ROWS.astype(np.float64) - ROWS.astype(np.float64).mean(axis=0)
    _, singular, directions = np.linalg.svd(centered, full_matrices=False)
    expected = centered @ directions[:2].T
    assert np.allclose(np.abs(found.points), np.abs(expected), atol=0.05)
    assert found.shares == pytest.approx(tuple((singular**2 / (singular**2).sum())[:2]), abs=1e-3)
    assert np.array_equal(map_features(ROWS, "pca").points, found.points)  # the same again


def test_of_what_says_nothing_there_is_no_map():
    assert map_features(ROWS[:2], "pca") is None
    assert map_features(np.ones((20, 5)), "pca") is None


def test_umap_that_is_not_there_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "umap" else find(name))
    with pytest.raises(UsageError, match=r"umap-learn: pip install 'umap-learn>=0\.5'"):
        require_feature_map("umap")
    with pytest.raises(UsageError, match="umap-learn"):
        map_features(ROWS, "umap")


@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="not run: umap-learn is not installed")
def test_umap_keeps_what_is_alike_together():
    apart = np.concatenate([RANDOM.normal(size=(25, 12)) + 9 * direction for direction in np.eye(12)[:2]])
    found = map_features(apart, "umap")
    assert found.shares is None
    first, second = found.points[:25], found.points[25:]
    between = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    assert between > 2 * max(np.linalg.norm(part - part.mean(axis=0), axis=1).mean() for part in (first, second))
