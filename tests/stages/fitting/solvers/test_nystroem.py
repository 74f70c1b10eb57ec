"""Nystroem's method against the kernel itself, and as many landmarks as find room."""

import numpy as np
import pytest
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import rbf_kernel

from stages.fitting.solvers.nystroem import KernelScaler, NystroemMap, landmarks_within


def centered(count=60, width=5):
    rows = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    return rows - rows.mean(axis=0)


NO_CENTER = np.zeros(5, np.float32)


def test_where_all_rows_are_landmarks_products_are_the_kernel():
    rows = centered()
    scaler = KernelScaler.of_rows(NO_CENTER, "none", rows)
    mapped = NystroemMap(scaler, rows, seed=0, landmarks=1000)(rows)
    assert scaler.gamma == pytest.approx(1 / (5 * rows.var()))
    assert np.allclose(mapped @ mapped.T, rbf_kernel(rows, gamma=scaler.gamma), atol=1e-3)


def test_of_fewer_landmarks_products_are_those_of_scikit_learn():
    rows = centered()
    found = NystroemMap(KernelScaler.of_rows(NO_CENTER, "none", rows, ratio=0.5), rows, seed=3, landmarks=20)
    assert found.places.tolist() == sorted(set(found.places.tolist()))
    assert len(found.places) == 20
    theirs = Nystroem(gamma=found.scaler.gamma, n_components=20).fit(rows[found.places]).transform(rows)
    mapped = found(rows)
    assert mapped.shape == (60, 20)
    assert np.allclose(mapped @ mapped.T, theirs @ theirs.T, atol=1e-3)


@pytest.mark.parametrize("room", [1e3, 1e6, 1e9])
def test_so_many_landmarks_find_room_and_no_more(room):
    found = landmarks_within(int(room), 700, 96)
    assert 700 * found + 96 * found**2 <= room < 700 * (found + 1) + 96 * (found + 1) ** 2
