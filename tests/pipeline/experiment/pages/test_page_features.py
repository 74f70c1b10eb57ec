"""The features of a method are found by their fingerprint alone, and are what its head was given."""

from dataclasses import replace

import numpy as np
import pytest

from cache import FeatureCache
from pipeline.experiment.models.model_card import read_recipe
from pipeline.experiment.pages import page_features
from pipeline.experiment.pages.page_features import PageFeatures, find_features
from stages.extraction.read_features import read_features
from stages.inspection.feature_map import map_features


def found_of(experiment, **changes):
    card = replace(read_recipe(experiment.directory / "linear-ridge"), **changes)
    return find_features(card, experiment.directory / "manifest.csv")


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ("on_depths", "efficientnet_lite0 at {}, standardized"),
        ("on_mirrored", "efficientnet_lite0 at {}, with mirror images, standardized"),
    ],
)
def test_rows_of_depths_are_those_of_the_head_standardized_by_training_images(runs, words, request):
    experiment = request.getfixturevalue(runs)
    found = found_of(experiment)
    assert found.words == words.format(experiment.extractor.cut_names.replace(",", ", "))
    train, test = (experiment.manifest.select(experiment.manifest.indices(split)) for split in ("train", "test"))
    rows, asked = (read_features(experiment.extractor, part).astype(np.float64) for part in (train, test))
    deviation = rows.std(axis=0)
    expected = np.clip((asked - rows.mean(axis=0)) / np.where(deviation > 0, deviation, 1), -100, 100)
    np.testing.assert_allclose(found.vectors(test.keys).astype(np.float64), expected, atol=0.02, rtol=0.01)


def test_a_number_that_is_next_to_the_same_in_all_training_images_decides_nothing_in_others(on_depths, tmp_path):
    known = found_of(on_depths)
    manifest, width = known.manifest, known.stores[0].row_shape[0]
    rows = np.random.default_rng(0).normal(size=(len(manifest), width)).astype(np.float16)
    rows[:, 0] = 1e-6 * np.random.default_rng(1).random(len(manifest))
    rows[manifest.indices("test"), 0] = 9
    cache = FeatureCache(tmp_path, known.stores[0].spec)
    with cache.writer() as writer:
        writer.append(manifest.keys, rows)
    found = PageFeatures((cache, cache), manifest).vectors(manifest.select(manifest.indices("test")).keys)
    assert found.dtype == np.float16
    assert np.isfinite(found).all()
    assert np.abs(found[:, 0]).max() == 100
    assert map_features(found, "pca") is not None


def test_of_one_cut_they_are_as_they_were_cached(trained_runs):
    _, experiment = trained_runs
    found = found_of(experiment)
    keys = experiment.manifest.keys[:5]
    assert found.words == f"efficientnet_lite0 at {experiment.extractor.cut_names}"
    assert np.array_equal(
        found.vectors(keys), read_features(experiment.extractor, experiment.manifest.select(range(5)))
    )


def test_what_is_not_there_is_none_and_no_other_cache_is_taken_for_it(on_depths, on_mirrored, tmp_path):
    for experiment in (on_depths, on_mirrored):
        card = read_recipe(experiment.directory / "linear-ridge")
        assert found_of(experiment, features_fingerprint="0" * 32) is None
        assert found_of(experiment, weights_digest="of another network") is None
        assert found_of(experiment, features={**card.features, "cache": str(tmp_path / "gone")}) is None
        assert found_of(experiment, samples={"images": ["left", "right"]}) is None


def test_of_very_many_numbers_every_so_many_th_training_image_is_compared(on_depths, monkeypatch):
    found = found_of(on_depths)
    assert found.every == 1
    monkeypatch.setattr(page_features, "_MOST_NUMBERS", on_depths.extractor.row_numbers * (len(found.train) // 3))
    assert found_of(on_depths).every in (3, 4)
