"""A trained run on other labelled samples: answers as on its own test split, and samples that it has seen are told."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.errors import DataError, UsageError
from pipeline.evaluation.results import Result, load_results
from pipeline.experiment.evaluate_run import EvaluationOptions, default_out, evaluate_run
from pipeline.experiment.models.model_store import open_model
from pipeline.experiment.prediction.classify_images import choose_model
from pipeline.experiment.prediction.unlike_images import cached_vectors
from pipeline.run_layout import UNLIKE
from stages.config.data import DataConfig
from stages.data.manifest import Manifest, load_manifest
from stages.extraction.extract import extract
from stages.inspection.unlike import UnlikeDetector
from tests.photographs import photograph

FIXTURE = Path(__file__).parent / "fixtures" / "version_1"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished run, its photographs, and others of the same classes."""
    folder = tmp_path_factory.mktemp("evaluated")
    for name in ("run", "photos", "cache"):
        shutil.copytree(FIXTURE / name, folder / name)
    colors = {"blue": (40, 80, 190), "green": (60, 160, 60), "red": (210, 70, 30)}
    for number, (name, color) in enumerate(colors.items()):
        (folder / "next year" / name).mkdir(parents=True)
        for index in range(4):
            image = photograph(color, 5000 + 100 * number + index)
            image.save(folder / "next year" / name / f"{index}.jpg", quality=90)
    (folder / "next year" / "red" / "broken.jpg").write_text("no image")
    return folder


def evaluated(place, data, out=None, given=None, run=None, **options):
    run = run or place / "run"
    chosen = EvaluationOptions(cache=place / "cache", **options)
    return evaluate_run(run, str(data), given or {}, chosen, out or default_out(run, str(data), None))


def files_of(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "evaluations" not in path.parts}


