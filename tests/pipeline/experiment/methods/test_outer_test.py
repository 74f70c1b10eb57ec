"""Each sample tested once by a head that never saw it; what is kept is trained on all of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from pipeline.cli.app import main
from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.results import Result
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods import head_methods
from pipeline.experiment.methods.outer_test import run_on_features
from pipeline.run_layout import MANIFEST
from stages.config.data import DataConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import Manifest
from stages.fitting.fit_head import train_head
from stages.network.heads.serialization import load_head

OPTIONS = HeadConfig(head="ridge", c_values=(1e-3, 1e-1), scalers=("standard",))
SITES = ("Bern", "Graz", "Jena")


@pytest.fixture
def experiment(probe, tmp_path):
    """The photographs without a test split, each of a site."""
    count = len(probe.manifest)
    splits = ["val" if number % 5 == 0 else "train" for number in range(count)]
    manifest = replace(probe.manifest.with_splits(splits), groups=[SITES[number % 3] for number in range(count)])
    return Experiment(probe.extractor, manifest, 0, tmp_path / "run" / "seed-0", data=DataConfig("x", test="groups"))


def said_by(head_file, features):
    head, _ = load_head(head_file)
    return head(torch.from_numpy(features)).softmax(dim=1).detach().numpy()


@pytest.mark.parametrize("test", ["cv", "groups"])
def test_every_sample_is_predicted_once_by_the_head_of_its_fold_and_what_is_kept_has_seen_all(probe, experiment, test):
    experiment = replace(experiment, data=DataConfig("x", test=test))
    if test == "cv":
        experiment = replace(experiment, manifest=replace(experiment.manifest, groups=[]))
    (returned,) = run_on_features(experiment, OPTIONS.head, OPTIONS)
    result, count = Result.load(experiment.directory / "linear-ridge"), len(experiment.manifest)
    predictions = result.predictions
    assert predictions.keys.astype(str).tolist() == experiment.manifest.keys
    assert (returned.samples["test"], result.samples["train"] + result.samples["val"]) == (count, count)
    names = list(SITES) if test == "groups" else ["1", "2", "3", "4", "5"]
    assert list(result.test["folds"]) == names
    probabilities = predictions.statistics["probabilities"]
    for number, name in enumerate(names, 1):
        folder, rows = experiment.directory / f"fold-{number}", np.flatnonzero(predictions.folds == name)
        assert np.allclose(
            said_by(folder / "linear-ridge" / "head", probe.features[rows]), probabilities[rows], atol=1e-5
        )
        assert np.flatnonzero(np.array(Manifest.load(folder / MANIFEST).splits) == "test").tolist() == rows.tolist()
        right = (probabilities[rows].argmax(axis=1) == experiment.manifest.targets[rows]).mean()
        assert result.test["folds"][name] == {"samples": len(rows), "accuracy": pytest.approx(right)}
        if test == "groups":
            assert {experiment.manifest.groups[row] for row in rows} == {name}
    kept = said_by(experiment.directory / "linear-ridge" / "head", probe.features)
    data = head_methods.HeadProblems(replace(experiment, outer=lambda _: None), OPTIONS)
    expected = train_head("ridge", data.of("ridge").problem).module(torch.from_numpy(probe.features))
    assert np.allclose(kept, expected.softmax(dim=1).detach(), atol=1e-5)
    # what is as sure as can be says the same of other weights
    of_all, of_fold = (
        load_head(experiment.directory / folder / "linear-ridge" / "head")[0].output.weight for folder in ("", "fold-1")
    )
    assert not torch.allclose(of_all, of_fold, rtol=1e-2)
    row = compare_runs([experiment.directory.parent]).rows[0]
    assert (row.score, len(row.images)) == (result.test["accuracy"], count)


def test_what_is_there_is_not_trained_again_and_another_protocol_is_refused_by_name(experiment, monkeypatch):
    (first,) = run_on_features(experiment, OPTIONS.head, OPTIONS)
    with monkeypatch.context() as patched:
        patched.setattr(head_methods, "train_foldable_head", None)
        assert run_on_features(experiment, OPTIONS.head, OPTIONS)[0].seconds == first.seconds
    alike = replace(experiment, data=DataConfig("x", test="cv"), manifest=replace(experiment.manifest, groups=[]))
    with pytest.raises(
        UsageError, match="fold-1/linear-ridge was trained with `test` groups, and this command says cv"
    ):
        run_on_features(alike, OPTIONS.head, OPTIONS)


@pytest.mark.parametrize(("command", "instead"), [("run", "--skip-finetune"), ("finetune", "`train`")])
def test_fine_tuning_in_folds_is_refused_before_anything_is_read(command, instead, tmp_path, capsys):
    assert main([command, "--data", str(tmp_path / "nothing"), "--test", "cv", "--out", str(tmp_path / "run")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--test cv trains every method once for each fold" in said
    assert instead in said
    assert not (tmp_path / "run").exists()


def test_a_head_that_found_no_memory_in_a_fold_is_not_kept_either(experiment, monkeypatch):
    """By default memory is half of what is free, which changes."""
    last_fold = experiment.directory / "fold-3" / "linear-ridge"
    monkeypatch.setattr(head_methods, "allowed_memory", lambda _: 1e9 if last_fold.exists() else 1e4)
    options = replace(OPTIONS, head=())
    results = run_on_features(experiment, ("ridge", "ncm", "knn"), options)
    assert [result.name for result in results] == ["ridge", "ncm"]
    assert not (experiment.directory / "head-knn").exists()
