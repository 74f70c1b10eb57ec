"""Kernel ridge against scikit-learn's, with the kernel centered as an intercept does it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import KernelCenterer

from stages.config.heads import HeadConfig
from stages.fitting.heads import kernel_ridge
from stages.fitting.heads.kernel_ridge import fit_kernel_ridge
from tests.stages.fitting.labels_and_numbers import labelled, numbered, problem_of
from tests.stages.fitting.moderated_scaler import ModeratedScaler
from tests.stages.fitting.stored_rows import streamed


def reference(rows, targets, *, alpha, gamma):
    """Return scikit-learn's predictions for the very rows that it was fitted to."""
    kernel = rbf_kernel(rows, rows, gamma)
    centered = KernelCenterer().fit_transform(kernel)
    model = KernelRidge(alpha=alpha, kernel="precomputed").fit(centered, targets - targets.mean(axis=0))
    return model.predict(centered) + targets.mean(axis=0)


@pytest.mark.parametrize("kind", [labelled, numbered])
def test_it_is_the_one_of_scikit_learn(kind, monkeypatch):
    monkeypatch.setattr(kernel_ridge, "GAMMA_RATIOS", (0.5,))
    rows, targets = kind(count=80)
    problem = problem_of(rows, targets, options=HeadConfig(c_values=(1e-3,), scalers=("standard",)))
    fitted = fit_kernel_ridge(problem)
    assert fitted.settings["selected by"] == "leave-one-out on train+val"
    for head, size in ((fitted.head, 80), (fitted.head_train_only, 60)):
        outputs = head(torch.from_numpy(rows[:size])).detach().numpy() * fitted.settings.get("temperature", 1.0)
        scaled = ModeratedScaler().fit_transform(rows[:size].astype(np.float64))
        signed = 2 * targets[:size] - 1 if kind is labelled else targets[:size]
        expected = reference(scaled, signed, alpha=0.5, gamma=0.5 / rows.shape[1])
        assert np.abs(outputs - expected).max() < 2e-3


@pytest.mark.parametrize("folds", [None, 0])
def test_a_bend_is_learned_with_fewer_landmarks_than_rows_and_where_it_is_not_known(folds):
    generator = np.random.default_rng(0)
    rows = generator.uniform(-2, 2, size=(200, 2)).astype(np.float32)
    numbers = np.sin(2 * rows[:, :1]).astype(np.float64) + 0.05 * generator.normal(size=(200, 1))
    truth = numbers.copy()
    numbers[::5] = np.nan
    options = HeadConfig(c_values=(1e-3, 1e-2, 0.1), nystroem_components=40, cv=folds, scalers=("standard",))
    fitted = fit_kernel_ridge(problem_of(rows, numbers, options=options))
    outputs = fitted.head(torch.from_numpy(rows)).detach().numpy()
    assert len(fitted.head.support) == 40
    assert 1 - ((outputs - truth) ** 2).mean() / truth.var() > 0.95
    assert {candidate["gamma ratio"] for candidate in fitted.candidates} == set(kernel_ridge.GAMMA_RATIOS)
    assert fitted.settings["score"] == max(candidate["score"] for candidate in fitted.candidates) > 0.9


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_one_number_whose_kernel_is_singular_but_for_rounding_are_fitted(seed):
    rows = np.random.default_rng(seed).normal(size=(24, 1)).astype(np.float32)
    numbers = np.sin(rows).astype(np.float64)
    fitted = fit_kernel_ridge(problem_of(rows, numbers, options=HeadConfig(c_values=(1e-2, 1.0))))
    outputs = fitted.head(torch.from_numpy(rows)).detach().numpy()
    assert np.abs(outputs - numbers).max() < 0.02


def test_streamed_rows_are_compared_with_as_many_of_them_as_find_room(tmp_path, caplog):
    """12 bytes a number of a landmark and 144 a pair of them, in half of what rows may take."""
    generator = np.random.default_rng(0)
    rows = generator.uniform(-2, 2, size=(500, 2)).astype(np.float32)
    numbers = np.sin(2 * rows[:, :1]).astype(np.float64)
    options = HeadConfig(c_values=(1e-3, 1e-2, 0.1), scalers=("standard",))

    def fitted(memory):
        problem = problem_of(rows, numbers, options=options)
        parts = streamed(tmp_path / f"{memory}", (problem.train, problem.val), memory)
        return fit_kernel_ridge(replace(problem, train=parts[0], val=parts[1]))

    with caplog.at_level("INFO", logger="cutonce"):
        found = fitted(2 * (12 * 2 * 120 + 144 * 120**2))
    assert found.settings["landmarks"] == len(found.head.support) == 120
    assert "kernel_ridge: rows are compared with 120 of them, not 2,000" in caplog.text
    outputs = found.head(torch.from_numpy(rows)).detach().numpy()
    assert 1 - ((outputs - numbers) ** 2).mean() / numbers.var() > 0.99
    assert "landmarks" not in fitted(1 << 30).settings
    assert len(fitted(100).head.support) == 1  # no default head ends a command for want of memory
