"""Heads on some numbers of a row, and on coordinates of it: what they compute, and that they are saved whole."""

import numpy as np
import pytest
import torch

from stages.network.heads.depths import ColumnsHead, ProjectedHead
from stages.network.heads.linear import LinearHead
from stages.network.heads.serialization import load_head, save_head

ROWS = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32))
INNER = LinearHead.from_coefficients(np.random.default_rng(1).normal(size=(3, 6)), np.arange(3))
PROJECTION = np.random.default_rng(2).normal(size=(6, 12)).astype(np.float32)
HEADS = {
    "columns": (ColumnsHead(INNER, 12, [(0, 2), (7, 11)]), ROWS[:, [0, 1, 7, 8, 9, 10]]),
    "projected": (ProjectedHead.from_projection(INNER, PROJECTION), ROWS @ torch.from_numpy(PROJECTION).T),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_head_within_sees_what_it_was_fitted_to(name, tmp_path):
    head, seen = HEADS[name]
    assert torch.allclose(head(ROWS), INNER(seen))
    save_head(tmp_path / "head", head, {})
    loaded, _ = load_head(tmp_path / "head")
    assert torch.equal(loaded(ROWS), head(ROWS))
    assert loaded.config == head.config
