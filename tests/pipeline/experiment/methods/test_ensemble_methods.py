"""An ensemble of the heads of a run is a method like any other, and is made anew where these change."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.predictions import read_arrays, write_arrays
from pipeline.evaluation.results import Result
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods import ensemble_methods
from pipeline.experiment.methods.outer_test import run_on_features
from pipeline.experiment.models.model_card import read_recipe
from stages.config.data import DataConfig
from stages.config.head_registry import head_label
from stages.config.heads import HeadConfig
from stages.network.heads.serialization import load_head

OPTIONS = HeadConfig(head=("ridge", "knn"), c_values=(1e-3, 1e-1), scalers=("standard",), cv=3)


@pytest.fixture
def experiment(probe, tmp_path):
    """Some labels are wrong, so that no head alone is as good as a mean, whoever decoded the photographs."""
    targets = probe.manifest.targets.copy()
    wrong = probe.manifest.indices("train")[::7]
    targets[wrong] = (targets[wrong] + 1) % 3
    manifest = replace(probe.manifest, targets=targets)
    return Experiment(probe.extractor, manifest, 0, tmp_path / "run" / "seed-0", data=DataConfig("x"))


def test_it_is_tested_ranked_and_saved_as_a_method(experiment, probe):
    *heads, ensemble = run_on_features(experiment, OPTIONS.head, OPTIONS)
    assert [result.name for result in heads] == ["ridge", "knn"]
    directory = experiment.directory / "ensemble-greedy"
    result = Result.load(directory)
    assert (ensemble.method, ensemble.name, result.settings["chosen from"]) == ("ensemble", "greedy", "kNN, ridge")
    shares = dict(part.split() for part in result.settings["members"].split(", "))
    assert sum(map(float, shares.values())) == pytest.approx(1, abs=0.011)
    # what it says is the mean of what the tests of its members say, and the saved module says the same
    parts = {head_label(head.name): Result.load(experiment.directory / f"{head.method}-{head.name}") for head in heads}
    mean = sum(float(share) * parts[name].predictions.statistics["probabilities"] for name, share in shares.items())
    said = result.predictions.statistics["probabilities"]
    np.testing.assert_allclose(said, mean, atol=0.02)
    module, _ = load_head(directory / "head")
    rows = torch.from_numpy(probe.features[probe.manifest.indices("test")])
    np.testing.assert_allclose(module(rows).softmax(dim=1).detach(), said, atol=1e-4)
    of_train = {
        part: load_head(experiment.directory / f"{head.method}-{head.name}" / "head-without-val")[0]
        for head, part in zip(heads, parts, strict=True)
    }
    rows = torch.from_numpy(probe.features[probe.manifest.indices("val")])
    validated = sum(float(share) * of_train[name](rows).softmax(dim=1).detach() for name, share in shares.items())
    said = result.validation_predictions.statistics["probabilities"]
    np.testing.assert_allclose(said, validated, atol=0.02)
    assert not (directory / "head-without-val.json").exists()  # nothing starts from it
    assert result.cv["mean"] == pytest.approx(result.metric.score(result.out_of_fold.statistics))
    first = parts["ridge"].out_of_fold
    assert all((getattr(result.out_of_fold, name) == getattr(first, name)).all() for name in ("keys", "fold", "repeat"))
    assert result.seconds_by_stage["train"] > sum(part.seconds_by_stage["train"] for part in parts.values())
    asked = sum(parts[name].seconds_by_stage["evaluate"] for name in shares)
    assert result.seconds_by_stage["evaluate"] == pytest.approx(asked)
    comparison = compare_runs([experiment.directory.parent])
    assert {row.label for row in comparison.rows} == {"ridge", "kNN", "greedy ensemble"}
    assert comparison.choice.cross_validated
    assert f"The greedy ensemble averages heads: {result.settings['members']}." in comparison.verdict_text
    assert read_recipe(directory).method == "ensemble"


def test_it_is_found_again_and_made_anew_of_other_heads_and_in_another_way(experiment, probe, monkeypatch, caplog):
    *_, first = run_on_features(experiment, OPTIONS.head, OPTIONS)
    with monkeypatch.context() as patched:
        patched.setattr(ensemble_methods, "select_greedily", None)
        *_, again = run_on_features(experiment, OPTIONS.head, OPTIONS)
    assert again.seconds == first.seconds
    *_, stacked = run_on_features(experiment, OPTIONS.head, replace(OPTIONS, ensemble="stack"))
    assert (stacked.name, stacked.settings["stacked by"]) == ("stack", "logistic")
    directory = experiment.directory / "ensemble-stack"
    stored, (module, _) = Result.load(directory), load_head(directory / "head")
    rows = torch.from_numpy(probe.features[probe.manifest.indices("test")])
    said = stored.predictions.statistics["probabilities"]
    np.testing.assert_allclose(module(rows).softmax(dim=1).detach(), said, atol=1e-3)
    of_greedy = Result.load(experiment.directory / "ensemble-greedy").out_of_fold
    assert (stored.out_of_fold.fold == of_greedy.fold).all()
    comparison = compare_runs([experiment.directory.parent])
    assert comparison.choice.cross_validated
    assert "The stack of heads is a linear model on what heads say: kNN, ridge." in comparison.verdict_text
    *_, other = run_on_features(experiment, ("ncm",), replace(OPTIONS, head=("ncm",)))
    assert other.settings["chosen from"] == "kNN, nearest mean, ridge"
    (experiment.directory / "head-knn" / "head.json").write_text("{")
    for number, name in enumerate(("ncm", "ridge")):  # each knows another half: neither is as good as their mean
        file = experiment.directory / f"linear-{name}" / "out-of-fold.npz"
        arrays = read_arrays(file)
        samples, classes = arrays["probabilities"].shape
        of_truth = np.where(np.arange(samples) % 2 == number, 0.35, 0.9)[:, None]
        true = np.eye(classes)[arrays["target"]]
        said = true * of_truth + (1 - true) * (1 - of_truth) / (classes - 1)
        write_arrays(file, {**arrays, "probabilities": said.astype(np.float32)})
    *_, without = run_on_features(experiment, ("ncm",), replace(OPTIONS, head=("ncm",)))
    assert without.settings["chosen from"] == "nearest mean, ridge"
    assert "head-knn is no member of the ensemble: The head" in caplog.text
    # heads in other folds were not asked about the same samples out of the same parts
    assert len(run_on_features(experiment, ("logistic",), replace(OPTIONS, head=("logistic",), cv=2))) == 1


def test_one_head_makes_none_and_it_is_said_where_one_was_asked_for(experiment, caplog):
    alone = replace(OPTIONS, head=("ridge",))
    with caplog.at_level("INFO", logger="cutonce"):
        assert len(run_on_features(experiment, alone.head, alone)) == 1
        assert "no ensemble" not in caplog.text
        assert len(run_on_features(experiment, alone.head, replace(alone, ensemble="greedy"))) == 1
    assert "no ensemble is made: it takes two heads or more" in caplog.text
    assert "only ridge has any" in caplog.text
    assert len(run_on_features(experiment, OPTIONS.head, replace(OPTIONS, ensemble="none"))) == 2


def test_there_is_none_where_one_head_alone_counts_and_one_of_before_is_taken_away(experiment, caplog):
    """It was called an ensemble, scored as one that other folds had weighed, and could be taken in place of that head."""
    *_, ensemble = run_on_features(experiment, OPTIONS.head, OPTIONS)
    assert ensemble.method == "ensemble"
    file = experiment.directory / "head-knn" / "out-of-fold.npz"
    arrays = read_arrays(file)
    sure = 0.001 + 0.998 * np.eye(arrays["probabilities"].shape[1], dtype=np.float32)[arrays["target"]]
    write_arrays(file, {**arrays, "probabilities": sure / sure.sum(axis=1, keepdims=True)})
    with caplog.at_level("INFO", logger="cutonce"):
        found = run_on_features(experiment, ("ncm",), replace(OPTIONS, head=("ncm",)))
    assert [result.name for result in found] == ["ncm"]
    assert "ensemble-greedy: none, as no mean of 3 heads is better out of folds than kNN alone" in caplog.text
    assert not (experiment.directory / "ensemble-greedy").exists()
    comparison = compare_runs([experiment.directory.parent])
    assert {row.label for row in comparison.rows} == {"ridge", "kNN", "nearest mean"}
