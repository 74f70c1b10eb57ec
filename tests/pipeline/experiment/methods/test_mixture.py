"""Members on other features, or fine-tuned, become one method that is tested, ranked and predicts as it was tested."""

import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest

from cache.errors import UsageError
from pipeline.cli.app import main
from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.predictions import read_arrays, write_arrays
from pipeline.evaluation.results import Result
from pipeline.experiment.methods import mixture
from pipeline.experiment.methods.head_methods import run_heads
from pipeline.experiment.methods.mixture import make_mixture, make_mixtures, methods_of, run_mixture
from pipeline.experiment.models.model_card import read_recipe
from pipeline.experiment.models.model_store import open_model
from pipeline.experiment.prediction.classify_images import predict_images
from pipeline.run_layout import VALIDATION
from stages.config.data import DataConfig
from stages.data.manifest import load_manifest
from stages.fitting.ensemble import Answers, average, select_greedily
from stages.tasks.dense import Dense
from tests.pipeline.experiment.conftest import OPTIONS


@pytest.fixture
def runs(trained_runs, tmp_path):
    """Copies that a test may write to."""
    folder, first = trained_runs
    for name in ("run-64", "run-32"):
        shutil.copytree(folder / name, tmp_path / name)
    return tmp_path, replace(first, directory=tmp_path / "run-64" / "seed-0")


def say(path, of_truth):
    """Let stored predictions say so much of the true class of each sample, and the rest of the others alike.

    Parameters
    ----------
    path : Path
    of_truth : float, or ndarray [samples]
    """
    arrays = read_arrays(path)
    samples, classes = arrays["probabilities"].shape
    share = np.broadcast_to(of_truth, samples)
    said = np.repeat((1 - share[:, None]) / (classes - 1), classes, axis=1).astype(np.float32)
    said[np.arange(samples), arrays["target"]] = share
    write_arrays(path, {**arrays, "probabilities": said})


def say_out_of_folds(directory, of_truth):
    """Let a method say so much of the true class of each sample that is left out."""
    say(directory / "out-of-fold.npz", of_truth)


def answers(result):
    return result.predictions.statistics["probabilities"]


def predicted(model, photographs, result):
    """What the folder of a method says of the test images."""
    classified, unreadable = predict_images(model, [photographs], "auto")
    assert not unreadable
    said = {prediction.location: prediction.activated for prediction in classified}
    return np.stack([said[location] for location in result.predictions.locations])


def test_heads_on_other_features_are_averaged_by_weights_from_the_same_folds(runs, photographs, tmp_path):
    folder, experiment = runs
    paths = [
        experiment.directory / "linear-ridge",
        experiment.directory / "linear-ncm",
        folder / "run-32" / "seed-0" / "linear-ridge",
    ]
    made = make_mixture(experiment, paths, OPTIONS)
    model = experiment.directory / "ensemble-mixed"
    result, parts = Result.load(model), [Result.load(path) for path in paths]
    members = json.loads((model / "members.json").read_text())
    weights = {member["path"]: member["weight"] for member in members}
    assert sum(weights.values()) == pytest.approx(1)
    assert set(weights) <= {"linear-ridge", "linear-ncm", "../run-32/seed-0/linear-ridge"}
    # weights and score are those of the selection out of folds
    first = parts[0].out_of_fold
    folded = [part.out_of_fold.statistics["probabilities"] for part in parts]
    task = experiment.task
    chosen, honest = select_greedily(task, Answers(folded, task.targets(first.statistics), first.fold, first.repeat))
    said = dict(zip(["linear-ridge", "linear-ncm", "../run-32/seed-0/linear-ridge"], chosen, strict=True))
    assert weights == pytest.approx({path: weight for path, weight in said.items() if weight})
    np.testing.assert_allclose(result.out_of_fold.statistics["probabilities"], honest, atol=1e-6)
    np.testing.assert_allclose(answers(result), average([answers(part) for part in parts], chosen), atol=1e-6)
    # a network that two heads stand on is run once, and counts once
    head_seconds = [part.seconds_by_stage["evaluate"] / part.samples["test"] for part in parts]
    networks = {}
    for name, part, head in zip(said, parts, head_seconds, strict=True):
        if name in weights:
            size = part.image_size
            networks[size] = max(networks.get(size, 0.0), part.prediction_seconds_per_image - head)
    of_heads = sum(head for name, head in zip(said, head_seconds, strict=True) if name in weights)
    assert made.prediction_seconds_per_image == pytest.approx(sum(networks.values()) + of_heads)
    assert made.cv["mean"] == pytest.approx(result.metric.score(result.out_of_fold.statistics))
    assert result.model_bytes > sum(Result.load(path).model_bytes for path in paths if path.name != "linear-ncm") * 0.9
    assert read_recipe(model).name == result.name == "mixed"  # which is what an exported file says of itself
    # the folder alone predicts what was tested
    moved = tmp_path / "alone" / "seed-0" / "ensemble-mixed"
    shutil.copytree(model, moved)
    shutil.rmtree(folder / "run-32")
    np.testing.assert_allclose(predicted(moved, photographs, result), answers(result), atol=5e-3)
    with pytest.raises(UsageError, match="mean over several networks"):
        open_model(moved)


