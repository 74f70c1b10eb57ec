"""What stands beside predictions is that of the network, the cache and the training images of the method itself."""

import shutil

import numpy as np
import pytest

from pipeline.evaluation.comparison import compare_runs
from pipeline.experiment.pages.page_evidence import RunEvidence
from pipeline.experiment.setup.run_setup import record_options
from pipeline.report.page import write_report
from pipeline.run_layout import SAMPLE_IMAGES
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.extraction.read_features import read_features
from tests.pipeline.experiment.conftest import OPTIONS
from tests.pipeline.report.pages import Page


@pytest.fixture(scope="module")
def comparison(trained_runs):
    folder, _ = trained_runs
    return compare_runs([folder / "run-64"])


def of_method(comparison, name):
    """Evidence as if that method were the one to take."""
    evidence = RunEvidence(comparison)
    evidence.chosen = next(row.results[0] for row in comparison.rows if row.name == name)
    evidence._results = [evidence.chosen]
    return evidence


def asked(comparison, count=6):
    predictions = comparison.rows[0].results[0].predictions
    keys = [key.decode() for key in predictions.keys[:count]]
    return keys, [str(location) for location in predictions.locations[:count]], predictions


def test_neighbors_are_training_images_and_those_nearest_by_centered_cosine(trained_runs, comparison):
    _, experiment = trained_runs
    keys, _, _ = asked(comparison)
    found = RunEvidence(comparison).nearest(keys, 3)
    manifest = experiment.manifest
    train, test = (manifest.select(manifest.indices(split)) for split in ("train", "test"))
    rows, queries = (read_features(experiment.extractor, part).astype(np.float64) for part in (train, test))
    center = rows.mean(axis=0)
    unit, asked_unit = ((part - center) / np.linalg.norm(part - center, axis=1)[:, None] for part in (rows, queries))
    for key, near in zip(keys, found, strict=True):
        cosines = unit @ asked_unit[test.keys.index(key)]
        best = np.argsort(-cosines)[:3]
        assert [one.location for one in near] == [train.locations[index] for index in best]
        assert np.allclose([one.cosine for one in near], cosines[best], atol=1e-3)
        assert [one.target for one in near] == [train.target_texts[index] for index in best]


@pytest.fixture(scope="module")
def on_maps(photographs, tmp_path_factory):
    """A run of a head on cached maps."""
    from pipeline.experiment.experiment import Experiment
    from pipeline.experiment.methods.head_methods import run_heads

    folder = tmp_path_factory.mktemp("maps")
    features = FeatureConfig(image_size=64, cut="blocks.5", pool="none", cache=folder / "cache", extract_batch_size=16)
    extractor, data = build_extractor(features), DataConfig(str(photographs))
    manifest = load_manifest(data)
    extract(extractor, manifest)
    experiment = Experiment(extractor, manifest, 0, folder / "run" / "seed-0", data=data)
    run_heads(experiment, ["concat"], HeadConfig(fit_epochs=3, cv=0))
    manifest.save(experiment.directory / "manifest.csv")
    record_options(experiment.directory.parent, data, features, OPTIONS)
    return folder


def test_heat_of_a_head_on_cached_maps_needs_no_network(on_maps, monkeypatch):
    from pipeline.experiment.pages import heat_maps

    monkeypatch.setattr(heat_maps, "open_networks", None)
    found = compare_runs([on_maps / "run"])
    evidence = RunEvidence(found)
    keys, locations, _ = asked(found)
    heat = evidence.heat_maps(keys, locations, [1] * len(keys)).maps
    assert [one.strengths.shape for one in heat] == [(2, 2)] * len(keys)
    assert all(one.strengths.max() == 1 for one in heat)
    assert [len(near) for near in evidence.nearest(keys, 2)] == [2] * len(keys)
    assert evidence.feature_map(keys).points.shape == (len(keys), 2)


def test_a_page_without_its_cache_and_images_has_neither_empty_frames_nor_an_error(on_maps, tmp_path):
    shutil.move(on_maps / "cache", on_maps / "moved")
    try:
        found = compare_runs([on_maps / "run"])
        evidence = RunEvidence(found)
        keys, locations, _ = asked(found)
        assert evidence.features == ""
        assert evidence.features_note.endswith("the features are in no cache any more.")
        several = found.choice.chosen.results[0].directory.parent / SAMPLE_IMAGES
        several.touch()
        assert evidence.features_note.endswith("features are of one image, and a sample has several.")
        several.unlink()
        assert evidence.nearest(keys, 3) == [[]] * len(keys)
        assert evidence.feature_map(keys) is None
        gone = [location + ".gone" for location in locations]
        heat = evidence.heat_maps(keys, gone, [0] * len(keys))
        assert heat.maps == [None] * len(keys)
        assert heat.note == "There are no heat maps: none of the images can be read any more."
        page = Page(write_report(tmp_path, found, {}, {}, [], evidence))
    finally:
        shutil.move(on_maps / "moved", on_maps / "cache")
    assert "The features in a plane" not in page.words
    assert "Why?" not in page.words or "nearest in training" not in page.words
