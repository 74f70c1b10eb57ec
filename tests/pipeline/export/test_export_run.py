"""Taking a method out of its run: what is written, what is said, and what is refused."""

import json
import re
import shutil

import pytest

from cache.errors import DataError, UsageError
from pipeline.cli.app import main
from pipeline.export.export_run import export_run
from pipeline.export.hub_card import card_path


def test_the_largest_difference_is_printed_and_the_card_lies_beside_the_file(exported, run):
    for made, name in zip(exported, ("own.onnx", "program.pt2"), strict=True):
        assert (made.path.name, made.card) == (name, made.path.with_name(f"{name}.md"))
        first, checked, *_ = made.describe()
        assert first.startswith(f"head-linear of {run / 'seed-0'}, as `method` says")
        said = re.fullmatch(
            r"checked with 6 samples of the run, of 6 sizes: .* is (\S+) \(refused above 0\.0001\)", checked
        )
        assert 0 < float(said[1]) < 1e-5


def test_files_that_are_there_stay_unless_they_may_be_replaced(run, exported, tmp_path, capsys):
    there = tmp_path / "own.safetensors"
    there.write_text("mine")
    with pytest.raises(UsageError, match=r"own\.safetensors is there already: say `overwrite`"):
        export_run(run, there, method="head-linear")
    assert there.read_text() == "mine"
    assert main(["export", str(run), "--method", "head-linear", "--out", str(there)]) == 2
    assert "say --overwrite to replace it" in capsys.readouterr().err
    command = ["export", str(run), "--method", "head-linear", "--out", str(there), "--overwrite"]
    assert main(command) == 0
    assert "tensors alone, for this library to load" in capsys.readouterr().out
    assert there.stat().st_size > 4


def test_formats_are_named_and_do_not_contradict_the_file(run, tmp_path):
    for wrong, said in (
        ({"out": tmp_path / "a"}, "has no ending that says what it is: say `format` safetensors, onnx, torch-export"),
        ({"out": tmp_path / "a", "format_name": "onx"}, r"`format` onx: there is no such format. Did you mean 'onnx'"),
        ({"out": tmp_path / "a.pt2", "format_name": "onnx"}, r"writes files that end with \.onnx, and `out` is"),
    ):
        with pytest.raises(UsageError, match=said):
            export_run(run, method="head-linear", **wrong)


def test_of_an_unfinished_run_is_said_what_is_missing(saved, tmp_path):
    unfinished = tmp_path / "run"
    (unfinished / "seed-0" / "finetune-top-3").mkdir(parents=True)
    (unfinished / "seed-0" / "head-linear").mkdir()
    for file in saved("linear").iterdir():
        (unfinished / "seed-0" / "head-linear" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(
        DataError,
        match=r"run is not finished: results\.json \(which says what to take\) and the model of seed-0/finetune-top-3 are "
        r"missing\. Give the command .*; or say by `method` which to take of those that are there: head-linear",
    ):
        export_run(unfinished, tmp_path / "a.onnx")
    (unfinished / "seed-0" / "finetune-top-3").rmdir()
    with pytest.raises(DataError, match=r"goes on; if that was `train` or `finetune`, `compare` .*run; or say by"):
        export_run(unfinished, tmp_path / "a.onnx")
    (unfinished / "seed-0" / "manifest.csv").write_text("path,label,split,key\n")
    with pytest.raises(UsageError, match=r"seed-0 is a part of the run .*run: give that, and by `seed` and `method`"):
        export_run(unfinished / "seed-0", tmp_path / "a.onnx")
    with pytest.raises(DataError, match="is no run: there is no such folder"):
        export_run(tmp_path / "none", tmp_path / "a.onnx")


def test_what_failed_beside_finished_methods_is_no_reason_not_to_export(run, tmp_path):
    finished = tmp_path / "run"
    shutil.copytree(run, finished)
    (finished / "seed-0" / "finetune-failed").mkdir()
    made = export_run(finished, tmp_path / "a.safetensors")
    assert made.path.exists()
    assert made.card != card_path(tmp_path / "a.onnx")  # each file has a card of its own


def test_what_was_trained_on_features_of_another_arithmetic_is_said_to_answer_otherwise(saved, exported, tmp_path):
    assert [made.equality.as_trained for made in exported] == [None, None]
    run = tmp_path / "run"
    shutil.copytree(saved("linear").parent, run / "seed-0")
    path = run / "seed-0" / "head-linear" / "model.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "features": {**card["features"], "precision": "bf16"}}))
    made = export_run(run, tmp_path / "bf16.pt2", method="head-linear")
    assert made.equality.difference < 1e-5 < made.equality.as_trained < 0.2
    said = f"the file's answers are up to {made.equality.as_trained:.2g} away; with `precision` fp32"
    assert said in made.describe()[2]