def test_a_mean_that_one_method_alone_makes_is_none(runs, caplog, capsys):
    folder, experiment = runs
    paths = [experiment.directory / "linear-ridge", folder / "run-32" / "seed-0" / "linear-ridge"]
    for path in paths:
        say_out_of_folds(path, 0.6)
    assert make_mixture(experiment, [*paths, experiment.directory / "linear-ncm"], OPTIONS) is not None
    say_out_of_folds(paths[0], 0.99)
    with caplog.at_level("INFO", logger="cutonce"):
        assert make_mixture(experiment, paths, OPTIONS) is None
    assert "no mean of 2 methods is better out of folds than linear-ridge alone" in caplog.text
    assert not (experiment.directory / "ensemble-mixed").exists()
    assert main(["ensemble", str(folder / "run-64"), str(folder / "run-32"), "--members", "linear-ridge"]) == 0
    assert "ensemble-mixed: none, as no mean of 2 methods" in capsys.readouterr().out


def test_with_a_tuned_network_weights_are_chosen_on_validation_and_scored_on_the_other_parts_of_it(runs, photographs):
    folder, experiment = runs
    paths = methods_of([folder / "run-64", folder / "run-32"], 0)
    assert [path.name for path in paths] == ["finetune-top-1", "linear-ncm", "linear-ridge", "linear-ridge"]
    for number, path in enumerate(
        paths
    ):  # each knows another part of the validation split: none is as good as their mean
        samples = len(read_arrays(path / VALIDATION)["target"])
        say(path / VALIDATION, np.where(np.arange(samples) % len(paths) == number, 0.3, 0.6))
    make_mixture(experiment, paths, OPTIONS)
    model = experiment.directory / "mixture-greedy"
    result, parts = Result.load(model), [Result.load(path) for path in paths]
    assert result.out_of_fold is None
    assert result.cv is None
    assert result.settings["weights by"] == "loss on validation of what saw train alone"
    validated = [part.validation_predictions.statistics["probabilities"] for part in parts]
    own = result.validation_predictions.statistics["probabilities"]
    members = json.loads((model / "members.json").read_text())
    weights = {member["path"]: member["weight"] for member in members}
    names = ["finetune-top-1", "linear-ncm", "linear-ridge", "../run-32/seed-0/linear-ridge"]
    final = np.array([weights.get(name, 0.0) for name in names])
    np.testing.assert_allclose(answers(result), average([answers(part) for part in parts], final), atol=1e-6)
    assert not np.array_equal(own, average(validated, final))  # no sample is scored with weights that it chose
    np.testing.assert_allclose(predicted(model, photographs, result), answers(result), atol=5e-3)
    comparison = compare_runs([folder / "run-64"])
    (row,) = [row for row in comparison.rows if row.method == "mixture"]
    assert not row.is_head
    assert any(contest.row is row for contest in comparison.choice.contests)
    assert "The greedy mixture of networks averages what is said on" in comparison.verdict_text


