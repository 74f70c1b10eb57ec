"""The test images train and choose nothing: with other labels on them all is the same, to the bit, but what they score.

One table of photographs is searched, run and averaged twice, the second time with the labels of its test images passed
on to the next class. Whatever reads them on the way to a head, a network, a weight, an order or a choice shows.
"""

import json
import shutil

import numpy as np
import pytest

from pipeline.cli.app import main
from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.results import Result
from pipeline.evaluation.trials import read_search, read_trials
from pipeline.experiment.best import fine_tuning
from pipeline.experiment.best.fine_tuning import Evidence, FinetuneTrial
from stages.config.finetune import FinetuneConfig
from tests.each_counts import let_each_count
from tests.photographs import COLOURS

NEXT = dict(zip(COLOURS, [*list(COLOURS)[1:], next(iter(COLOURS))], strict=True))

QUICK = ("--image-size", "32", "--c-values", "1e-3", "1e-1", "--cv", "3", "--fit-epochs", "4", "--device", "cpu")
"""Gradients that a GPU computes differ by rounding."""
SEARCH = ("--head", "knn", "ridge", "mlp", "--depths", "last", "all", "--block-weight", "equal")
RUN = ("--head", "logistic", "svm", "mlp", "--unfreeze", "1", "--epochs", "3", "--wise-ft", "--model-ema-decay", "0.9")

TUNED = FinetuneConfig(unfreeze="1", epochs=2, init_head="ridge", num_workers=0, wise_ft=True)

OF_TIME = {"seconds", "seconds_by_stage", "cpu_seconds", "peak_memory_bytes", "prediction_seconds_per_image"}


def write_table(path, photographs, label_of):
    """Every fifth image of a class is a test image, every fifth one of validation; the former's labels are asked for."""
    rows = ["path,label,split"]
    for name in COLOURS:
        for number, image in enumerate(sorted((photographs / name).iterdir())):
            split = {0: "test", 1: "val"}.get(number % 5, "train")
            rows.append(f"{image},{label_of(name) if split == 'test' else name},{split}")
    path.write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def told(photographs, tmp_path_factory):
    """What is left of the same commands with the true labels of the test images, and with other ones."""
    root = tmp_path_factory.mktemp("told")
    weighed = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("stages.fitting.folds.REPEATED_BELOW", 0)
        let_each_count(patched)
        weigh = fine_tuning.weigh_evidence
        # it is fine-tuned whatever the curve says, which is kept beside
        patched.setattr(
            fine_tuning, "weigh_evidence", lambda search: weighed.append(weigh(search)) or Evidence(True, "to be tried")
        )
        patched.setattr(FinetuneTrial, "config", TUNED)
        for name, label_of in (("true", lambda label: label), ("other", NEXT.__getitem__)):
            folder = root / name
            folder.mkdir()
            write_table(folder / "photographs.csv", photographs, label_of)
            data = ["--data", str(folder / "photographs.csv"), "--cache", str(root / "cache"), *QUICK]
            assert main(["best", *data, *SEARCH, "--trials", "99", "--out", str(folder / "best")]) == 0
            assert main(["run", *data, *RUN, "--out", str(folder / "run")]) == 0
            assert main(["ensemble", str(folder / "run"), str(folder / "best")]) == 0
    return root / "true", root / "other", weighed


def methods(folder):
    return {path.parent for path in folder.glob("*/seed-0/*/model.json")}


def test_all_kinds_of_methods_are_there_and_the_labels_are_other_ones(told):
    true, other, _ = told
    found = {directory.relative_to(true).as_posix().replace("seed-0/", "") for directory in methods(true)}
    assert found == {directory.relative_to(other).as_posix().replace("seed-0/", "") for directory in methods(other)}
    for name in ("ensemble-greedy", "ensemble-mixed", "mixture-greedy", "finetune-top-1-wise-ft", "head-mlp"):
        assert f"best/{name}" in found
    assert {"run/ensemble-greedy", "run/mixture-greedy", "run/linear-logistic", "run/linear-svm"} <= found
    assert any(name.startswith("run/finetune-") for name in found)
    for directory in methods(true):
        scores = [Result.load(run / directory.relative_to(true)).test["accuracy"] for run in (true, other)]
        assert sum(scores) <= 1, "an image that is right by one label is wrong by the other"


