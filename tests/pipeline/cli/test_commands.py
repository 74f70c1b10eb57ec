"""The commands as a person gives them: real arguments, real files, exit codes, and what is printed."""

import csv
import html
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from pipeline.cli import COMMANDS
from pipeline.cli.app import app, main
from pipeline.options.toml_file import read_configuration
from stages.network.graph.trunk import FrozenTrunk
from stages.runtime.environment import describe_machine
from tests import ready_processes
from tests.page_figures import drawing
from tests.photographs import make_folder

SMALL = ["--image-size", "64"]
QUICK_FITS = ["--c-values", "0.01", "0.1", "--scalers", "standard", "--cv", "3", "--fit-epochs", "60"]


def call(capsys, *arguments):
    """Return exit code, standard output and standard error of one command."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # how the command line library ends on wrong usage and after --help
        code = stopped.code
    captured = capsys.readouterr()
    return code or 0, captured.out, captured.err


@pytest.fixture(scope="module")
def finished(photographs, tmp_path_factory):
    """A whole run over two seeds, fine-tuning included."""
    folder = tmp_path_factory.mktemp("finished")
    arguments = [
        *("run", "--data", photographs, *SMALL, "--cache", folder / "cache", "--out", folder / "run"),
        *("--seeds", "0", "1", "--head", "logistic", "mlp", "--epochs", "1", "--num-workers", "0", *QUICK_FITS),
    ]
    with drawing(""):
        assert main([str(argument) for argument in arguments]) == 0
    return folder, [str(argument) for argument in arguments]


def test_a_run_leaves_everything_it_promises(finished):
    run = finished[0] / "run"
    content = json.loads((run / "results.json").read_text())
    results = content["results"]
    assert {(result["method"], result["name"], result["seed"]) for result in results} == {
        (method, name, seed)
        for method, name in (
            *(("linear", "logistic"), ("head", "mlp"), ("ensemble", "greedy")),
            ("finetune", "top-3"),
        )
        for seed in (0, 1)
    }
    for result in results:
        low, high = result["test"]["ci95"]
        assert low <= result["test"]["accuracy"] <= high
        assert result["seconds"] == pytest.approx(sum(result["seconds_by_stage"].values()))
        assert result["peak_memory_bytes"] > 100_000_000
        assert result["trainable_parameters"] > 0
        assert result["test"]["accuracy"] >= 0.8  # of three classes that differ in color
        assert (result["backbone_forwards"] > 0) == (result["method"] == "finetune")
        assert result["extraction_forwards"] == 72
    parameters = {result["name"]: result["trainable_parameters"] for result in results}
    assert parameters["logistic"] == 1280 * 3 + 3
    assert parameters["top-3"] > 1_000_000
    assert content["verdict"]
    page = (run / "report.html").read_text(encoding="utf-8")
    shown = letters(html.unescape(re.sub("<[^>]+>", "", page)))
    assert all(letters(sentence) in shown for sentence in content["verdict"].split(". "))
    sheet = (run / "seed-0" / "finetune-top-3" / "contact-sheet.svg").read_text(encoding="utf-8")
    assert sheet.count("data:image/jpeg;base64,") == 6 * (2 + 7)
    configuration = read_configuration(run / "config.toml")
    assert {name: configuration[name] for name in ("image_size", "seeds", "head", "epochs")} == {
        "image_size": 64,
        "seeds": [0, 1],
        "head": ["logistic", "mlp"],
        "epochs": 1,
    }
    assert json.loads((run / "environment.json").read_text()).items() >= {
        (name, version) for name, version in describe_machine().items() if name != "torch threads"
    }
    for seed, extracted in ((0, 72), (1, 0)):
        account = json.loads((run / f"seed-{seed}" / "extraction.json").read_text())
        assert (account["samples"], account["extracted"]) == (72, extracted)
    assert not list(run.rglob("checkpoint.pt"))


def test_the_same_command_gives_the_same_bits_twice(finished, tmp_path):
    """Features, heads, networks and predictions by their bytes, results but for times, memory and what made them."""
    root, arguments = finished
    seeds = arguments.index("--seeds")
    of_one_seed = arguments[: seeds + 2] + arguments[seeds + 3 :]

    def run_in(folder, *more):
        moved = {str(root / name): str(folder / name) for name in ("run", "cache")}
        assert main([*(moved.get(word, word) for word in of_one_seed), *more]) == 0
        return folder

    if torch.cuda.is_available():  # what that computes differs by rounding
        root, again = (run_in(tmp_path / name, "--device", "cpu") for name in ("first", "again"))
    else:
        again = run_in(tmp_path / "again")
    measured = ("seconds", "cpu_seconds", "peak_memory_bytes", "seconds_by_stage", "marginal_seconds")
    measured = (*measured, "prediction_seconds_per_image", "provenance", "options")
    names = set()
    for first in sorted((root / "run" / "seed-0").rglob("*")):
        second = again / "run" / first.relative_to(root / "run")
        if first.suffix in (".safetensors", ".npz", ".csv"):
            assert first.read_bytes() == second.read_bytes(), first.name
            names.add(first.name)
        elif first.name == "result.json":
            one, other = (json.loads(path.read_text()) for path in (first, second))
            for result in (one, other):
                result["history"] = [{**epoch, "seconds": None} for epoch in result["history"]]
                result["cv"] = result["cv"] and {**result["cv"], "seconds": None}
            left, right = ({name: value for name, value in one.items() if name not in measured} for one in (one, other))
            assert left == right
            assert one["provenance"]["data_digest"] == other["provenance"]["data_digest"]
            assert one["provenance"]["command"].startswith("cutonce run --data ")
    assert names >= {"head.safetensors", "top.safetensors", "predictions.npz", "manifest.csv"}


def test_what_contradicts_a_fine_tuning_of_the_run_is_told_before_anything_is_computed(finished, capsys, monkeypatch):
    _, arguments = finished
    monkeypatch.setattr(FrozenTrunk, "forward", None)
    code, printed, error = call(capsys, *arguments[: arguments.index("--head")], "--head", "ridge", "--epochs", "3")
    assert code == 2
    assert "finetune-top-3 was trained with --epochs 1, and this command says 3" in error
    assert "a --name of its own" in error
    assert "linear-ridge" not in printed


def test_an_account_of_other_features_takes_the_place_of_none_that_results_were_made_with(finished, capsys):
    folder, _ = finished
    path = folder / "run" / "seed-0" / "extraction.json"
    before = path.read_bytes()
    given = ("--data", read_configuration(folder / "run" / "config.toml")["data"], *SMALL, "--cache", folder / "cache")
    for command in ("extract", "inspect"):
        code, _, error = call(capsys, command, *given, "--cut", "blocks.1", "--out", folder / "run")
        assert code == 0, error
        assert path.read_bytes() == before
    assert call(capsys, "extract", *given, "--out", folder / "run")[0] == 0  # these features are theirs
    assert json.loads(path.read_text())["fingerprints"] == json.loads(before)["fingerprints"]


@pytest.mark.parametrize(
    "command", ["run", "extract", "train", "finetune", "inspect", "lr-find", "learning-curve", "probe-layers"]
)
def test_of_data_that_there_are_not_nothing_is_left(command, tmp_path, capsys):
    given = ("--data", tmp_path / "fotos", *SMALL, "--cache", tmp_path / "cache", "--out", tmp_path / "runs" / "one")
    code, _, error = call(capsys, command, *given)
    assert code == 2
    assert "there is no such folder or file" in error
    assert not list(tmp_path.iterdir())


def letters(text):
    return re.sub(r"[\W_]+", "", text)


def test_results_table_and_predictions_of_a_run_are_about_the_same_test_images(finished):
    run = finished[0] / "run"
    with (run / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = 0
    for result in json.loads((run / "results.json").read_text())["results"]:
        folder = run / f"seed-{result['seed']}"
        with (folder / "manifest.csv").open(newline="") as file:
            test = [row for row in csv.DictReader(file) if row["split"] == "test"]
        keys = [row["key"] for row in test]
        stored = np.load(folder / f"{result['method']}-{result['name']}" / "predictions.npz")
        assert stored["keys"].astype(str).tolist() == keys
        predicted = np.array(result["task"]["class_names"])[stored["probabilities"].argmax(axis=1)]
        right = predicted == [row["label"] for row in test]
        assert result["test"]["accuracy"] == pytest.approx(right.mean())
        assert result["samples"]["test"] == len(test)
        method = (result["method"], result["name"], str(result["seed"]))
        rows_of_method = [row for row in table if (row["method"], row["name"], row["seed"]) == method]
        assert [row["key"] for row in rows_of_method] == keys
        assert [row["predicted"] for row in rows_of_method] == predicted.tolist()
        rows += len(rows_of_method)
    assert len(table) == rows > 0


def test_the_same_command_again_trains_nothing(finished, capsys):
    _, arguments = finished
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert out.count("already trained") == 10  # 4 methods and the head fine-tuning starts from, for 2 seeds
    assert "nothing to do: all 72 images are in the cache" in out


def test_what_contradicts_a_run_is_refused_and_leaves_it_as_it_was(finished, photographs, capsys):
    root, _ = finished
    run, caches = root / "run", sorted((root / "cache").iterdir())
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    common = ["--data", photographs, *SMALL, "--cache", root / "cache", *QUICK_FITS, "--head", "logistic", "--out", run]
    for command, changed, words in [
        ("train", ["--test-size", "0.5"], "--test-size 0.5 and the run was made with 0.25"),
        ("train", ["--seeds", "2", "--val-size", "0.5"], "--val-size 0.5 and the run was made with 0.2"),
        (
            "train",
            ["--hidden-dim", "9"],
            "linear-logistic was trained with --hidden-dim 512, and this command says 9. It is not replaced",
        ),
        (
            "run",
            ["--cut", "blocks.3", "--skip-finetune"],
            "was trained with --cut auto, and this command says blocks.3",
        ),
        (  # before the head that it would begin with is trained
            "finetune",
            ["--epochs", "2", "--init-head", "svm"],
            "--init-head logistic, and this command says svm; with --epochs 1, and this command says 2",
        ),
    ]:
        code, _, err = call(capsys, command, *common, *changed)
        assert (code, words in err) == (2, True), err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert sorted((root / "cache").iterdir()) == caches


def test_stage_two_and_a_second_extract_make_no_backbone_forward(finished, photographs, capsys, monkeypatch, tmp_path):
    root, _ = finished

    def fail(*_):
        raise AssertionError("the backbone ran")

    # features as every machine has them: of others it is measured how far they move answers, by the backbone
    common = ["--data", photographs, *SMALL, "--cache", root / "cache", "--precision", "fp32", "--decode-on", "cpu"]
    assert call(capsys, "extract", *common)[0] == 0
    monkeypatch.setattr(FrozenTrunk, "forward", fail)
    assert call(capsys, "extract", *common)[0] == 0
    heads = ("svm", "concat", "knn")
    code, out, _ = call(capsys, "train", *common, "--head", *heads, *QUICK_FITS, "--out", tmp_path / "run")
    assert code == 0
    assert out.count("test accuracy") == 4  # with their ensemble
    with pytest.raises(AssertionError, match="the backbone ran"):  # where there is something to do
        main([str(argument) for argument in ("extract", "--data", photographs, *SMALL, "--cache", tmp_path / "cache")])


def test_another_split_changes_the_cache_not_at_all(finished, photographs, capsys):
    root, _ = finished
    files = sorted(path.name for path in (root / "cache").rglob("*.h5"))
    code, out, _ = call(
        capsys,
        "extract",
        "--data",
        photographs,
        *SMALL,
        "--cache",
        root / "cache",
        "--test-size",
        "0.5",
        "--seeds",
        "9",
    )
    assert (code, "nothing to do" in out) == (0, True)
    assert sorted(path.name for path in (root / "cache").rglob("*.h5")) == files


def test_compare_recomputes_nothing_and_says_the_same(finished, capsys, tmp_path):
    root, _ = finished
    models = {path: path.stat().st_mtime_ns for path in (root / "run").rglob("*.safetensors")}
    code, out, _ = call(capsys, "compare", root / "run", "--out", tmp_path / "again")
    assert code == 0
    assert all(words in out for words in ("logistic  ", "features, s", "passes"))
    assert re.search(r"^\* (logistic|MLP|greedy ensemble) ", out, re.MULTILINE)  # by pixels of another decoder another
    compared = json.loads((tmp_path / "again" / "results.json").read_text())["results"]
    assert compared == json.loads((root / "run" / "results.json").read_text())["results"]
    assert all(path.stat().st_mtime_ns == changed for path, changed in models.items())


@pytest.mark.parametrize("method", ["linear-logistic", "head-mlp", "ensemble-greedy", "finetune-top-3"])
def test_predict_gives_for_a_test_image_what_the_result_holds(finished, capsys, tmp_path, method):
    run = finished[0] / "run"
    stored = np.load(run / "seed-0" / method / "predictions.npz")
    images = stored["locations"][:5].tolist()
    noise, table = tmp_path / "noise.png", tmp_path / "predictions.csv"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(noise)
    code, out, _ = call(capsys, "predict", run, *images, noise, "--method", method, "--out", table)
    assert code == 0
    with table.open(newline="") as file:
        *rows, unlike = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == images
    marked = [row["unlike"] for row in rows]
    assert marked.count("no") >= 3
    assert (unlike["unlike"], float(unlike["unlike_score"]) > 1) == ("yes", True)
    assert f"unlike the images that the model was trained on: {1 + marked.count('yes')} of 6" in " ".join(out.split())
    predicted = np.array([[float(row[f"probability_{name}"]) for name in ("fire", "leaf", "sea")] for row in rows])
    # the cache holds float16; a GPU computes in 16 bits, and rounds six images otherwise than a batch
    tolerance = 0.05 if torch.cuda.is_available() else 5e-3
    assert np.allclose(predicted, stored["probabilities"][:5], atol=tolerance)
    assert [row["class"] for row in rows] == [("fire", "leaf", "sea")[best] for best in predicted.argmax(axis=1)]


def test_evaluate_answers_for_a_test_image_what_the_result_of_a_fine_tuned_network_holds(finished, capsys, tmp_path):
    run = finished[0] / "run"
    stored = np.load(run / "seed-1" / "finetune-top-3" / "predictions.npz")
    rows = [f"{location},{location.split('/')[-2]}" for location in stored["locations"].tolist()]
    table = tmp_path / "again.csv"
    table.write_text("\n".join(["path,label", *rows]))
    flags = ["--method", "finetune-top-3", "--seed", "1", "--out", tmp_path / "again"]
    code, out, _ = call(capsys, "evaluate", run, "--data", table, *flags)
    assert (code, f"{len(rows)} of {len(rows)} samples are samples of" in out) == (0, True)
    again = np.load(tmp_path / "again" / "seed-1" / "finetune-top-3" / "predictions.npz")
    assert again["keys"].tolist() == stored["keys"].tolist()
    assert np.allclose(again["probabilities"], stored["probabilities"], atol=1e-5)


def test_predict_searches_folders_and_lists_what_it_cannot_read(finished, capsys, tmp_path):
    folder = make_folder(tmp_path / "new", per_class=2)
    (folder / "sea" / "broken.jpg").write_text("no image")
    code, out, _ = call(capsys, "predict", finished[0] / "run", folder)
    assert code == 0
    assert len(re.findall(r"(?m)^\S+\.jpg  (fire|leaf|sea)  [01]\.\d+(?:  \(unlike the training images\))?$", out)) == 6
    assert "skipped" in out
    assert "broken.jpg" in out


@pytest.mark.parametrize(
    "options", ["--unfreeze head --baselines uncached", "--unfreeze all --reinit all --baselines scratch"]
)
def test_a_baseline_that_is_the_fine_tuning_itself_is_refused_first(
    photographs, capsys, tmp_path, options, monkeypatch
):
    monkeypatch.setattr(FrozenTrunk, "forward", None)
    common = ["--data", photographs, *SMALL, "--cache", tmp_path / "cache", "--out", tmp_path / "run"]
    code, _, error = call(capsys, "run", *common, "--head", "ridge", *options.split())
    assert code == 2
    assert "leave out the baseline, or give a --name" in error


def test_the_head_that_fine_tuning_starts_from_is_in_the_ensemble_the_first_time_too(photographs, capsys, tmp_path):
    common = ["--data", photographs, *SMALL, "--cache", tmp_path / "cache", "--out", tmp_path / "run"]
    command = ["run", *common, "--head", "ridge", "--unfreeze", "1", "--epochs", "1", "--num-workers", "0"]
    code, first, _ = call(capsys, *command)
    assert (code, "ensemble-greedy" in first) == (0, True)
    left = {path: path.read_bytes() for path in (tmp_path / "run" / "seed-0").rglob("*.safetensors")}
    code, _, _ = call(capsys, *command)
    assert code == 0
    assert {path: path.read_bytes() for path in (tmp_path / "run" / "seed-0").rglob("*.safetensors")} == left


def test_a_training_that_stops_while_it_replaces_another_leaves_that_as_it_was(
    photographs, capsys, tmp_path, monkeypatch
):
    """And nothing of its own, or the earlier command would be told that the later one's result is its own."""
    common = ["--data", photographs, *SMALL, "--cache", tmp_path / "cache"]
    first = ["train", *common, "--head", "logistic", "--c-values", "0.01", "--out", tmp_path / "run"]
    assert call(capsys, "extract", *common)[0] == 0
    assert call(capsys, *first)[0] == 0
    method = tmp_path / "run" / "seed-0" / "linear-logistic"
    before = {path.name: path.read_bytes() for path in method.iterdir()}

    def disk_full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.experiment.methods.head_methods.save_model", disk_full)
        code, _, err = call(capsys, *first[:-4], "--c-values", "10", *first[-2:], "--overwrite")
        assert (code, "No space left" in err) == (1, True)
    assert {path.name: path.read_bytes() for path in method.iterdir()} == before
    code, out, _ = call(capsys, *first)
    assert (code, "already trained" in out) == (0, True)