def test_the_command_leaves_it_in_the_first_run_and_evaluate_takes_it(runs, photographs, capsys, tmp_path):
    folder, _ = runs
    first, second = folder / "run-64", folder / "run-32"
    assert main(["ensemble", str(first), str(second), "--members", "linear-ridge"]) == 0
    said = capsys.readouterr().out
    assert "ensemble-mixed" in said
    assert (first / "report.html").exists()
    assert main(["ensemble", str(first), str(second), "--members", "linear-ridge"]) == 0
    assert "already made" in capsys.readouterr().out
    (first / "seed-1").mkdir()  # of a command that was stopped before it had trained anything
    assert main(["ensemble", str(first), str(second), "--members", "linear-ridge"]) == 0
    capsys.readouterr()
    method = ["--method", "ensemble-mixed"]
    table = tmp_path / "predicted.csv"
    assert main(["predict", str(first), str(photographs), *method, "--out", str(table)]) == 0
    said = capsys.readouterr().out
    assert "a mean of 2 members on" in said
    assert "ms an image where it was trained" in said
    assert main(["evaluate", str(first), "--data", str(photographs), "--seen", "keep", *method]) == 0
    (evaluated,) = first.glob("evaluations/*/seed-0/ensemble-mixed")
    for runs_given in ([evaluated.parents[1]], [first, evaluated.parents[1]], [folder / "nowhere"]):
        assert main(["ensemble", *map(str, runs_given)]) == 2
    refused = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    of_run = f"error: {evaluated.parents[1]} is an evaluation of the run {first}: give that"
    nowhere = f"error: {folder / 'nowhere'} has no finished results: train methods into it first"
    assert refused == [of_run, of_run, nowhere]
    rows = {line.split(",")[0]: line.split(",")[2:5] for line in table.read_text().splitlines()[1:]}
    result = Result.load(evaluated)
    of_table = np.array([[float(cell) for cell in rows[location]] for location in result.predictions.locations])
    np.testing.assert_allclose(answers(result), of_table, atol=5e-3)


def test_what_makes_no_ensemble_is_an_error_that_says_what_differs(runs, photographs):
    folder, experiment = runs
    ridge = experiment.directory / "linear-ridge"
    with pytest.raises(UsageError, match=r"takes two trained methods or more, and there is .*linear-ridge alone"):
        make_mixture(experiment, [ridge, ridge], OPTIONS)
    with pytest.raises(
        UsageError,
        match=r"`members` linear-rigde: there is no such method\. .*'linear-ridge'.*There are finetune-top-1, linear-ncm",
    ):
        make_mixtures([folder / "run-64"], ["linear-rigde"])
    with pytest.raises(UsageError, match="has no trained method under seed 0"):
        make_mixtures([folder / "run-64", folder / "nowhere"])
    other = folder / "run-32" / "seed-0" / "linear-ridge"
    resplit = replace(experiment, manifest=load_manifest(DataConfig(str(photographs)), seed=1))
    with pytest.raises(UsageError, match=r"val splits are not the same \(\d+ samples are in one"):
        make_mixture(resplit, [ridge, other], OPTIONS)
    load_manifest(DataConfig(str(photographs)), seed=1).save(folder / "run-32" / "seed-0" / "manifest.csv")
    with pytest.raises(UsageError, match="the same images are in other splits"):
        make_mixtures([folder / "run-64", folder / "run-32"])
    tuned = experiment.directory / "finetune-top-1"
    for directory, of_truth in ((ridge, [0.9, 0.6]), (tuned, [0.6, 0.9])):
        say_of_validation(directory, of_truth)
    mixed = make_mixture(experiment, [ridge, tuned], OPTIONS)
    with pytest.raises(UsageError, match="is a mixture itself"):
        make_mixture(experiment, [ridge, experiment.directory / f"{mixed.method}-{mixed.name}"], OPTIONS)


def say_of_validation(directory, of_truth):
    """Let a method say so much of the true class of each validation sample, [n], and the rest of the others alike.

    Which member gets a weight hangs on it, and what a network says on the device that trained it.
    """
    arrays = read_arrays(directory / "validation.npz")
    samples, classes = arrays["probabilities"].shape
    said = np.repeat((1 - np.resize(of_truth, samples))[:, None] / (classes - 1), classes, axis=1)
    said[np.arange(samples), arrays["target"]] = np.resize(of_truth, samples)
    write_arrays(directory / "validation.npz", {**arrays, "probabilities": said.astype(np.float32)})


