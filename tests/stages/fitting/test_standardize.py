"""One standardizer: fitted block by block, applied, and taken up by a layer."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn

from stages.fitting import feature_rows, standardize
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.standardize import NEIGHBORS, Standardizer
from tests.stages.fitting.moderated_scaler import ModeratedScaler
from tests.stages.fitting.rows_of_digits import skewed


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_blocks_give_the_mean_and_deviation_of_scikit_learn(shift, dtype, monkeypatch):
    monkeypatch.setattr(feature_rows, "BLOCK_BYTES", 1 << 12)  # many blocks
    rows, labels = skewed()
    rows = (rows + shift).astype(dtype)
    rows[:, 3] = 0.1  # a feature that never changes keeps its scale
    mean, scale = Standardizer.fit(FeatureRows(rows, labels)).moments
    expected = ModeratedScaler().fit(rows.astype(np.float64))
    assert np.allclose(mean, expected.mean_, rtol=1e-6)
    assert np.allclose(scale, expected.scale_, rtol=1e-5)
    assert scale[3] == 1


def rarely_on(count, width=200):
    """Return rows of features after a ReLU, [count, width]; the seventh is on in one of 100 rows, all but off else."""
    generator = np.random.default_rng(0)
    rows = np.maximum(generator.normal(size=(count, width)), 0) * generator.uniform(0.5, 2, width)
    rows[:, 7] = 1e-4 * generator.random(count) + (np.arange(count) % 100 == 99)
    return rows.astype(np.float32)


def test_a_feature_that_few_rows_have_on_counts_no_more_than_its_layer_lets_it():
    """By its deviation among the rows that have it off alone it is 35,000 in the first that has it on."""
    rows = rarely_on(90)
    scaler = Standardizer.fit(FeatureRows(rows, np.zeros(90)))
    assert 1 / rows[:, 7].std() > 30000
    typical = np.median(rows.std(axis=0))
    assert 0.3 * typical < scaler.moments[1][7] < 0.5 * typical
    assert scaler.transform(torch.from_numpy(rarely_on(100)))[99, 7] < 10


def test_of_many_rows_deviations_are_their_own():
    rows = rarely_on(20_000)
    mean, scale = Standardizer.fit(FeatureRows(rows, np.zeros(len(rows)))).moments
    expected = StandardScaler().fit(rows.astype(np.float64))
    assert np.allclose(mean, expected.mean_, atol=1e-6)
    assert np.allclose(scale, expected.scale_, rtol=0.05)


def test_each_feature_is_held_against_those_beside_it():
    """Two networks' features, joined, of scales that are a million apart: neither squashes the other."""
    rows = np.concatenate([rarely_on(60), 1e-6 * rarely_on(60), 1e6 * rarely_on(60)], axis=1)
    scale = Standardizer.fit(FeatureRows(rows, np.zeros(60))).moments[1].numpy().reshape(3, -1)
    alone = Standardizer.fit(FeatureRows(rarely_on(60), np.zeros(60))).moments[1].numpy()
    inside = slice(NEIGHBORS, -NEIGHBORS)
    assert np.allclose(scale[:, inside] / [[1], [1e-6], [1e6]], alone[inside], rtol=1e-4)
    assert (scale / alone / [[1], [1e-6], [1e6]] < 2).all()  # at the seams, too


@pytest.mark.parametrize("width", [1, 2, 32])
def test_columns_of_a_table_have_deviations_of_their_own(width):
    rows = rarely_on(50, 40)[:, :width] * 10.0 ** (np.arange(width) % 9)
    scale = Standardizer.fit(FeatureRows(rows.astype(np.float32), np.zeros(50))).moments[1]
    assert np.allclose(scale, StandardScaler().fit(rows).scale_, rtol=1e-4)


def in_unlike_units(count, width=100):
    """Return columns of a table, float32 [count, width], whose deviations are 1e-3 to 1e4, in no order."""
    generator = np.random.default_rng(1)
    return (generator.normal(size=(count, width)) * 10 ** generator.uniform(-3, 4, width)).astype(np.float32)


def test_columns_in_unlike_units_have_deviations_of_their_own_however_many_they_are():
    rows = in_unlike_units(60)
    scale = Standardizer.fit(FeatureRows(rows, np.zeros(60))).moments[1]
    assert np.allclose(scale, rows.std(axis=0), rtol=1e-4)


def test_between_layer_and_table_neighbors_count_the_less_the_less_features_are_alike():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(50, 400))
    rows /= rows.std(axis=0)
    logarithms = generator.uniform(-0.5, 0.5, 400)
    pulled = []
    for apart in (7.8, 8.0, 8.3, 8.8):  # orders of magnitude, of all; half as many between the quartiles
        scaled = rows * 10 ** (apart / 2 * logarithms)
        scale = Standardizer.fit(FeatureRows(scaled.astype(np.float32), np.zeros(50))).moments[1].numpy()
        pulled.append(np.log10(scale / scaled.std(axis=0)).max())
    assert pulled == sorted(pulled, reverse=True)
    assert pulled[0] > 0.3
    assert 0.01 < pulled[2] < 0.9 * pulled[0]
    assert pulled[-1] < 1e-6


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
