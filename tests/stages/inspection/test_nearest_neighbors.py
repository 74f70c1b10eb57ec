"""Neighbours in blocks against all cosines at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from stages.inspection.nearest_neighbors import UnitFeatures, find_neighbors, merge_groups, nearest_rows
from stages.inspection.outliers import distances_to_neighbor
from stages.inspection.unlike import UnlikeDetector

CPU = torch.device("cpu")


@pytest.mark.parametrize("block_rows", [7, 40, 1000])
def test_blocks_of_any_size_find_what_all_cosines_at_once_do(block_rows):
    features = np.maximum(np.random.default_rng(0).normal(1, 1, (90, 12)), 0).astype(np.float16)
    features[50] = features[3]
    features[81] = features[50]
    neighbors = find_neighbors(UnitFeatures(features, CPU, centered=True), 5, 0.999, block_rows)
    exact = features.astype(np.float64)
    cosines = cosine_similarity(exact - exact.mean(axis=0))
    np.fill_diagonal(cosines, -2)
    assert np.allclose(neighbors.distances, 1 - np.sort(cosines, axis=1)[:, ::-1][:, :5], atol=1e-5)
    assert np.allclose(np.take_along_axis(cosines, neighbors.indices, axis=1), 1 - neighbors.distances, atol=1e-5)
    assert neighbors.groups[3] == neighbors.groups[50] == neighbors.groups[81]
    assert len(np.unique(neighbors.groups)) == 88
    assert features.dtype == np.float16


def test_a_chain_is_one_group_across_blocks():
    """Points a degree apart on a circle: neighbours are alike, the ends of a row of them are not."""
    angles = np.radians(np.concatenate([np.arange(30), 90 + np.arange(30), 180 + np.arange(30), 270 + np.arange(30)]))
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    order = np.random.default_rng(0).permutation(120)
    neighbors = find_neighbors(
        UnitFeatures(features[order], CPU, centered=True), 3, float(np.cos(np.radians(1.5))), block_rows=13
    )
    quarter = order // 30
    assert len(np.unique(neighbors.groups)) == 4
    assert all(len(np.unique(neighbors.groups[quarter == number])) == 1 for number in range(4))


def test_fewer_samples_than_neighbors_have_all_others():
    neighbors = find_neighbors(UnitFeatures(np.eye(4, dtype=np.float32), CPU, centered=True), 10, 0.9)
    assert [sorted(row) for row in neighbors.indices.tolist()] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30), st.integers(1, 5))
def test_pairs_can_be_merged_at_once_or_one_after_the_other(pairs, steps):
    def merged(parts):
        groups = np.arange(20)
        for part in parts:
            groups = merge_groups(groups, np.array(part, dtype=np.int64).reshape(-1, 2))
        return groups[:, None] == groups

    assert np.array_equal(merged([pairs]), merged([pairs[number::steps] for number in range(steps)]))


@pytest.mark.parametrize("block_rows", [4, 1000])
def test_rows_nearest_to_others_are_found_in_blocks_of_any_size(block_rows):
    features = np.random.default_rng(1).normal(2, 1, (50, 9)).astype(np.float16)
    queries = np.random.default_rng(2).normal(2, 1, (6, 9)).astype(np.float16)
    indices, cosines = nearest_rows(queries, UnitFeatures(features, CPU, centered=True), 3, block_rows)
    mean = features.astype(np.float64).mean(axis=0)
    exact = cosine_similarity(queries - mean, features - mean)
    assert np.array_equal(indices, np.argsort(-exact, axis=1)[:, :3])
    assert np.allclose(cosines, -np.sort(-exact, axis=1)[:, :3], atol=1e-3)
    few, _ = nearest_rows(queries, UnitFeatures(features[:2], CPU, centered=True), 3)
    assert few.shape == (6, 2)


@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_features_stay_as_they_are_however_often_they_are_asked_for(storage):
    features = np.random.default_rng(0).normal(5, 1, size=(60, 8)).astype(storage)
    before = features.copy()
    directions = UnitFeatures(features, CPU, centered=True)
    first, again = directions.rows(slice(0, 60)), directions.rows(slice(0, 60))
    assert np.array_equal(features, before)
    assert np.array_equal(first.numpy(), again.numpy())
    # every pair of blocks asks for rows anew
    assert np.array_equal(
        find_neighbors(directions, 3, 0.98, block_rows=7).indices, find_neighbors(directions, 3, 0.98).indices
    )


def test_neighbors_have_the_same_bits_whatever_torch_is_set_to():
    features = np.random.default_rng(0).normal(0, 1, (400, 300)).astype(np.float32)

    def found() -> list[np.ndarray]:
        directions = UnitFeatures(features, CPU, centered=True)
        neighbors = find_neighbors(directions, 5, 0.999)
        outliers = distances_to_neighbor(directions, 0)
        unlike = UnlikeDetector.fit(features[:200], features[200:]).distances(features)
        return [neighbors.distances, nearest_rows(features, directions, 3)[1], outliers, unlike]

    plain = found()
    torch.set_float32_matmul_precision("medium")
    try:
        assert all(np.array_equal(*pair) for pair in zip(plain, found(), strict=True))
    finally:
        torch.set_float32_matmul_precision("highest")
