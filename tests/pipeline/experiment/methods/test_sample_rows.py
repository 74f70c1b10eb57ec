"""Samples of several images through the stages: cached once for each image, one row or one bag for each sample."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from pipeline.evaluation.results import Result
from pipeline.experiment.evaluate_run import head_rows
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.head_methods import HeadProblems, require_heads, run_heads
from pipeline.experiment.methods.sample_rows import require_memory
from stages.config.heads import HeadConfig
from stages.data.manifest import Manifest
from stages.extraction.read_features import places_of, read_bags
from stages.network.heads.serialization import load_head
from stages.tasks.regression import Regression


@pytest.fixture
def experiment(probe, pairs, tmp_path):
    return Experiment(probe.extractor, pairs, 0, tmp_path)


def test_stand_ins_are_fitted_on_the_training_samples_alone(probe, experiment):
    options = HeadConfig(head="ridge", aggregate="concat")
    problem, _, aggregate = HeadProblems(experiment, options).of("ridge")
    train = torch.from_numpy(read_bags(probe.extractor, experiment.split("train")))
    second = train[train[:, 1, -1] == 1][:, 1, :-1]
    assert torch.allclose(aggregate.fill[1], second.mean(dim=0), atol=1e-5)
    assert aggregate.indicators == [1]
    assert problem.train.row_shape == (2 * 1280 + 1,)


@pytest.mark.parametrize("kind", ["mean", "max", "concat"])
def test_heads_on_samples_are_tested_and_saved_so_that_they_take_images(probe, experiment, kind):
    options = HeadConfig(head="ridge", aggregate=kind, cv=0)
    (result,) = run_heads(experiment, ("ridge",), options)
    assert result.settings["aggregate"] == kind
    assert result.extraction_forwards == len(experiment.manifest.distinct_images.keys) == 63
    assert result.test["accuracy"] > 0.8
    predictions = Result.load(experiment.directory / "linear-ridge").predictions
    test = experiment.split("test")
    assert predictions.keys.astype(str).tolist() == test.keys
    head, _ = load_head(experiment.directory / "linear-ridge" / "head")
    bags = torch.from_numpy(read_bags(probe.extractor, test, places=2))
    assert np.allclose(head(bags).softmax(1).detach(), predictions.statistics["probabilities"], atol=1e-5)
    assert np.array_equal(head_rows(probe.extractor, test, head, None), bags)  # what an evaluation gives it
    assert run_heads(experiment, ("ridge",), options)[0].seconds == result.seconds  # not trained again


def test_bags_that_find_no_room_are_refused_before_anything_is_computed(probe, pairs):
    large = replace(pairs, images=[views * 500 for views in pairs.images])
    assert places_of(large) == 1000
    options = HeadConfig(head="ridge", aggregate="concat", max_memory_gb=0.1)
    with pytest.raises(UsageError, match=r"36 samples in memory, .* 1,000 images; such rows are not streamed: 176 MiB"):
        require_memory(probe.extractor, large, options.head, options)
    require_memory(probe.extractor, large, options.head, replace(options, aggregate="mean"))
    assert require_memory(probe.extractor, pairs, options.head, options) == []
    more = replace(options, aggregate="mean", max_memory_gb=0.2)
    (said,) = require_memory(probe.extractor, large, ["ridge", "mil"], more)  # where there is room it is said too
    assert "`head` mil keeps 36 samples of up to 1,000 images in memory: 176 MiB" in said


def test_named_heads_that_cannot_stream_larger_features_are_told_before_these_are_extracted(probe):
    one_image_each = probe.manifest
    size = len(one_image_each) * probe.extractor.row_shape[0] * 4
    options = HeadConfig(head=("knn", "ridge"), max_memory_gb=(size - 1) / 1e9)
    (said,) = require_memory(probe.extractor, one_image_each, options.head, options)
    assert "`head` knn will be refused, as it needs all of them in memory" in said
    roomy = replace(options, max_memory_gb=(size + 1) / 1e9)
    unnamed = replace(options, head=())
    streaming = replace(options, head=("ridge", "logistic", "mlp"))
    for others in (roomy, unnamed, streaming):
        assert require_memory(probe.extractor, one_image_each, others.heads_for("single_label"), others) == []


def test_heads_that_do_not_fit_task_or_rows_are_refused_before_anything_is_computed(probe, pairs):
    numbers = replace(probe.manifest, task=Regression())
    with pytest.raises(UsageError, match=r"`init_head` ncm is for the task single_label, not for regression; take"):
        require_heads(probe.extractor, numbers, ["ridge", "ncm"], option="init_head")
    with pytest.raises(UsageError, match=r"`head` gru takes samples of several images"):
        require_heads(probe.extractor, probe.manifest, ["gru"])
    require_heads(probe.extractor, pairs, ["gru", "ncm"])
    for option in ("class_weights", "sampling"):
        balanced = HeadConfig(**{option: "balanced"})
        with pytest.raises(UsageError, match=rf"`{option}` balanced .* the task regression has none"):
            require_heads(probe.extractor, numbers, ["ridge"], balanced)
        require_heads(probe.extractor, probe.manifest, ["mlp"], balanced)


def test_a_manifest_of_single_images_has_the_identity_that_it_always_had(probe, tmp_path):
    options = HeadConfig(head="ridge", cv=0)
    experiment = Experiment(probe.extractor, probe.manifest, 0, tmp_path)
    run_heads(experiment, ("ridge",), options)
    again = run_heads(experiment, ("ridge",), replace(options, aggregate="concat"))
    assert again[0].settings.get("aggregate") is None  # found, since nothing is aggregated


def test_the_images_of_a_run_are_in_a_table_beside_its_manifest(pairs, tmp_path):
    pairs.save(tmp_path / "manifest.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.csv", "manifest.images.csv", "manifest.json"]
    assert (tmp_path / "manifest.images.csv").read_text().splitlines()[0] == "sample,place,path,key"
    assert Manifest.load(tmp_path / "manifest.csv").images == pairs.images
