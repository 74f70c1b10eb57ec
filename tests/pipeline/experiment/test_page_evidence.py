"""What stands beside predictions is that of the network, the cache and the training images of the method itself."""

import shutil

import numpy as np
import pytest
import torch

from pipeline.evaluation.comparison import compare_runs
from pipeline.experiment.page_evidence import RunEvidence
from pipeline.experiment.run_setup import record_options
from pipeline.report.page import write_report
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import load_manifest
from stages.data.sources.open_image import read_image
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.extraction.read_features import read_features
from stages.network.heads.serialization import load_head
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


def test_heat_of_a_linear_head_behind_an_average_is_the_class_activation_map(trained_runs, comparison):
    """What the weights of a class make of each place of the last map, whose mean is the class's output."""
    _, experiment = trained_runs
    evidence = of_method(comparison, "ridge")
    keys, locations, predictions = asked(comparison, 12)
    classes = predictions.statistics["target"][:12].tolist()
    found = evidence.heat_maps(keys, locations, classes)
    head = load_head(evidence.chosen.directory / "head.safetensors")[0]
    graph, cut = experiment.extractor.graph, experiment.extractor.cut
    names = [each.name for each in graph.cuts]
    last = [each for each in graph.cuts[: names.index(cut.name)] if each.layout != "vector" and each.places > 1][-1]
    some = 0
    for heat, location, number in zip(found, locations, classes, strict=True):
        pixels = experiment.extractor.backbone.preprocessing.render(read_image(location))
        with torch.no_grad():
            maps = graph.section(None, last)(experiment.extractor.preprocess(pixels[None]))[0]
            # the head is affine: its output less that of nothing, place by place
            outputs = head(maps.flatten(1).T)[:, number] - head(torch.zeros(1, len(maps)))[0, number]
        activation = outputs.reshape(maps.shape[1:]).clamp(min=0)
        if activation.max() == 0:
            assert heat is None
            continue
        some += 1
        assert np.array_equal(heat.view, pixels.permute(1, 2, 0).numpy())
        assert np.allclose(heat.strengths, (activation / activation.max()).numpy(), atol=1e-3)
    assert some > 1


def test_heat_of_a_fine_tuned_network_is_of_what_was_tuned(trained_runs, comparison, tmp_path):
    evidence = of_method(comparison, "top-1")
    keys, locations, _ = asked(comparison)
    tuned = evidence.heat_maps(keys, locations, [0] * len(keys))
    assert sum(heat is not None for heat in tuned) > 1
    assert all(heat.strengths.min() >= 0 and heat.strengths.max() == 1 for heat in tuned if heat is not None)
    copy = tmp_path / "finetune"
    shutil.copytree(evidence.chosen.directory, copy)
    from safetensors.torch import load_file, save_file

    tensors = {
        name: value * 1.5 if "weight" in name else value for name, value in load_file(copy / "top.safetensors").items()
    }
    save_file(tensors, copy / "top.safetensors")
    evidence.chosen = type(evidence.chosen).load(copy)
    others = evidence.heat_maps(keys, locations, [0] * len(keys))
    pairs = [pair for pair in zip(tuned, others, strict=True) if None not in pair]
    assert len(pairs) > 1
    assert any(not np.allclose(heat.strengths, other.strengths, atol=1e-3) for heat, other in pairs)


@pytest.fixture(scope="module")
def on_maps(photographs, tmp_path_factory):
    """A run of a head on cached maps."""
    from pipeline.experiment.experiment import Experiment
    from pipeline.experiment.head_methods import run_heads

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
    from pipeline.experiment import page_evidence

    monkeypatch.setattr(page_evidence, "open_model", None)
    found = compare_runs([on_maps / "run"])
    evidence = RunEvidence(found)
    keys, locations, _ = asked(found)
    heat = evidence.heat_maps(keys, locations, [1] * len(keys))
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
        assert evidence.nearest(keys, 3) == [[]] * len(keys)
        assert evidence.feature_map(keys) is None
        gone = [location + ".gone" for location in locations]
        assert evidence.heat_maps(keys, gone, [0] * len(keys)) == [None] * len(keys)
        page = Page(write_report(tmp_path, found, {}, {}, [], evidence))
    finally:
        shutil.move(on_maps / "moved", on_maps / "cache")
    assert "The features in a plane" not in page.words
    assert "Why?" not in page.words or "nearest in training" not in page.words
