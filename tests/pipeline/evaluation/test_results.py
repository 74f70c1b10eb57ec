import csv
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.errors import DataError, UsageError
from pipeline.evaluation.results import (
    Result,
    evaluate_test,
    load_results,
    require_same_test_images,
    run_of,
    write_predictions_csv,
    write_results_json,
)
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from tests.pipeline.finished_runs import HISTORY, SELECTION, add, key, of_task, predictions, result

LABELS = [0, 0, 1, 1, 0, 1]
WRONG = [0, 0, 0, 0, 0, 1]

CONTRACT = {
    "version", "task", "method", "name", "seed", "samples", "val", "test", "seconds", "seconds_by_stage", "cpu_seconds",
    "peak_memory_bytes", "trainable_parameters", "backbone_forwards", "extraction_forwards", "backbone", "weights",
    "cut", "pool", "image_size", "settings", "options", "history", "selection", "cv",
    "marginal_seconds", "prediction_seconds_per_image", "provenance",
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    add(tmp_path / "run", predictions(LABELS, WRONG), history=HISTORY, selection=SELECTION)
    return tmp_path / "run"


def test_a_result_comes_back_as_it_was_saved(run):
    saved = predictions(LABELS, WRONG)
    expected = result(saved, history=HISTORY, selection=SELECTION)
    (loaded,) = load_results([run])
    assert loaded == expected
    assert run_of(loaded) == run
    for name, given_ in saved.arrays().items():
        stored = loaded.predictions.arrays()[name]
        assert stored.dtype == given_.dtype
        np.testing.assert_array_equal(stored, given_)


def test_files_keep_the_contract(run):
    directory = run / "seed-0" / "linear-logistic"
    stored = json.loads((directory / "result.json").read_text())
    assert set(stored) == CONTRACT
    assert stored["version"] == 2
    assert stored["task"] == {"name": "single_label", "class_names": ["class 0", "class 1"]}
    metrics = {"accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "auc_macro", "log_loss", "qwk", "brier", "ece"}
    assert set(stored["test"]) == {*metrics, "ci95", "ci95_method", "confusion"}
    with np.load(directory / "predictions.npz", allow_pickle=False) as arrays:
        kinds = {name: (arrays[name].dtype, arrays[name].shape) for name in arrays.files}
    assert kinds.pop("locations")[0].kind == "U"
    assert kinds == {
        "keys": (np.dtype("S32"), (6,)),
        "target": (np.dtype(np.int64), (6,)),
        "probabilities": (np.dtype(np.float32), (6, 2)),
    }


def test_numbers_that_are_not_finite_are_stored_as_null(tmp_path):
    directory = add(tmp_path, predictions(LABELS, WRONG), history=[{**HISTORY[1], "val_loss": float("nan")}])
    text = (directory / "result.json").read_text()
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert Result.load(directory).history[0]["val_loss"] is None


def test_a_confusion_matrix_reads_as_one_and_names_stay_as_they_are(tmp_path):
    names = ["[ 1,  2 ]", 'say "[\n 3]"']
    directory = add(tmp_path, predictions(LABELS, WRONG), class_names=names)
    assert "[3, 0]" in (directory / "result.json").read_text()
    assert Result.load(directory).class_names == tuple(names)


def test_results_come_in_the_order_of_seed_and_method(tmp_path):
    for seed in (10, 2):
        for method, name in [("scratch", "all"), ("finetune", "top-3"), ("head", "mlp"), ("linear", "svm")]:
            add(tmp_path, predictions(LABELS, WRONG), method=method, name=name, seed=seed)
    order = [(result.seed, result.method) for result in load_results([tmp_path])]
    assert order == [(seed, method) for seed in (2, 10) for method in ("linear", "head", "finetune", "scratch")]


def test_names_of_a_later_version_are_passed_over(run):
    path = run / "seed-0" / "linear-logistic" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "green"}))
    assert load_results([run])[0].name == "logistic"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seconds": "long"}, "seconds"),
        ({"seed": True}, "seed"),
        ({"method": "magic"}, "method"),
        ({"test": {"accuracy": 1.0}}, "test"),
        ({"val": {}}, "val"),
        ({"val": {"accuracy": None}}, "val"),
        ({"history": {}}, "history"),
    ],
)
def test_a_result_with_something_wrong_in_it_is_refused_by_name(run, change, named):
    path = run / "seed-0" / "linear-logistic" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=rf"result\.json has no usable {named};"):
        load_results([run])


