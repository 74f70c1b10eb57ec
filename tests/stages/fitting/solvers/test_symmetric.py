"""Symmetric matrices, decomposed and solved with."""

import numpy as np
import pytest
import torch

from stages.fitting.solvers.symmetric import eigendecomposed, solved_in_place


@pytest.fixture
def positive():
    random = np.random.default_rng(0)
    rows = random.standard_normal((80, 30))
    return rows.T @ rows + 0.1 * np.eye(30), random.standard_normal((30, 4))


def test_the_solution_solves_and_only_the_lower_triangle_is_read(positive):
    matrix, right = positive
    given = np.tril(matrix) + np.triu(np.full_like(matrix, 7.0), 1)
    np.testing.assert_allclose(solved_in_place(given, right.copy()), np.linalg.solve(matrix, right), rtol=1e-10)


def test_the_decomposition_stands_where_the_matrix_stood(positive):
    matrix, right = positive
    given = np.tril(matrix)
    solved_in_place(given, right)
    np.testing.assert_allclose(np.tril(given), np.linalg.cholesky(matrix), rtol=1e-10)


def test_what_is_not_positive_definite_has_no_solution(positive):
    matrix, right = positive
    assert solved_in_place(matrix - 200 * np.eye(30), right) is None


def test_eigenvectors_make_the_matrix(positive):
    matrix, _ = positive
    values, vectors = eigendecomposed(np.tril(matrix))
    np.testing.assert_allclose((vectors * values) @ vectors.T, matrix, rtol=1e-10)


def test_where_the_solver_of_a_gpu_does_not_converge_the_cpu_decomposes(positive, pretended_cuda, monkeypatch):
    matrix, _ = positive
    eigh, asked = torch.linalg.eigh, []

    def converges_on_the_cpu(given):
        asked.append(given.device.type)
        if given.is_cuda:
            raise torch.linalg.LinAlgError("linalg.eigh: The algorithm failed to converge (error code: 29).")
        return eigh(given)

    monkeypatch.setattr(torch.linalg, "eigh", converges_on_the_cpu)
    values, vectors = eigendecomposed(np.tril(matrix), device=torch.device("cuda:0"))
    np.testing.assert_allclose((vectors * values) @ vectors.T, matrix, rtol=1e-10)
    assert asked == ["cuda", "cpu"]
    with pytest.raises(torch.linalg.LinAlgError):
        eigendecomposed(np.full((3, 3), np.nan))