def test_layers_lists_every_cut(capsys):
    code, out, _ = call(capsys, "list-cuts", "resnet18")
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("layer3.1.relu_1"))
    assert re.split(r"\s{2,}", row) == [
        "layer3.1.relu_1",
        "layer3",
        "256x14x14",
        "2.78 M",
        "8.91 M",
        "1.4 G",
        "412 M",
        "98 KiB",
    ]
    assert "(auto)" in out


def test_the_configuration_file_and_flags_combine_and_flags_win(photographs, capsys, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        f'data = "{photographs}"\nimage_size = 64\ncut = "blocks.4"\ncache = "{tmp_path}/cache"\nepochs = 3\n'
    )
    code, out, _ = call(capsys, "extract", "--config", file, "--cut", "blocks.3", "--out", tmp_path / "run")
    assert code == 0
    assert "cut at blocks.3" in out
    written = (tmp_path / "run" / "config.toml").read_text()
    assert 'cut = "blocks.3"' in written
    assert "image_size = 64" in written
    _, bound, _ = app.parse_args(["extract", "--data", "photos", "--pool", "max"])  # the file was that command's alone
    assert bound.arguments["features"].image_size is None


def test_weights_from_a_file_are_used_and_checked_again_by_predict(photographs, capsys, tmp_path):
    from safetensors.torch import save_file

    from stages.network.backbones.registry import load_backbone

    state = load_backbone("efficientnet_lite0", "none").module.state_dict()
    save_file(state, tmp_path / "mine.safetensors")
    common = ["--data", photographs, *SMALL, "--cache", tmp_path / "cache", "--weights", tmp_path / "mine.safetensors"]
    assert call(capsys, "extract", *common)[0] == 0
    assert call(capsys, "train", *common, "--head", "logistic", *QUICK_FITS, "--out", tmp_path / "run")[0] == 0
    image = next(photographs.rglob("*.jpg"))
    assert call(capsys, "predict", tmp_path / "run", image)[0] == 0
    save_file(
        {name: value + 1 if value.is_floating_point() else value for name, value in state.items()},
        tmp_path / "mine.safetensors",
    )
    code, _, err = call(capsys, "predict", tmp_path / "run", image)
    assert code == 1
    assert "other weights" in err


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [  # all three ask the same question, so each of the others stands for it once with what the network says
        ("finetune", ["--unfreeze", "blocks.55"], "no layer 'blocks.55'. Did you mean 'blocks.5'"),
        ("run", ["--unfreeze", "blocks.55"], "no layer 'blocks.55'. Did you mean 'blocks.5'"),
        ("lr-find", ["--unfreeze", "blocks.55"], "no layer 'blocks.55'. Did you mean 'blocks.5'"),
        ("finetune", ["--unfreeze", "all", "--views", "2", "--from-cache"], "training begins at the image"),
        ("finetune", ["--unfreeze-every", "3"], "--unfreeze-every 3"),
        ("finetune", ["--layer-decay", "2"], "--layer-decay 2 must be more than 0"),
        ("finetune", ["--init-head", "gru"], "--init-head gru takes samples of several images"),
        ("run", ["--init-head", "gru"], "--init-head gru takes samples of several images"),
        ("lr-find", ["--init-head", "gru"], "--init-head gru takes samples of several images"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_an_image_is_extracted(
    command, options, words, photographs, tmp_path, capsys
):
    path_options = ("--cache", tmp_path / "cache", "--out", tmp_path / "run")
    code, _, err = call(capsys, command, "--data", photographs, *SMALL, *path_options, *options)
    assert code == 2
    assert words in err
    assert not list((tmp_path / "cache").glob("*/spec.json"))


def test_find_rate_names_the_option_and_leaves_a_plot(finished, photographs, tmp_path, capsys):
    root, _ = finished
    arguments = ("--data", photographs, *SMALL, "--cache", root / "cache", "--out", tmp_path / "run")
    # a head that knows nothing has much to learn, so there is a rate
    beginning = ("--unfreeze", "1", "--init-head", "new", "--num-workers", "0")
    code, out, _ = call(capsys, "lr-find", *arguments, *beginning)
    assert code == 0
    assert re.search(r"^--lr \d\.\de-\d\d$", out, re.MULTILINE)
    with Image.open(tmp_path / "run" / "seed-0" / "range-test.png") as plot:
        assert min(plot.size) > 300
    page = (tmp_path / "run" / "lr-find.html").read_text(encoding="utf-8")
    assert re.search(r"cutonce finetune .*--unfreeze 1 .*--lr \d\.\de-\d\d --out", page)
    assert not list((tmp_path / "run").glob("*/finetune*"))  # nothing is trained


def test_a_contact_sheet_needs_neither_weights_nor_features(capsys, tmp_path):
    train, _, _ = (make_folder(tmp_path / "own" / split, per_class=3) for split in ("train", "val", "test"))
    (train / "fire" / "000.jpg").write_text("no image")
    Image.new("RGB", (20_000, 1)).save(train / "fire" / "001.jpg")
    common = ["contact-sheet", "--data", tmp_path / "own", "--allow-leakage", "--backbone", "resnet18", *SMALL]
    common += ["--cache", tmp_path / "cache"]
    wide = {}
    for name, own in {
        "plain": ["--augment", "crop(0.3)+flip+colorjitter(0.4)"],
        "mixed": ["--augment", "none", "--mixup", "0.4", "--cutmix", "1"],
    }.items():
        code, out, _ = call(capsys, *common, *own, "--out", tmp_path / f"{name}.png")
        assert code == 0
        assert f"contact sheet: {tmp_path}/{name}.png" in out
        with Image.open(tmp_path / f"{name}.png") as sheet:
            wide[name] = sheet.convert("RGB").size[0]
    assert wide["mixed"] > 1.4 * wide["plain"]
    assert f"skipped {train}/fire/000.jpg: not an image" in out
    assert f"skipped {train}/fire/001.jpg: 20000 x 1 pixels are too long" in out
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["keys.sqlite"]


def test_a_contact_sheet_without_a_readable_image_says_so(capsys, tmp_path):
    folder = make_folder(tmp_path / "own", per_class=3)
    for path in folder.rglob("*.jpg"):
        path.write_text(f"no image {path}")
    code, _, err = call(
        capsys, "contact-sheet", "--data", folder, "--cache", tmp_path / "cache", "--out", tmp_path / "sheet.png"
    )
    assert (code, "no training image that could be read" in err) == (1, True)


def test_images_without_labels_are_extracted_and_found_again_when_they_have_some(capsys, tmp_path):
    folder = make_folder(tmp_path / "own", per_class=3)
    options = ["--image-size", "64", "--cache", tmp_path / "cache"]
    code, out, _ = call(capsys, "extract", "--data", folder / "fire", *options, "--out", tmp_path / "run")
    assert code == 0
    assert "3 images, train 3" in out
    assert "note: no labels: features alone can be extracted" in out
    code, out, _ = call(capsys, "extract", "--data", folder, *options)
    assert (code, "3 were in the cache already" in out) == (0, True)


WRONG = [
    (["extract", "--data", "{tmp}/nowhere"], "nowhere"),
    (["extract", "--data", "{tmp}/empty"], "empty"),
    (["train", "--data", "{tmp}/single", "--out", "{tmp}/r"], "one class"),
    (["train", "--data", "{tmp}/single/fire", "--out", "{tmp}/r"], "Without labels, features can be extracted"),
    (["extract", "--data", "elvp"], "elpv"),
    (["extract", "--data", "{photos}", "--backbone", "resnet81"], "resnet18"),
    (["extract", "--data", "{photos}", "--cut", "block.4"], "blocks.4"),
    (["extract", "--data", "{photos}", "--cut", "blocks.1.1.conv_dw"], "blocks.1.0"),
    (["extract", "--data", "{photos}", "--cut", "blocks.4", "--pool", "cls"], "avg"),
    (["extract", "--data", "{photos}", "--weights", "{tmp}/none.pth"], "none.pth"),
    (["extract", "--data", "{photos}", "--weights", "{tmp}/wrong.pth"], "wrong.pth"),
    (["extract", "--data", "{photos}", "--backbone", "resnet18"], "--weights"),
    (["extract", "--data", "{photos}", "--test-size", "1.5"], "test"),
    (["extract", "--data", "torchvision:Flowers201"], "Flowers102"),
    (["extract", "--data", "{photos}", "--poool", "avg"], "--pool"),
    (["extract", "--data", "{photos}", "--pool", "median"], "avgmax"),
    (["extract", "--data", "{photos}", "--augment", "crop+flpi"], "Did you mean 'flip'"),
    (["contact-sheet", "--data", "{photos}", "--cutmix", "-1", "--out", "{tmp}/sheet.png"], "--cutmix -1 must be"),
    (
        ["train", "--data", "{photos}", "--image-size", "64", "--cache", "{tmp}/c", "--out", "{tmp}/r"],
        "the same options of stage 1 (--backbone, --cut or --taps, --pool, --image-size, --precision,",
    ),
    (
        ["run", "--data", "{photos}", "--image-size", "64", "--taps", "stages", "--out", "{tmp}/r"],
        "--taps stages: fine-tuning and whatever else works on the layers above starts from a cut",
    ),
    (["probe-layers", "--data", "{photos}", "--taps", "stages"], "the heads of `train --taps blocks` say"),
    (["train", "--data", "{photos}", "--head", "logistik", "--out", "{tmp}/r"], "logistic"),
    (["train", "--data", "{photos}", "--fit-batch-size", "0", "--out", "{tmp}/r"], "--fit-batch-size 0 must be"),
    (["train", "--data", "{photos}", "--c-values", "1", "-1", "--out", "{tmp}/r"], "--c-values"),
    (["run", "--data", "{photos}", "--metric", "r2", "--out", "{tmp}/r"], "no metric 'r2' for the task single_label"),
    (["learning-curve", "--data", "{photos}", "--metric", "mae", "--out", "{tmp}/r"], "no metric 'mae'"),
    (["learning-curve", "--data", "{photos}", "--metric", "log_loss", "--out", "{tmp}/r"], "name another --metric"),
    (["train", "--data", "{photos}", "--test", "group=Bern", "--out", "{tmp}/r"], "the samples have no groups"),
    (["finetune", "--data", "{photos}", "--epochs", "0", "--out", "{tmp}/r"], "--epochs 0 must be at least 1"),
    (["finetune", "--data", "{photos}", "--lr", "nan", "--out", "{tmp}/r"], "--lr nan"),
    (["compare"], "run"),
    (["compare", "{tmp}/empty"], "empty"),
    (["predict", "{tmp}/empty", "x.jpg"], "no trained method"),
    (["list-cuts", "vit_b_16", "--image-size", "100"], "224"),
]


@pytest.mark.parametrize(
    ("arguments", "said"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_gets_a_message_an_exit_code_and_no_traceback(photographs, tmp_path, capsys, arguments, said):
    (tmp_path / "empty").mkdir()
    make_folder(tmp_path / "single", per_class=3, classes=("fire",))
    torch.save({"a": torch.zeros(3)}, tmp_path / "wrong.pth")
    code, out, err = call(capsys, *[argument.format(tmp=tmp_path, photos=photographs) for argument in arguments])
    assert code in (1, 2)
    message = " ".join(err.split())
    assert said in message, message
    assert "Traceback" not in out + err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_with_an_example_and_does_not_wait_for_torch(command):
    script = (
        "import sys; from pipeline.cli.app import main\ntry: main([sys.argv[1], '--help'])\nexcept SystemExit: pass\n"
    )
    script += "print('HEAVY', sorted({'torch', 'sklearn', 'h5py', 'matplotlib'} & sys.modules.keys()))"
    completed = subprocess.run([sys.executable, "-c", script, command], check=True, capture_output=True, text=True)
    assert f"cutonce {command}" in completed.stdout.split("Usage", 1)[1].split("\n", 1)[1]
    assert "HEAVY []" in completed.stdout


def test_an_extraction_does_not_wait_for_what_trains_and_draws(photographs, tmp_path):
    """Importing scikit-learn takes as long as some hundred images."""
    script = (
        "import sys; from pipeline.cli.app import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print('HEAVY', sorted({'sklearn', 'scipy', 'matplotlib'} & sys.modules.keys()))"
    )
    arguments = ["extract", "--data", str(photographs), "--image-size", "64", "--cache", str(tmp_path / "cache")]
    completed = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True)
    assert "extracted 72 images" in completed.stdout
    assert "HEAVY []" in completed.stdout


def test_an_interrupted_extraction_keeps_what_it_has_done(tmp_path):
    folder = make_folder(tmp_path / "own", per_class=100)
    command = ["-m", "pipeline", "extract", "--data", folder, "--cache", tmp_path / "cache"]
    process = ready_processes.start(*command, "--extract-batch-size", "4")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cache").glob("*/spec.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    working = psutil.Process(process.pid)
    used = sum(working.cpu_times()[:2])
    while sum(working.cpu_times()[:2]) < used + 2.5 and time.monotonic() < deadline:  # on a busy machine, too
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    interrupted = process.finish()
    assert interrupted.returncode == 1
    assert re.search(r"[1-9]\d* rows of features are kept; the same command goes on", interrupted.stderr)
    assert "Traceback" not in interrupted.stderr
    second_output = ready_processes.run(*command, "--image-size", "224", check=True).stdout
    hits = int(re.search(r"(\d+) were in the cache already", second_output).group(1))
    assert 0 < hits < 300
