"""Images of noise among real ones, through the real network."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from stages.config.features import FeatureConfig
from stages.data.sources.open_image import read_image
from stages.extraction.extractor import build_extractor
from stages.inspection.nearest_neighbors import UnitFeatures
from stages.inspection.outliers import NEIGHBOUR, distances_to_neighbor, find_outliers

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def with_noise():
    """Cached features of 600 digits and, behind them, of 6 images of noise; labels."""
    extractor = build_extractor(FeatureConfig(image_size=64))
    render = extractor.backbone.preprocessing.render
    noise = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = torch.stack([*(render(read_image(f"digits:{number}")) for number in range(600)), *noise])
    features = torch.cat([extractor.features(part).half() for part in images.split(32)]).cpu().numpy()
    _, labels = load_digits(return_X_y=True)
    return features, np.concatenate([labels[:600], np.arange(6)])


def test_images_of_noise_come_first_and_lie_outside(with_noise):
    features, labels = with_noise
    reach = distances_to_neighbor(UnitFeatures(features, CPU, centered=False), seed=0)
    outliers = find_outliers(reach, labels)
    assert set(outliers.indices[:6]) == set(range(600, 606))
    assert 6 <= outliers.outside < 30
    assert (np.diff(outliers.scores) <= 0).all()
    assert find_outliers(reach[:600], labels[:600]).outside <= outliers.outside - 6 + 2


def test_distances_are_those_of_scikit_learn(with_noise):
    features, _ = with_noise
    reach = distances_to_neighbor(UnitFeatures(features, CPU, centered=False), seed=0)
    known = NearestNeighbors(n_neighbors=NEIGHBOUR + 1, metric="cosine").fit(features.astype(np.float64))
    assert np.allclose(reach, known.kneighbors()[0][:, NEIGHBOUR - 1], atol=1e-5)


def test_a_part_of_the_images_finds_the_same_outliers(with_noise):
    features, labels = with_noise
    reach = distances_to_neighbor(UnitFeatures(features, CPU, centered=False), seed=0, references=200)
    assert set(find_outliers(reach, labels).indices[:6]) == set(range(600, 606))


def test_a_varied_class_is_not_made_of_outliers():
    """The far one of a narrow class comes before all of a class that is everywhere ten times as wide."""
    generator = np.random.default_rng(0)
    reach = np.concatenate([generator.uniform(0.9, 1.1, 50), [3.0], generator.uniform(9, 11, 50)]).astype(np.float32)
    outliers = find_outliers(reach, np.repeat([0, 1], [51, 50]))
    assert outliers.indices[0] == 50
    assert outliers.outside == 1


def test_the_furthest_are_listed_where_none_lies_outside():
    reach = np.linspace(1, 1.5, 60).astype(np.float32)
    outliers = find_outliers(reach, np.zeros(60, np.int64))
    assert (outliers.outside, outliers.indices.tolist()) == (0, [59, 58, 57, 56, 55, 54])
