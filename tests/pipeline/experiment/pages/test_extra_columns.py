import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli.app import main
from pipeline.evaluation.results import load_results, write_predictions_csv
from pipeline.experiment.pages.extra_columns import extra_columns
from stages.data.manifest import Manifest
from stages.tasks.single_label import SingleLabel
from tests.pipeline.finished_runs import add, key, predictions

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version_1"
LABELS, WRONG = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0])


def save_manifest(run: Path, images=(9, 0, 1, 2, 3), locations=None, seed=0, **extra: list[str]) -> Manifest:
    """Save a manifest whose first image is of the training split; the others are those of the predictions."""
    manifest = Manifest(
        [f"photos/{image}.png" for image in images] if locations is None else locations,
        np.array([0, *LABELS])[: len(images)],
        ["train", *["test"] * (len(images) - 1)],
        [key(image) for image in images],
        SingleLabel(["class 0", "class 1"]),
        extra=extra,
    )
    manifest.save(run / f"seed-{seed}" / "manifest.csv")
    return manifest


@pytest.fixture
def run(tmp_path):
    for name in ("logistic", "svm"):
        add(tmp_path / "run", predictions(LABELS, WRONG), name=name)
    return tmp_path / "run"


def table_of(run: Path) -> list[dict[str, str]]:
    results = load_results([run])
    path = write_predictions_csv(run, results, extra_columns(results))
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_columns_of_the_manifest_come_last_in_the_predictions_of_every_method(run):
    save_manifest(run, age=["60", "10", "20", "30", "40"], site=["x", "a,1", "b\n2", "c", ""])
    rows = table_of(run)
    assert list(rows[0])[-4:] == ["probability_class 0", "probability_class 1", "age", "site"]
    assert [row["age"] for row in rows] == ["10", "20", "30", "40"] * 2
    assert [row["site"] for row in rows] == ["a,1", "b\n2", "c", ""] * 2


def test_where_outer_folds_test_each_sample_all_of_them_have_their_columns(run):
    manifest = save_manifest(run, images=(0, 1, 2, 3), age=["10", "20", "30", "40"])
    replace(manifest, splits=["train", "val", "train", "train"]).save(run / "seed-0" / "manifest.csv")
    assert [row["age"] for row in table_of(run)] == ["10", "20", "30", "40"] * 2


def test_without_such_columns_the_file_is_what_it_was_and_no_manifest_is_read(run, monkeypatch):
    before = write_predictions_csv(run, load_results([run])).read_bytes()
    table_of(run)
    assert (run / "predictions.csv").read_bytes() == before
    save_manifest(run)
    monkeypatch.setattr(Manifest, "load", lambda path: pytest.fail(f"{path} is read"))
    table_of(run)
    assert (run / "predictions.csv").read_bytes() == before


def test_columns_go_by_the_image_and_not_by_the_order_of_the_manifest(run):
    save_manifest(run, images=(9, 3, 1, 0, 2), locations=[f"moved/{name}" for name in "abcde"], age=list("93102"))
    assert [row["age"] for row in table_of(run)] == list("0123") * 2


def test_an_image_that_is_not_in_the_manifest_has_nothing_there(run):
    save_manifest(run, images=(9, 0, 2), age=list("902"))
    assert [row["age"] for row in table_of(run)] == ["0", "", "2", ""] * 2


def test_copies_of_an_image_have_what_is_said_of_each(tmp_path):
    locations = ["first.png", "second.png", "third.png", "third.png"]
    add(tmp_path, predictions(LABELS, WRONG, images=[0, 0, 0, 0], locations=locations))
    save_manifest(
        tmp_path, images=(9, 0, 0, 0, 0), locations=["x", "third.png", "third.png", "second.png", "first.png"],
        age=["60", "3", "4", "2", "1"],
    )  # fmt: skip
    assert [row["age"] for row in table_of(tmp_path)] == ["1", "2", "3", "4"]


def test_seeds_and_runs_with_other_columns_share_a_table(tmp_path):
    for name, seed in (("a", 0), ("a", 1), ("b", 0)):
        add(tmp_path / name, predictions(LABELS, WRONG), seed=seed)
    save_manifest(tmp_path / "a", age=list("90123"))
    save_manifest(tmp_path / "b", site=list("xabcd"), age=list("94567"))
    results = load_results([tmp_path / "a", tmp_path / "b"])
    path = write_predictions_csv(tmp_path, results, extra_columns(results))
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cells = {(Path(row["run"]).name, row["seed"]): (row["age"], row["site"]) for row in rows}
    assert cells == {("a", "0"): ("3", ""), ("a", "1"): ("", ""), ("b", "0"): ("7", "d")}


def test_a_column_that_is_called_as_another_keeps_its_values_under_a_name_of_its_own(run):
    save_manifest(run, name=list("90123"), extra_name=list("vwxyz"), predicted=["?"] * 5)
    rows = table_of(run)
    assert {row["name"] for row in rows} == {"logistic", "svm"}
    assert [row["extra_name"] for row in rows[:4]] == list("0123")
    assert [row["extra_extra_name"] for row in rows[:4]] == list("wxyz")
    assert {row["extra_predicted"] for row in rows} == {"?"}


def test_a_run_whose_manifest_is_gone_is_compared_without_its_columns(run):
    save_manifest(run, age=list("90123"))
    (run / "seed-0" / "manifest.csv").unlink()
    assert "age" not in table_of(run)[0]


def test_a_column_that_is_added_to_the_manifest_later_is_in_the_tables_of_a_comparison(tmp_path):
    shutil.copytree(FIXTURE / "run", tmp_path / "run")
    path = tmp_path / "run" / "seed-0" / "manifest.csv"
    manifest = Manifest.load(path)
    replace(manifest, extra={"file": [Path(location).name for location in manifest.locations]}).save(path)
    assert main(["compare", str(tmp_path / "run"), "--out", str(tmp_path / "again")]) == 0
    with (tmp_path / "again" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 0
    assert all(row["file"] == Path(row["path"]).name for row in rows)
