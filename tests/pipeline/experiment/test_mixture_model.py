"""A saved mixture is opened as the networks that it takes, each of which runs once over the images."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from cache.errors import DataError
from pipeline.evaluation.results import Result
from pipeline.experiment.classify_images import predict_images
from pipeline.experiment.mixture_members import Member, save_members
from pipeline.experiment.mixture_model import open_networks
from pipeline.experiment.model_card import read_recipe
from pipeline.experiment.model_store import save_card


@pytest.fixture
def mixture(trained_runs, tmp_path):
    """Two heads on one network and a head on another, and what their mean says of the test images."""
    folder, first = trained_runs
    models = [first.directory / "linear-ridge", first.directory / "linear-ncm", folder / "run-32/seed-0/linear-ridge"]
    weights, model = [0.2, 0.3, 0.5], tmp_path / "run" / "seed-0" / "ensemble-mixed"
    members = [Member(path.name, weight, None, "lite0", None, 64) for path, weight in zip(models, weights, strict=True)]
    save_members(model, members, models)
    save_card(model, replace(read_recipe(models[0]), method="ensemble", name="mixed"))
    results = [Result.load(path) for path in models]
    parts = [result.predictions.statistics["probabilities"] for result in results]
    mean = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    return model, dict(zip(results[0].predictions.locations.tolist(), mean, strict=True))


def test_heads_on_the_same_features_share_a_pass_and_answers_are_the_weighted_mean(mixture, photographs, monkeypatch):
    model, said = mixture
    networks = open_networks(model, "cpu")
    assert [network.extractor.backbone.preprocessing.image_size for network in networks] == [64, 32]
    assert [network.share for network in networks] == pytest.approx([0.5, 0.5])
    passes = []
    extractor = type(networks[0].extractor)
    run_batches = extractor.run_batches
    monkeypatch.setattr(
        extractor, "run_batches", lambda self, *rest: passes.append(self.fingerprint) or run_batches(self, *rest)
    )
    predictions, _ = predict_images(model, [photographs], "cpu")
    assert passes == [network.extractor.fingerprint for network in networks]
    answered = {prediction.location: prediction.activated for prediction in predictions}
    for location, mean in said.items():
        np.testing.assert_allclose(answered[location], mean, atol=5e-3)


def test_an_image_that_cannot_be_read_is_told_once_and_the_others_keep_their_answers(mixture, tmp_path):
    model, said = mixture
    for number, location in enumerate(said):
        shutil.copyfile(location, tmp_path / f"{number}.jpg")
    (tmp_path / "1.jpg").write_bytes(b"no image")
    predictions, unreadable = predict_images(model, [tmp_path / f"{number}.jpg" for number in range(len(said))], "cpu")
    assert [location for location, _ in unreadable] == [str(tmp_path / "1.jpg")]
    kept = [mean for number, mean in enumerate(said.values()) if number != 1]
    np.testing.assert_allclose([prediction.activated for prediction in predictions], kept, atol=5e-3)
    (tmp_path / "0.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 2 images could be read"):
        predict_images(model, [tmp_path / "0.jpg", tmp_path / "1.jpg"], "cpu")


def test_a_damaged_mixture_says_so(mixture):
    model, _ = mixture
    (model / "members" / "1" / "model.json").unlink()
    with pytest.raises(DataError, match="is not complete; make this ensemble again"):
        open_networks(model, "cpu")
    (model / "members.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        open_networks(model, "cpu")
