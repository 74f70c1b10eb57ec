"""What tells unlike images, of features in the cache and of a network that computes them anew."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import pipeline.experiment.prediction.unlike_images as unlike_images
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.prediction.unlike_images import detector_of_features, detector_of_network
from stages.config.finetune import FinetuneConfig
from stages.extraction.extract import extract
from stages.extraction.extractor import with_cut
from stages.finetuning.predict_images import iter_predictions, iter_sample_predictions, read_vectors
from stages.finetuning.transfer_model import build_transfer_model
from stages.network.aggregate import Aggregate
from stages.network.heads.aggregated import AggregatedHead


@pytest.fixture
def experiment(probe, tmp_path):
    return Experiment(probe.extractor, probe.manifest, 0, tmp_path)


def rounding(extractor):
    """How far views may be apart that are rendered alone and with others: on a GPU a gray level here and there."""
    return 1e-4 if extractor.device.type == "cpu" else 2e-2


def test_a_network_whose_blocks_are_as_they_were_has_the_detector_of_the_cached_features(experiment, probe):
    upper = build_transfer_model(probe.extractor, probe.head, FinetuneConfig(unfreeze="blocks.6"))
    of_cache, of_network = detector_of_features(experiment), detector_of_network(experiment, upper)
    assert torch.allclose(of_cache.references.float(), of_network.references.float(), atol=2e-3)
    assert of_network.level == pytest.approx(of_cache.level, rel=0.02)
    val = experiment.split("val")
    batches = list(iter_predictions(probe.extractor, upper, val.task, val.locations, "flip"))
    vectors = np.concatenate([batch.vectors for batch in batches])
    # the evaluation view
    assert np.allclose(vectors, read_vectors(probe.extractor, upper, val), atol=rounding(probe.extractor))


def test_no_more_references_are_kept_than_are_compared_with(experiment, monkeypatch):
    monkeypatch.setattr(unlike_images, "REFERENCES", 5)
    references = detector_of_features(experiment).references
    assert len(references) == 5
    assert torch.equal(references, detector_of_features(experiment).references)
    other = replace(experiment, seed=1)
    assert not torch.equal(references, detector_of_features(other).references)


def test_of_a_map_the_mean_over_its_places_counts(experiment, probe):
    maps = with_cut(probe.extractor, probe.extractor.graph.resolve("blocks.2"), "none")
    extract(maps, experiment.manifest)
    detector = detector_of_features(replace(experiment, extractor=maps))
    assert detector.references.shape[1] == maps.row_shape[0]


def test_of_samples_of_several_images_the_mean_of_theirs_counts(pairs, probe, tmp_path):
    head = AggregatedHead(Aggregate("mean", 2, probe.extractor.row_shape[0]), probe.head)
    upper = build_transfer_model(probe.extractor, head, FinetuneConfig(unfreeze="blocks.6"))
    detector = detector_of_features(Experiment(probe.extractor, pairs, 0, tmp_path))
    val = pairs.select(pairs.indices("val"))
    vectors = read_vectors(probe.extractor, upper, val)
    assert (detector.scores(vectors) <= 1 + 1e-4).all()
    images = [[None if image is None else image.location for image in views] for views in val.images]
    batches = list(iter_sample_predictions(probe.extractor, upper, val.task, images, "flip"))
    said = np.concatenate([batch.vectors for batch in batches if batch.indices])
    assert np.allclose(said, vectors, atol=rounding(probe.extractor))
