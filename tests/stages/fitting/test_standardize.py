"""One standardizer: fitted block by block, applied, and taken up by a layer."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn

from stages.fitting import feature_rows, standardize
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.standardize import Standardizer
from tests.stages.fitting.rows_of_digits import skewed


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_blocks_give_the_mean_and_deviation_of_scikit_learn(shift, dtype, monkeypatch):
    monkeypatch.setattr(feature_rows, "BLOCK_BYTES", 1 << 12)  # many blocks
    rows, labels = skewed()
    rows = (rows + shift).astype(dtype)
    rows[:, 3] = 0.1  # a feature that never changes keeps its scale
    mean, scale = Standardizer.fit(FeatureRows(rows, labels)).moments
    expected = StandardScaler().fit(rows.astype(np.float64))
    assert np.allclose(mean, expected.mean_, rtol=1e-6)
    assert np.allclose(scale, np.where(expected.var_ < 1e-12, 1, expected.scale_), rtol=1e-5)
    assert scale[3] == 1


def test_a_layer_on_standardized_rows_answers_the_same_once_it_has_taken_the_scaling_up():
    rows, labels = skewed()
    standardizer, layer = Standardizer.fit(FeatureRows(rows, labels)), nn.Linear(rows.shape[1], 3)
    inputs = torch.from_numpy(rows)
    before = layer(standardizer.transform(inputs)).detach()
    assert torch.equal(inputs, torch.from_numpy(rows))
    standardizer.fold_into(layer)
    assert torch.allclose(layer(inputs), before, atol=1e-4)
    assert not torch.allclose(layer(standardizer.transform(inputs)), before, atol=1e-2)


def test_moments_are_brought_to_a_device_once(pretended_cuda, monkeypatch):
    copies = []
    monkeypatch.setattr(standardize, "uploaded", lambda values, device: copies.append(device) or values.to(device))
    rows = torch.arange(12.0).view(4, 3)
    standardizer = Standardizer()
    standardizer.partial_fit(rows)
    for _ in range(3):
        assert torch.equal(standardizer.transform(rows.cuda()).cpu(), standardizer.transform(rows))
    assert [device.type for device in copies] == ["cuda", "cuda", "cpu", "cpu"]
