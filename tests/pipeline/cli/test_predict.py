"""Decisions beyond the most probable class, by a run as the first version left it and predictions for its validation."""

import csv
import shutil

import numpy as np
import pytest

from pipeline.cli.app import main
from pipeline.evaluation.results import Result
from pipeline.experiment.prediction.classify_images import decision_of
from tests.pipeline.experiment.prediction.test_classify_images import FIXTURE
from tests.pipeline.finished_runs import of_task


@pytest.fixture
def run(tmp_path, monkeypatch):
    shutil.copytree(FIXTURE / "run", tmp_path / "run")
    shutil.copytree(FIXTURE / "photos", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def predict(*options):
    code = main(["predict", "run", "photos", "--method", "linear-ridge", "--out", "predictions.csv", *options])
    with open("predictions.csv", newline="") as file:  # noqa: PTH123
        return code, list(csv.DictReader(file))


def test_possible_classes_have_a_column_by_the_flag_or_as_the_run_was_made_with(run):
    directory = run / "seed-0" / "linear-ridge"
    result = Result.load(directory)
    # so sure of what is wrong that two classes of three are possible of everything
    validation = of_task(result.task, np.tile(np.float32([0.02, 0.08, 0.9]), (20, 1)), np.tile([1, 2], 10))
    result.save(directory, result.predictions, validation=validation)
    code, rows = predict("--coverage", "0.9")
    assert code == 0
    least = np.float32(0.08)
    for row in rows:
        possible = [name for name in ("blue", "green", "red") if float(row[f"probability_{name}"]) >= least]
        assert set(row["possible"].split("|")) == {*possible, row["class"]}
    assert "possible" not in predict()[1][0]
    with (run / "config.toml").open("a") as file:
        file.write("coverage = 0.9\n")
    assert predict()[1] == rows
    assert decision_of(directory).temperature == 1
    temperature = decision_of(directory, calibrate=True).temperature
    assert temperature > 1.5
    calibrated = predict("--calibrate")[1]
    assert [row["class"] for row in calibrated] == [row["class"] for row in rows]
    sums = [np.sum([float(row[f"probability_{row['class']}"]) for row in table]) for table in (rows, calibrated)]
    assert sums[1] <= sums[0]


def test_what_cannot_be_decided_is_an_error_that_says_why(run, capsys):
    for options, words in (
        (["--coverage", "0.9"], "kept no predictions for validation images"),
        (["--calibrate"], "--calibrate needs them; train it again with --overwrite"),
        (["--coverage", "90"], "--coverage 90 must be between 0 and 1"),
        (["--threshold-for", "recall=0.9"], "tells two classes apart, and there are 3"),
        (["--threshold-for", "recall"], "must be recall=SHARE or cost=MISSED:FALSE_ALARM"),
    ):
        assert main(["predict", "run", "photos", "--method", "linear-ridge", *options]) in (1, 2)
        assert words in " ".join(capsys.readouterr().err.split())
