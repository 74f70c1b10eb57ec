"""How many neighbors are asked is chosen; what they are asked for is the task's."""

import numpy as np
import pytest
import torch

from stages.config.heads import HeadConfig
from stages.fitting.heads.fit_knn import fit_knn
from tests.stages.fitting.labels_and_numbers import labelled, numbered, problem_of


def directions(count=120, seed=0):
    """Return rows on a circle, float32 [n, 2], and their angles: neighbors by cosine are those of like angle."""
    angles = np.random.default_rng(seed).uniform(-2, 2, count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), angles


def test_the_number_of_neighbors_that_scores_best_is_chosen_as_far_as_there_are_rows():
    rows, angles = directions()
    noisy = (angles + np.random.default_rng(1).normal(size=len(angles)))[:, None] / 2
    fitted = fit_knn(problem_of(rows, noisy, options=HeadConfig(n_neighbors=(1, 10, 500))))
    scores = {candidate["k"]: candidate["score"] for candidate in fitted.candidates}
    assert sorted(scores) == [1, 10, 96]  # no more than a fold is fitted to
    assert scores[1] < scores[10] < scores[96]  # far ones weigh next to nothing
    assert fitted.head.k == fitted.settings["k"] == 96
    assert fitted.head_train_only.k == 90  # all there are in train


@pytest.mark.parametrize("kind", [labelled, numbered])
def test_each_head_looks_among_the_rows_it_was_fitted_to(kind):
    rows, targets = kind(count=60, unknown=0.1)
    fitted = fit_knn(problem_of(rows, targets, options=HeadConfig(n_neighbors=(1,))))
    known = ~np.isnan(targets)
    outputs = fitted.head(torch.from_numpy(rows)).detach().numpy()
    answers = outputs > 0 if kind is labelled else outputs
    assert np.allclose(answers[known], targets[known], atol=1e-5)  # its own row is the nearest
    assert len(fitted.head_train_only.labels) == 45
