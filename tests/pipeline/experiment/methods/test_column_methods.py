"""Columns of a table beside the images: three methods for each head, and predictions from a table of the same columns."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from pipeline.cli.app import main
from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.console import format_tables
from pipeline.evaluation.results import load_results
from pipeline.export.equality import compare_with_run, samples_of_run
from pipeline.export.exported_module import ExportedModule
from pipeline.library.export_model import export_model

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version_1" / "photos"
DATA = ("--data", "table.csv", "--image-size", "64")
HEADS = ("--head", "ridge", "--cv", "3", "--out", "run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table of images with a number, a category with zeros in front, a text, and what is the label in other words."""
    folder = tmp_path_factory.mktemp("columns")
    shutil.copytree(FIXTURE, folder / "photos")
    with (folder / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "area", "zipcode", "note", "colour"])
        for number, path in enumerate(sorted((folder / "photos").rglob("*.*"))):
            label = path.parent.name
            area = "" if number % 7 == 3 else 10 * number % 100 + 5 * len(label)
            code = {"blue": "B", "green": "G", "red": "R"}[label]
            note = f"{'bright' if number % 3 else 'dark'} picture {number}"
            rows.writerow([path.relative_to(folder), label, area, f"{number % 4:05d}", note, code])
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """A run with heads of all three kinds."""
    columns = ("--columns", "area", "--categories", "zipcode", "--texts", "note")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        assert main(["extract", *DATA, "--out", "run"]) == 0
        assert main(["train", *DATA, *HEADS, *columns, "--track", "tensorboard"]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def _inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_a_head_is_tested_on_images_on_columns_and_on_both(run):
    results = {result.method: result for result in load_results([run])}
    assert list(results) == ["linear", "columns", "joined"]
    widths = {method: results[method].trainable_parameters // 3 - 1 for method in results}
    assert widths["joined"] == widths["linear"] + widths["columns"]
    assert results["columns"].seconds_by_stage["extract"] == results["columns"].extraction_forwards == 0
    assert results["joined"].seconds_by_stage["extract"] > 0
    assert results["joined"].settings["weight of columns"] in (0.1, 0.3, 1, 3, 10)
    assert "area: standardized; " in results["joined"].settings["columns"]
    assert results["joined"].settings["missing in train"].startswith("area ")
    said = compare_runs([run]).verdict_text
    assert "columns alone" in said
    assert "to the images the columns add" in said


def test_the_command_writes_them_into_a_tracker(run):
    tracked = [path.parent for path in (run / "tracking" / "tensorboard").rglob("events*")]
    assert {path.name for path in tracked} == {"linear-ridge", "columns-ridge", "joined-ridge"}
    assert main(["train", *DATA, *HEADS, "--track", "tensorbord"]) == 2


def test_all_of_them_are_predicted_out_of_the_same_folds_and_on_the_validation_split(run):
    results = load_results([run])
    first = results[0].out_of_fold
    trained = results[0].samples["train"] + results[0].samples["val"]
    assert (len(first), first.folds, first.repeats) == (5 * trained, 3, 5)  # few images
    for result in results:
        for name in ("keys", "fold", "repeat"):
            assert (getattr(result.out_of_fold, name) == getattr(first, name)).all()
        assert result.cv["mean"] == pytest.approx(result.metric.score(result.out_of_fold.statistics))
        validated = result.validation_predictions
        assert len(validated) == result.samples["val"]
        assert result.metric.score(validated.statistics) == pytest.approx(result.val["accuracy"])
        assert not set(result.predictions.keys) & {*result.out_of_fold.keys, *validated.keys}
    comparison = compare_runs([run])
    assert comparison.choice.cross_validated
    header, _, *lines = format_tables(comparison, 200).splitlines()
    start = header.index("out of folds")
    shown = [line[start : start + len("out of folds")].strip() for line in lines[: len(results)]]
    assert shown == sorted((f"{100 * result.cv['mean']:.1f} %" for result in results), reverse=True)


def test_the_same_command_finds_them_and_another_choice_of_columns_is_refused(run, capsys):
    command = ["train", *DATA, *HEADS]
    assert main([*command, "--columns", "area", "--categories", "zipcode", "--texts", "note"]) == 0
    said = capsys.readouterr().out
    assert all(f"{method}-ridge: already trained" in said for method in ("linear", "columns", "joined"))
    assert main([*command, "--columns", "area"]) == 2
    said = capsys.readouterr()
    assert "columns-ridge was trained with `categories` zipcode" in said.err or "--categories zipcode" in said.err
    assert "linear-ridge: already trained" in said.out  # images alone are as they were


def test_a_table_of_the_same_columns_is_predicted(run, folder, capsys):
    (folder / "new.csv").write_text(
        "path,area,zipcode,note\n" + "".join(f"{path},7,99999,bright\n" for path in sorted(Path("photos").rglob("*.*")))
    )
    for method in ("joined-ridge", "columns-ridge"):
        assert main(["predict", "run", "new.csv", "--method", method, "--out", "predictions.csv"]) == 0
        with (folder / "predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 24
        assert ("unlike" in rows[0]) == (method == "joined-ridge")  # columns alone open no image
        # columns alone say the same of all; with the images they do not
        assert (len({row["probability_blue"] for row in rows}) == 1) == (method == "columns-ridge")
    assert "cells with what train never had: zipcode 24" in capsys.readouterr().out
    assert main(["predict", "run", "photos", "--method", "joined-ridge"]) == 1
    assert "trained with columns beside the images (area, zipcode, note)" in capsys.readouterr().err


def test_predictions_of_a_saved_method_are_those_of_its_test(run, folder):
    result = next(result for result in load_results([run]) if result.method == "joined")
    assert main(["predict", "run", "table.csv", "--method", "joined-ridge", "--out", "again.csv"]) == 0
    with (folder / "again.csv").open() as file:
        rows = {str(Path(row["path"]).resolve()): row for row in csv.DictReader(file)}
    tested = result.predictions
    for location, statistic in zip(tested.locations, tested.statistics, strict=True):
        again = float(rows[str(Path(str(location)).resolve())]["probability_blue"])
        assert again == pytest.approx(float(statistic["probabilities"][0]), abs=2e-3)  # features are cached in 16 bits


def test_an_evaluation_answers_with_columns_as_in_the_test(run, folder, capsys):
    assert main(["evaluate", "run", "--data", "table.csv", "--seen", "keep", "--name", "again"]) == 0
    assert "they are counted" in capsys.readouterr().out
    for own, again in zip(load_results([run]), load_results([run / "evaluations" / "again"]), strict=True):
        assert own.method == again.method
        row_of = {key: row for row, key in enumerate(again.predictions.keys.tolist())}
        rows = [row_of[key] for key in own.predictions.keys.tolist()]
        for field in ("probabilities", "target"):
            # products of 24 rows are rounded otherwise than of 6, more so on a GPU
            assert np.allclose(again.predictions.statistics[rows][field], own.predictions.statistics[field], atol=1e-5)
    assert main(["evaluate", "run", "--data", "photos", "--seen", "keep", "--name", "again"]) == 1
    assert (
        "columns-ridge was trained with columns of a table, and the new samples have no area, zipcode, note: give"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("method", ["joined-ridge", "columns-ridge"])
def test_a_method_on_columns_is_exported_with_what_makes_numbers_of_them(run, folder, method):
    model = export_model(run / "seed-0" / method, folder / f"{method}.safetensors", "cpu")
    with safe_open(folder / f"{method}.safetensors", framework="pt") as file:
        columns = json.loads(file.metadata()["columns"])
    assert [column["name"] for column in columns] == ["area", "zipcode", "note"]
    samples = samples_of_run(model)
    module = ExportedModule(model)
    compare_with_run(model, lambda inputs: [module(*map(torch.from_numpy, inputs)).numpy()], samples)


def test_a_column_that_cannot_be_used_is_told_before_images_are_extracted(capsys):
    command = ["run", *DATA, "--categories", "colour", "--skip-finetune", "--out", "other", "--cache", "empty"]
    assert main(command) == 1
    said = capsys.readouterr()
    assert "the column colour is the target, or another name for it: where it says 'B' the target is 'blue'" in said.err
    assert "extract:" not in said.out
    assert [path.name for path in Path("empty").iterdir()] == ["keys.sqlite"]  # no features