def test_an_evaluation_leaves_results_and_a_page_and_the_run_as_it_was(place):
    before = files_of(place / "run")
    evaluation = evaluated(place, place / "next year")
    out = place / "run" / "evaluations" / "next-year"
    assert files_of(place / "run") == before
    results = load_results([out])
    assert {result.directory.name for result in results} == {"frozen-head", "linear-logistic", "linear-ridge"}
    own = Result.load(place / "run" / "seed-0" / "linear-ridge")
    for result in results:
        assert len(result.predictions) == result.samples["test"] == 12
        assert result.settings["evaluated on"] == str(place / "next year")
        assert set(result.test) >= set(own.test) - {"confusion"}
    content = json.loads((out / "evaluation.json").read_text())
    assert content["samples"] == 12
    assert [row["folder"] for row in content["against_own_test"]] == [row.folder for row in evaluation.against_own]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "which the run says to take, reaches accuracy" in page
    assert "broken.jpg" in page
    with (out / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 36
    # it is no run: nothing is chosen by it, and it does not change what is
    with pytest.raises(UsageError, match=f"{out} is an evaluation of the run {place / 'run'}: give that"):
        choose_model(out, None, None)
    evaluated(place, place / "next year", method="linear-ridge")  # replaces what was there
    assert [result.directory.name for result in load_results([out])] == ["linear-ridge"]


@pytest.mark.parametrize("folder", ["linear-logistic", "linear-ridge"])
def test_the_page_takes_what_the_run_takes_and_its_commands_are_about_the_run(place, tmp_path, folder):
    run = tmp_path / "run"
    shutil.copytree(place / "run", run, ignore=shutil.ignore_patterns("evaluations"))
    results = json.loads((run / "results.json").read_text()) if (run / "results.json").exists() else {"results": []}
    results["chosen"] = {"run": ".", "folder": folder}
    (run / "results.json").write_text(json.dumps(results))
    comparison = evaluated(place, place / "next year", run=run).comparison
    assert comparison.choice.chosen is comparison.verdict.chosen is comparison.reference
    assert comparison.reference.results[0].directory.name == folder
    assert {test.method for test in comparison.tests} == {
        row.label for row in comparison.rows if row is not comparison.reference
    }
    out = run / "evaluations" / "next-year"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert re.search(r'<h2 id="verdict">.* reaches .* on the new data', page)
    assert f"cutonce predict {run} new/ --method {folder} " in page
    assert "cutonce inspect" not in page
    marked = [line for line in (out / "report.md").read_text().splitlines() if " (to take) " in line]
    assert [line.split(" (to take)")[0] for line in marked] == [f"| {comparison.reference.label}"]


def test_images_that_trained_the_run_are_refused_by_count_and_name_and_the_others_are_not(place, tmp_path):
    manifest = Manifest.load(place / "run" / "seed-0" / "manifest.csv")
    sizes = {split: len(manifest.indices(split)) for split in ("train", "val", "test")}
    said = (
        rf"24 of 24 samples are samples of .*run: {sizes['train']} in its train split, {sizes['val']} in its val split, "
        rf"{sizes['test']} in its test split \(.*0.png is photos/.*; .*say `seen` leave-out"
    )
    with pytest.raises(DataError, match=said):
        evaluated(place, place / "photos", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="nothing is left to evaluate on"):
        evaluated(place, place / "photos", tmp_path / "out", seen="leave-out")
    shutil.copytree(place / "next year", tmp_path / "mixed")
    shutil.copy(place / "photos" / "red" / "0.png", tmp_path / "mixed" / "red" / "renamed.png")
    left = evaluated(place, tmp_path / "mixed", tmp_path / "left", seen="leave-out", method="linear-ridge")
    assert len(left.comparison.results[0].predictions) == 12
    assert left.against_own[0].difference is not None
    kept = evaluated(place, tmp_path / "mixed", tmp_path / "kept", seen="keep", method="linear-ridge")
    assert len(kept.comparison.results[0].predictions) == 13
    assert kept.against_own[0].difference is None
    assert "not independent of the run: 1 of them are" in kept.comparison.verdict_text


def test_its_own_test_images_are_answered_as_in_its_test(place, tmp_path):
    evaluated(place, place / "photos", tmp_path / "out", seen="keep")
    for result in load_results([tmp_path / "out"]):
        tested = Result.load(place / "run" / "seed-0" / result.directory.name).predictions
        row_of = {key: row for row, key in enumerate(result.predictions.keys.tolist())}
        rows = [row_of[key] for key in tested.keys.tolist()]
        again = result.predictions.statistics[rows]
        assert np.allclose(again["probabilities"], tested.statistics["probabilities"], atol=2e-3)
        assert (again["target"] == tested.statistics["target"]).all()


def test_samples_unlike_the_training_images_are_counted_by_the_method_to_take(place, tmp_path):
    assert evaluated(place, place / "next year", tmp_path / "before").unlike is None  # it kept nothing to compare with
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(place / "run", run)
    model = choose_model(run, None, None).directory
    _, extractor, _ = open_model(model, "auto", cache=place / "cache")
    extract(extractor, load_manifest(DataConfig(str(place / "photos"))))
    samples = Manifest.load(run / "seed-0" / "manifest.csv")
    vectors = cached_vectors(extractor, samples.select(samples.indices("train")))
    UnlikeDetector.fit(vectors, vectors).save(model / UNLIKE)
    shutil.copytree(place / "next year", tmp_path / "mixed")
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (96, 96, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / "mixed" / "red" / f"noise {number}.png")
    evaluation = evaluated(place, tmp_path / "mixed", out, run=run)
    assert evaluation.unlike >= 3
    assert json.loads((out / "evaluation.json").read_text())["unlike"] == evaluation.unlike
    assert f"{evaluation.unlike} of the 15 samples" in evaluation.comparison.verdict_text


def test_what_is_no_evaluation_is_not_replaced_and_what_the_run_lacks_is_named(place):
    with pytest.raises(UsageError, match=r"`out` .* is a run"):
        evaluated(place, place / "next year", place / "run")
    own = place / "paper" / "figures" / "one.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"holds what no evaluation wrote and one would replace \(figures\)"):
        evaluated(place, place / "next year", place / "paper")
    assert own.read_bytes() == b"mine"
    for part in (place / "run" / "seed-0", place / "run" / "seed-0" / "linear-ridge"):
        with pytest.raises(UsageError, match=r"is a part of the run .*run: give that, and by `seed` and `method`"):
            choose_model(part, None, None)
    with pytest.raises(UsageError, match=r"`method` linear-rigde.*linear-ridge"):
        evaluated(place, place / "next year", method="linear-rigde")
    with pytest.raises(UsageError, match=r"`name` '../x' must be the name of a folder"):
        default_out(place / "run", "photos", "../x")