def test_a_run_makes_it_of_what_it_has_finds_it_and_takes_it_away_where_heads_alone_are_better(
    runs, monkeypatch, caplog
):
    _, experiment = runs
    assert run_mixture(experiment, replace(OPTIONS, ensemble="none")) == []
    for name, of_truth in (("finetune-top-1", [0.9, 0.6]), ("linear-ridge", [0.6, 0.9]), ("linear-ncm", [0.5])):
        say_of_validation(experiment.directory / name, of_truth)
    (made,) = run_mixture(experiment, OPTIONS)
    assert (made.method, made.name) == ("mixture", "greedy")
    assert made.settings["chosen from"] == "finetune-top-1, linear-ncm, linear-ridge"
    with monkeypatch.context() as patched:
        patched.setattr(mixture, "select_greedily", None)
        (found,) = run_mixture(experiment, OPTIONS)
    assert found.test == made.test
    run_heads(experiment, ["knn"], OPTIONS)
    say_of_validation(experiment.directory / "head-knn", [0.95])
    # beside another head the tuned network gets no weight, and a mean of heads is for the ensemble
    caplog.set_level(logging.INFO, "cutonce")
    assert run_mixture(experiment, OPTIONS) == []
    assert "no mean of heads with what is fine-tuned is better on validation than head-knn alone" in caplog.text
    assert not (experiment.directory / "mixture-greedy").exists()
    # what an earlier command left otherwise is told and passed over
    (experiment.directory / "head-knn" / "validation.npz").unlink()
    (again,) = run_mixture(experiment, OPTIONS)
    assert again.settings["chosen from"] == made.settings["chosen from"]
    assert "left out of the mean" in caplog.text
    assert "head-knn kept no predictions for validation" in caplog.text


def test_one_that_was_asked_for_stays_what_it_was_asked_to_be(runs, caplog):
    folder, experiment = runs
    both = [folder / "run-64", folder / "run-32"]
    here, there = "finetune-top-1, linear-ncm, linear-ridge", "../run-32/seed-0/linear-ridge"
    for path, of_truth in zip(methods_of(both, 0), ([0.9, 0.6], [0.5], [0.6], [0.6, 0.9]), strict=True):
        say_of_validation(path, of_truth)
    (made,) = make_mixtures(both)
    assert made.settings["chosen from"] == f"{here}, {there}"
    assert there in made.settings["members"]
    caplog.set_level(logging.INFO, "cutonce")
    (found,) = run_mixture(experiment, OPTIONS)
    assert "mixture-greedy: already made" in caplog.text
    assert found.test == made.test
    # what is new in the run may join, as all of its methods were asked for
    run_heads(experiment, ["knn"], OPTIONS)
    say_of_validation(experiment.directory / "head-knn", [0.5])
    (wider,) = run_mixture(experiment, OPTIONS)
    assert wider.settings["chosen from"] == f"{here}, {there}, head-knn"
    # of names that were given there is no other
    (named,) = make_mixtures(both, ["finetune-top-1", "linear-ridge"])
    (again,) = run_mixture(experiment, OPTIONS)
    assert again.settings == named.settings
    assert "ncm" not in again.settings["chosen from"]
    # a run that is gone takes nothing with it
    shutil.rmtree(folder / "run-32")
    (left,) = run_mixture(experiment, OPTIONS)
    assert left.settings == named.settings
    assert "mixture-greedy stays as the command ensemble made it" in caplog.text
    assert (experiment.directory / "mixture-greedy" / "members.json").exists()


def test_where_a_run_can_have_none_that_is_said_if_it_was_asked_for(runs, caplog):
    _, experiment = runs
    caplog.set_level(logging.INFO, "cutonce")
    asked = replace(OPTIONS, ensemble="greedy")
    masks = replace(experiment, manifest=replace(experiment.manifest, task=Dense(["a", "b", "c"])))
    assert run_mixture(masks, OPTIONS) == []
    assert "is made:" not in caplog.text
    assert run_mixture(masks, asked) == []
    assert "no mean of heads and fine-tuned networks is made: predictions of the task dense have no mean" in caplog.text
    for name in ("linear-ridge", "linear-ncm"):
        shutil.rmtree(experiment.directory / name)
    assert run_mixture(experiment, asked) == []
    assert "is made: it takes a fine-tuned network and a head that kept what they say" in caplog.text
    caplog.clear()
    shutil.rmtree(experiment.directory / "finetune-top-1")
    assert run_mixture(experiment, asked) == []  # heads alone are for the ensemble
    assert caplog.text == ""
