"""Heads on a tuned network are chosen by validation alone, and on samples that it has not trained on."""

from dataclasses import replace

import numpy as np
import pytest

from cache.errors import UsageError
from pipeline.evaluation.results import Result
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.head_methods import run_heads
from pipeline.experiment.methods.mixture import make_mixture
from pipeline.experiment.models.model_store import open_model
from pipeline.experiment.prediction.classify_images import predict_images
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.extraction.read_features import read_features
from stages.finetuning.predict_images import read_vectors
from tests.each_counts import let_each_count
from tests.pipeline.experiment.conftest import OPTIONS


@pytest.fixture(scope="module")
def on_tuned(trained_runs, tmp_path_factory):
    """An experiment on all depths of the network that was fine-tuned in a run."""
    _, first = trained_runs
    folder = tmp_path_factory.mktemp("on tuned")
    name = f"run:{first.directory / 'finetune-top-1'}"
    # in which what tuning changes is seen: it is hardly more than bfloat16 rounds
    extractor = build_extractor(FeatureConfig(backbone=name, taps="stages", cache=folder / "cache", precision="fp32"))
    extract(extractor, first.manifest)
    return Experiment(extractor, first.manifest, 0, folder / "run" / "seed-0")


def test_heads_are_chosen_by_validation_and_join_a_mixture_that_is_too(
    on_tuned, trained_runs, photographs, monkeypatch
):
    let_each_count(monkeypatch)
    _, first = trained_runs
    (result,) = run_heads(on_tuned, ["ridge"], replace(OPTIONS, cv=None))
    assert result.cv is None
    model = on_tuned.directory / "linear-ridge"
    assert Result.load(model).out_of_fold is None
    assert "fine-tuned in" in result.weights
    answered, _ = predict_images(model, [photographs], "auto")
    assert len(answered) == len(on_tuned.manifest)
    (again,) = run_heads(on_tuned, ["ridge"], replace(OPTIONS, cv=None))
    assert again.provenance == Result.load(model).provenance
    mixed = make_mixture(on_tuned, [model, first.directory / "linear-ridge"], OPTIONS)
    assert (mixed.method, mixed.cv) == ("mixture", None)


def test_its_features_are_what_the_tuned_network_gives_its_own_head(on_tuned, trained_runs):
    _, first = trained_runs
    _, extractor, upper = open_model(first.directory / "finetune-top-1", precision="fp32")
    few = first.manifest.select(first.manifest.indices("test"))
    of_its_own = read_vectors(extractor, upper, few)
    deepest = read_features(on_tuned.extractor, few)[:, -of_its_own.shape[1] :]
    np.testing.assert_allclose(deepest, of_its_own, rtol=0.02, atol=0.02)
    untuned = read_features(first.extractor, few)
    assert np.abs(untuned - of_its_own).max() > 0.05


def test_folds_and_samples_that_it_was_trained_on_are_refused(on_tuned, photographs):
    with pytest.raises(UsageError, match="folds of them say nothing of new ones"):
        run_heads(on_tuned, ["ridge"], OPTIONS)
    resplit = replace(on_tuned, manifest=load_manifest(DataConfig(str(photographs)), seed=1), seed=1)
    with pytest.raises(UsageError, match=r"was trained on \d+ of the \d+ test images of seed 1"):
        run_heads(resplit, ["ridge"], replace(OPTIONS, cv=None))