def test_a_part_of_a_run_is_no_run_and_the_run_is_named(run):
    (run / "seed-0" / "manifest.csv").write_text("path,label,split,key\n")
    with pytest.raises(UsageError, match=r"seed-0 is a part of the run .*: give that"):
        load_results([run / "seed-0"])


def test_a_missing_run_and_a_run_without_results_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a run"):
        load_results([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="no finished results"):
        load_results([tmp_path])


@pytest.mark.parametrize("name", ["result.json", "predictions.npz"])
def test_a_missing_file_is_named(run, name):
    (run / "seed-0" / "linear-logistic" / name).unlink()
    with pytest.raises(DataError, match=rf"linear-logistic.{name} is missing"):
        load_results([run])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000, b"null"])
def test_a_damaged_result_is_named(run, content):
    path = run / "seed-0" / "linear-logistic" / "result.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"result\.json is damaged"):
        load_results([run])


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_damaged_predictions_are_named_and_never_read_as_something_else(run, data):
    directory = run / "seed-0" / "linear-logistic"
    content = (directory / "predictions.npz").read_bytes()
    expected = predictions(LABELS, WRONG)
    damaged = bytearray(content)
    damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content) - 1)))
    try:
        (directory / "predictions.npz").write_bytes(bytes(damaged)[:cut])
        try:
            read = Result.load(directory).predictions
        except DataError as error:
            assert "predictions.npz" in str(error)  # noqa: PT017
        else:
            for name, whole_array in expected.arrays().items():
                np.testing.assert_array_equal(read.arrays()[name], whole_array)
    finally:
        (directory / "predictions.npz").write_bytes(content)


def test_predictions_of_another_training_are_refused(run, tmp_path):
    other = add(tmp_path / "other", predictions(LABELS, [1, 1, 1, 0, 0, 0]))
    (other / "predictions.npz").replace(run / "seed-0" / "linear-logistic" / "predictions.npz")
    with pytest.raises(DataError, match="does not belong to the result"):
        load_results([run])