def test_what_is_trained_has_the_same_bits(told):
    true, other, _ = told
    weights = sorted(path.relative_to(true) for path in true.rglob("*.safetensors"))
    assert len(weights) > 40
    assert weights == sorted(path.relative_to(other) for path in other.rglob("*.safetensors"))
    differing = [str(path) for path in weights if (true / path).read_bytes() != (other / path).read_bytes()]
    assert differing == []


def test_what_is_predicted_has_the_same_bits_of_every_split(told):
    true, other, _ = told
    for directory in sorted(methods(true)):
        ours, theirs = Result.load(directory), Result.load(other / directory.relative_to(true))
        for name in ("validation_predictions", "out_of_fold"):
            of_ours, of_theirs = getattr(ours, name), getattr(theirs, name)
            assert (of_ours is None) == (of_theirs is None)
            if of_ours is not None:
                assert np.array_equal(of_ours.statistics, of_theirs.statistics), (directory, name)
        tested = [result.predictions.statistics for result in (ours, theirs)]
        assert np.array_equal(tested[0]["probabilities"], tested[1]["probabilities"]), directory
        assert not np.array_equal(tested[0]["target"], tested[1]["target"])


def test_what_was_tried_and_what_came_of_it_is_the_same(told):
    true, other, weighed = told
    for directory in sorted(methods(true)):
        ours, theirs = Result.load(directory), Result.load(other / directory.relative_to(true))
        for name in ("settings", "selection", "val"):
            assert getattr(ours, name) == getattr(theirs, name), (directory, name)
        assert untimed(ours.cv) == untimed(theirs.cv)
        assert [untimed(epoch) for epoch in ours.history] == [untimed(epoch) for epoch in theirs.history]
        members = [(path / "members.json") for path in (directory, other / directory.relative_to(true))]
        if members[0].exists():
            weights = [[(part["path"], part["weight"]) for part in json.loads(path.read_text())] for path in members]
            assert weights[0] == weights[1]
    tried = [
        [
            (record.number, record.name, record.state, record.score, record.answer, untimed(record.details))
            for record in read_trials(folder / "best")
            if record.number
        ]
        for folder in (true, other)
    ]
    assert len(tried[0]) > 12
    assert tried[0] == tried[1]
    half = len(weighed) // 2
    assert half
    assert weighed[:half] == weighed[half:], "the learning curve that says whether to fine-tune"


def test_the_same_method_is_taken_and_all_are_ranked_the_same(told, tmp_path):
    true, other, _ = told
    chosen = [read_search(folder / "best").chosen["folder"] for folder in (true, other)]
    assert chosen[0] == chosen[1], "a search goes by no clock"
    shutil.copytree(other, tmp_path / "other")
    for directory in methods(true):  # elsewhere what a method takes may decide, and that was measured twice
        in_the_same_time(tmp_path / "other" / directory.relative_to(true), directory)
    for runs in (("best",), ("run",), ("run", "best")):
        ours, theirs = (compare_runs([folder / run for run in runs]).choice for folder in (true, tmp_path / "other"))
        assert ours.words == theirs.words
        assert (ours.chosen.label, ours.expected) == (theirs.chosen.label, theirs.expected)
        for rows in ("ranked", "tied"):
            assert [row.label for row in getattr(ours, rows)] == [row.label for row in getattr(theirs, rows)]
        assert [(contest.row.label, contest.difference, contest.won) for contest in ours.contests] == [
            (contest.row.label, contest.difference, contest.won) for contest in theirs.contests
        ]


def untimed(content):
    """What is not measured of an object of JSON."""
    return None if content is None else {k: v for k, v in content.items() if k not in {*OF_TIME, "extract"}}


def in_the_same_time(directory, as_in):
    """Have a result say that it took what another did."""
    result, other = (json.loads((path / "result.json").read_text()) for path in (directory, as_in))
    result |= {name: other[name] for name in {*OF_TIME, "marginal_seconds"} & other.keys()}
    (directory / "result.json").write_text(json.dumps(result))
