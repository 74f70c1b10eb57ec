"""A saved mixture is opened as the networks that it takes, each of which runs once over the images."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import DataError
from pipeline.evaluation.results import Result
from pipeline.experiment.methods.mixture import _candidate, _prediction_seconds
from pipeline.experiment.models.mixture_members import Member, save_members
from pipeline.experiment.models.mixture_model import open_networks, together
from pipeline.experiment.models.model_card import read_recipe
from pipeline.experiment.models.model_store import save_card
from pipeline.experiment.prediction.classify_images import predict_images
from stages.finetuning.predict_images import iter_predictions, vectors_of


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
    networks = open_networks(model, "auto")
    assert [network.extractor.backbone.preprocessing.image_size for network in networks] == [64, 32]
    assert [network.share for network in networks] == pytest.approx([0.5, 0.5])
    passes = []
    extractor = type(networks[0].extractor)
    run_batches = extractor.run_batches
    monkeypatch.setattr(
        extractor, "run_batches", lambda self, *rest: passes.append(self.fingerprint) or run_batches(self, *rest)
    )
    predictions, _ = predict_images(model, [photographs], "auto")
    assert passes == [network.extractor.fingerprint for network in networks]
    answered = {prediction.location: prediction.activated for prediction in predictions}
    for location, mean in said.items():
        np.testing.assert_allclose(answered[location], mean, atol=5e-3)


def test_an_image_that_cannot_be_read_is_told_once_and_the_others_keep_their_answers(mixture, tmp_path):
    model, said = mixture
    for number, location in enumerate(said):
        shutil.copyfile(location, tmp_path / f"{number}.jpg")
    (tmp_path / "1.jpg").write_bytes(b"no image")
    predictions, unreadable = predict_images(model, [tmp_path / f"{number}.jpg" for number in range(len(said))], "auto")
    assert [location for location, _ in unreadable] == [str(tmp_path / "1.jpg")]
    kept = [mean for number, mean in enumerate(said.values()) if number != 1]
    np.testing.assert_allclose([prediction.activated for prediction in predictions], kept, atol=5e-3)
    (tmp_path / "0.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 2 images could be read"):
        predict_images(model, [tmp_path / "0.jpg", tmp_path / "1.jpg"], "auto")


def test_a_damaged_mixture_says_so(mixture):
    model, _ = mixture
    (model / "members" / "1" / "model.json").unlink()
    with pytest.raises(DataError, match="is not complete; make this ensemble again"):
        open_networks(model, "auto")
    (model / "members.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        open_networks(model, "auto")


def test_looks_of_one_network_share_its_trunk_and_the_pass_of_the_images_alone(
    on_images_alone, on_mirrored, photographs, tmp_path
):
    models = [run.directory / "linear-ridge" for run in (on_images_alone, on_mirrored)]
    models.append(on_images_alone.directory / "linear-ncm")
    model = tmp_path / "run" / "seed-0" / "ensemble-mixed"
    members = [
        Member(path.name, weight, None, "lite0", None, 64) for path, weight in zip(models, (0.2, 0.5, 0.3), strict=True)
    ]
    save_members(model, members, models)
    save_card(model, replace(read_recipe(models[0]), method="ensemble", name="mixed"))
    networks = open_networks(model, "auto")
    assert [network.extractor.options.mirror for network in networks] == [False, True]
    trunk = networks[0].extractor.trunk
    assert networks[1].extractor.trunk is trunk
    assert networks[1].extractor.fingerprint == on_mirrored.extractor.fingerprint
    (one,) = together(networks, on_mirrored.task)
    assert one.share == pytest.approx(1)
    passes = []
    trunk.register_forward_pre_hook(lambda module, images: passes.append(len(images[0])))
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    answered, rows = one.upper.activated(images, on_mirrored.task)
    assert passes == [2, 2]
    apart = [network.upper.activated(images, on_mirrored.task) for network in networks]
    mean = sum(network.share * said for network, (said, _) in zip(networks, apart, strict=True))
    torch.testing.assert_close(answered, mean, atol=1e-5, rtol=1e-4)
    # how unlike the training images one is, is told by what the first network makes of it
    as_vectors = vectors_of(one.extractor)
    own = as_vectors(rows[:, one.upper.own_columns])
    torch.testing.assert_close(own, as_vectors(apart[0][1]), atol=1e-5, rtol=1e-4)
    location = Result.load(models[0]).predictions.locations[0]
    both, alone = (
        next(iter_predictions(network.extractor, network.upper, on_mirrored.task, [location])).vectors
        for network in (one, networks[0])
    )
    np.testing.assert_allclose(both, alone, atol=1e-5, rtol=1e-4)
    # which is what is known without opening it, and what the time of a prediction is told by: two passes, not three
    assert read_recipe(models[0]).trunk == read_recipe(models[1]).trunk
    parts = [_candidate(path) for path in models]
    of_heads = [part.result.seconds_by_stage["evaluate"] / part.result.samples["test"] for part in parts]
    below = [part.result.prediction_seconds_per_image - head for part, head in zip(parts, of_heads, strict=True)]
    assert _prediction_seconds(parts) == pytest.approx(max(below) + sum(of_heads))
    predictions, _ = predict_images(model, [photographs], "auto", use_cache=False)
    said = {prediction.location: prediction.activated for prediction in predictions}
    results = [Result.load(path) for path in models]
    parts = [result.predictions.statistics["probabilities"] for result in results]
    expected = sum(weight * part for weight, part in zip((0.2, 0.5, 0.3), parts, strict=True))
    for location, probabilities in zip(results[0].predictions.locations.tolist(), expected, strict=True):
        np.testing.assert_allclose(said[location], probabilities, atol=5e-3)


def test_networks_that_differ_in_what_they_see_or_compute_stay_apart(mixture, on_mirrored):
    networks = open_networks(mixture[0], "auto")
    assert networks[0].extractor.trunk is not networks[1].extractor.trunk
    assert together(networks, on_mirrored.task) == networks
    assert networks[0].recipe.trunk != networks[1].recipe.trunk


def test_an_exported_mean_over_looks_holds_the_network_once(on_images_alone, on_mirrored, tmp_path):
    from pipeline.export.exported_module import ExportedModule
    from pipeline.library.export_model import open_trained

    models = [run.directory / "linear-ridge" for run in (on_images_alone, on_mirrored)]
    model = tmp_path / "run" / "seed-0" / "ensemble-mixed"
    save_members(model, [Member(path.name, 0.5, None, "lite0", None, 64) for path in models], models)
    save_card(model, replace(read_recipe(models[0]), method="ensemble", name="mixed"))
    both, alone = (ExportedModule(open_trained(path, "auto")) for path in (model, models[0]))
    tensors = [sum(tensor.numel() for tensor in module.state_dict().values()) for module in (both, alone)]
    assert tensors[0] < 1.05 * tensors[1]