def test_pickled_predictions_are_refused_unopened(run, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    trapped = np.empty(6, dtype=object)
    trapped[:] = [Trap() for _ in range(6)]
    path = run / "seed-0" / "linear-logistic" / "predictions.npz"
    np.savez(path, keys=trapped, locations=LABELS, target=LABELS, probabilities=np.eye(2)[LABELS])
    with pytest.raises(DataError, match="damaged"):
        load_results([run])
    assert not (tmp_path / "sprung").exists()


def test_results_on_the_same_images_are_accepted_in_any_order(tmp_path):
    order = [3, 1, 5, 0, 2, 4]
    add(tmp_path, predictions(LABELS, WRONG))
    add(tmp_path, predictions([LABELS[index] for index in order], WRONG, images=order), name="svm")
    require_same_test_images(load_results([tmp_path]))


def test_results_on_other_images_are_refused_and_the_images_named(tmp_path):
    add(tmp_path, predictions(LABELS, WRONG))
    add(tmp_path, predictions(LABELS, WRONG, images=[0, 1, 2, 3, 4, 77]), name="svm")
    with pytest.raises(DataError) as refusal:
        require_same_test_images(load_results([tmp_path]))
    message = str(refusal.value)
    for expected in ("seed 0", "linear-logistic", "linear-svm", key(5), "photos/5.png", key(77), "photos/77.png"):
        assert expected in message


def test_a_method_that_is_there_twice_is_refused_and_both_folders_are_named(run):
    (folder,) = (path for path in (run / "seed-0").iterdir() if path.is_dir())
    copy = shutil.copytree(folder, folder.with_name(f"{folder.name} copy"))
    with pytest.raises(DataError, match=f"{folder} and {copy} are the same method, with the same seed: move the one"):
        load_results([run])


def test_other_images_under_another_seed_are_no_reason_to_refuse(tmp_path):
    add(tmp_path, predictions(LABELS, WRONG), seed=0)
    add(tmp_path, predictions(LABELS, WRONG, images=range(10, 16)), seed=1)
    require_same_test_images(load_results([tmp_path]))


def test_the_same_images_with_other_labels_are_refused(tmp_path):
    add(tmp_path, predictions(LABELS, WRONG))
    add(tmp_path, predictions([1, *LABELS[1:]], WRONG), name="svm")
    with pytest.raises(DataError, match=r"photos/0\.png labelled class 1"):
        require_same_test_images(load_results([tmp_path]))


def test_other_classes_are_refused_whatever_the_seed(tmp_path):
    add(tmp_path, predictions(LABELS, WRONG), seed=0)
    add(tmp_path, predictions(LABELS, WRONG), seed=1, class_names=["cat", "dog"])
    with pytest.raises(DataError, match=r"different classes \(cat; dog, and class 0; class 1\)"):
        require_same_test_images(load_results([tmp_path]))


PRICES = Regression(("price",), (5.0,), (2.0,), log=True)
ORDERED = np.linspace(-1, 1, 6)[:, None]


@pytest.mark.parametrize(
    ("task", "activated", "targets"),
    [
        (MultiLabel(["car", "tree"], [0.25, 0.75]), [[0.9, 0.2], [0.3, 0.8], [0.1, 0.7]], [[1.0, 0], [np.nan, 1], [0, 0]]),
        (replace(PRICES, interval=(1.5,)), ORDERED + 0.25, ORDERED),
        (Regression(("grade",), (1.0,), (0.5,), levels=("poor", "fair", "good")), [[1.0], [2.0], [0.0]], [[0.0], [2.0], [-2.0]]),
    ],
    ids=("labels", "number", "levels"),
)  # fmt: skip
def test_a_result_of_any_task_comes_back_with_what_was_set_of_the_task(tmp_path, task, activated, targets):
    saved = of_task(task, np.float32(activated), np.asarray(targets))
    add(tmp_path, saved, val=0.5)
    (loaded,) = load_results([tmp_path])
    assert loaded.task == task
    assert set(loaded.test) - {"ci95", "ci95_method", "confusion"} == set(task.metrics)
    for field in saved.statistics.dtype.names:
        np.testing.assert_array_equal(loaded.predictions.statistics[field], saved.statistics[field])
    table = write_predictions_csv(tmp_path, [loaded]).read_text().splitlines()
    assert table[0] == "seed,method,name,key,path," + ",".join(task.columns)
    assert len(table) == len(saved) + 1


def test_thresholds_intervals_and_scales_make_no_other_task(tmp_path):
    labels = MultiLabel(["car", "tree"])
    for number, task in enumerate([labels, MultiLabel(["car", "tree"], [0.1, 0.9])]):
        add(
            tmp_path / "labels",
            of_task(task, np.float32([[0.9, 0.2], [0.3, 0.8]]), [[1.0, 0], [0, 1]]),
            name=str(number),
        )
    require_same_test_images(load_results([tmp_path / "labels"]))
    for seed, task in enumerate([PRICES, replace(PRICES, mean=(4.0,), scale=(1.0,), interval=(0.5,))]):
        add(tmp_path / "prices", of_task(task, ORDERED, ORDERED), seed=seed)
    require_same_test_images(load_results([tmp_path / "prices"]))
    add(tmp_path / "prices", of_task(replace(PRICES, log=False), ORDERED, ORDERED), seed=2)
    with pytest.raises(DataError, match=r"different settings of regression \(log False and True\)"):
        require_same_test_images(load_results([tmp_path / "prices"]))


def test_results_json_holds_every_result_and_what_is_needed_to_repeat_it(run):
    (run / "seed-0" / "extraction.json").write_text('{"seconds": 3.5}')
    results = load_results([run])
    path = write_results_json(
        run,
        results,
        verdict="It pays.",
        comparisons=[{"p_value": 0.03}],
        configuration={"data": {"data": "elpv"}},
        environment={"torch": "2.6"},
    )
    stored = json.loads(path.read_text())
    assert path == run / "results.json"
    assert stored["verdict"] == "It pays."
    assert stored["comparisons"] == [{"p_value": 0.03}]
    assert stored["configuration"] == {"data": {"data": "elpv"}}
    assert stored["environment"] == {"torch": "2.6"}
    assert stored["extraction"] == [{"run": str(run), "seed": 0, "seconds": 3.5}]
    (result,) = stored["results"]
    assert set(result) == CONTRACT
    assert result["test"]["accuracy"] == pytest.approx(5 / 6)


def test_predictions_csv_has_a_row_for_each_image_method_and_seed(tmp_path):
    locations = ["a,b.png", 'say "x".png', "line\nbreak.png", "=1+1.png", "日本.png", os.fsdecode(b"\xff.png")]
    for seed in (0, 1):
        for name in ("logistic", "svm"):
            made = predictions(LABELS, WRONG, locations=locations)
            add(tmp_path, made, name=name, seed=seed, class_names=["<good>", "bad, very"])
    path = write_predictions_csv(tmp_path, load_results([tmp_path]))
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 6
    last = rows[-1]
    assert last == {
        "seed": "1", "method": "linear", "name": "svm", "key": key(5), "path": locations[5], "label": "bad, very",
        "predicted": "<good>", "probability_<good>": "0.9", "probability_bad, very": "0.1",
    }  # fmt: skip
    assert [row["path"] for row in rows[:6]] == locations


def test_predictions_csv_of_several_runs_says_which_run(tmp_path):
    for run in ("a", "b"):
        add(tmp_path / run, predictions(LABELS, WRONG))
    path = write_predictions_csv(tmp_path, load_results([tmp_path / "a", tmp_path / "b"]))
    with path.open(newline="", encoding="utf-8") as file:
        assert {row["run"] for row in csv.DictReader(file)} == {str(tmp_path / "a"), str(tmp_path / "b")}


def test_a_result_saved_again_replaces_the_former_whole(run):
    better = predictions(LABELS, [0] * 6)
    directory = add(run, better)
    assert Result.load(directory).predictions.correct.all()
    assert sorted(path.name for path in directory.iterdir()) == ["predictions.npz", "result.json"]


def test_predictions_for_other_classes_than_those_of_the_result_are_refused(run, tmp_path):
    other = add(tmp_path / "other", predictions(LABELS, WRONG, classes=3))
    (other / "predictions.npz").replace(run / "seed-0" / "linear-logistic" / "predictions.npz")
    with pytest.raises(DataError, match="not predictions of the task single_label"):
        load_results([run])


def test_the_statistics_in_a_file_give_every_number_of_the_result(run):
    stored = load_results([run])[0]
    assert evaluate_test(stored.task, stored.predictions.statistics, stored.seed) == stored.test


def test_a_result_of_version_1_is_read_by_the_names_of_today(run):
    directory = run / "seed-0" / "linear-logistic"
    now = Result.load(directory)
    stored = json.loads((directory / "result.json").read_text())
    names = {"f1_macro": "macro_f1", "auc_macro": "auc", "ci95": "accuracy_ci95"}
    kept = {"accuracy", "log_loss", "confusion", *names}
    old_test = {names.get(name, name): value for name, value in stored["test"].items() if name in kept}
    old = {name: value for name, value in stored.items() if name not in ("version", "task")}
    old |= {"test": old_test, "class_names": ["class 0", "class 1"]}
    (directory / "result.json").write_text(json.dumps(old))
    statistics = now.predictions.statistics
    np.savez(
        directory / "predictions.npz",
        keys=now.predictions.keys,
        locations=now.predictions.locations,
        labels=statistics["target"],
        probabilities=statistics["probabilities"],
    )
    read = load_results([run])[0]
    assert read.test == {name: value for name, value in now.test.items() if name in kept}
    assert replace(read, test=now.test) == now
    for name in now.task.metrics:  # those it did not have follow from its predictions
        assert read.score(name) == now.score(name)


@pytest.mark.parametrize(
    ("task", "words"), [({"name": "singel_label"}, ": .*Did you mean"), ({}, ": .*no task"), (3, "; train")]
)
def test_a_result_of_an_unknown_task_is_refused_by_name(run, task, words):
    path = run / "seed-0" / "linear-logistic" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "task": task}))
    with pytest.raises(DataError, match=rf"result\.json has no usable task{words}"):
        load_results([run])


def test_a_result_that_was_not_loaded_has_no_run():
    with pytest.raises(ValueError, match="only a loaded result"):
        run_of(replace(result(predictions(LABELS, WRONG)), directory=None))
