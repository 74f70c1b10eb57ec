import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cache.errors import DataError, UsageError
from pipeline.evaluation.comparison import compare_runs
from pipeline.experiment.compare_runs import publish, write_comparison
from pipeline.experiment.models.model_card import read_recipe
from pipeline.experiment.prediction.classify_images import (
    choose_model,
    find_images,
    predict_images,
    require_other_file,
    write_csv,
)
from pipeline.experiment.prediction.prediction import Prediction
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from stages.tasks.single_label import SingleLabel

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version_1"


@pytest.fixture
def photos(tmp_path) -> Path:
    shutil.copytree(FIXTURE / "photos", tmp_path / "photos")
    return tmp_path / "photos"


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_images_of_folders_come_by_name_and_files_as_they_are_given(photos):
    (photos / "notes.dat").touch()
    images = sorted(path for path in photos.rglob("*") if path.is_file() and path.suffix != ".dat")
    (photos / "._hidden.png").touch()
    assert find_images([photos]) == [(str(image), {}) for image in images]
    assert find_images([photos / "notes.dat", images[3]]) == [(str(photos / "notes.dat"), {}), (str(images[3]), {})]
    for nothing in ([], [photos / "gone.png"]):
        with pytest.raises(UsageError, match=r"no image to classify|there is no such image or folder"):
            find_images(nothing)


def test_a_table_lists_images_and_its_columns_come_back_after_the_predictions(photos, tmp_path, caplog):
    caplog.set_level("INFO", "cutonce")
    images = sorted(path for path in photos.rglob("*") if path.is_file())
    (photos / "broken.png").write_text("no image")
    listed = [images[7], photos / "broken.png", images[2]]
    rows = [f'{image.relative_to(photos)},"site, {number}",{number}' for number, image in enumerate(listed)]
    (photos / "table.CSV").write_text("\n".join(["path,site,class", *rows]) + "\n")
    model = choose_model(FIXTURE / "run", "linear-ridge", None).directory
    classified, unreadable = predict_images(model, [photos / "table.CSV", images[0]])
    assert [location for location, _ in unreadable] == [str(photos / "broken.png")]
    write_csv(tmp_path / "predictions.csv", classified)
    first, second, last = rows_of(tmp_path / "predictions.csv")
    assert list(first)[:3] == ["path", "class", "probability_blue"]
    assert list(first)[-2:] == ["site", "extra_class"]
    assert [(row["path"], row["site"], row["extra_class"]) for row in (first, second, last)] == [
        (str(images[7]), "site, 0", "0"),
        (str(images[2]), "site, 2", "2"),
        (str(images[0]), "", ""),
    ]
    assert {row["class"] for row in (first, second, last)} <= {"blue", "green", "red"}
    assert "unlike" not in first  # a model of the first version has nothing to compare images with
    assert "none is marked as unlike the training images. Train it again" in caplog.text


def test_images_unlike_the_training_images_are_marked_before_the_columns_of_the_table(tmp_path):
    of_table = {"unlike": "of the table"}
    alike, unlike = (
        replace(prediction_of(SingleLabel(["a", "b"]), [0.75, 0.25]), unlike=score, extra=of_table)
        for score in (1.0, 1.234)
    )
    write_csv(tmp_path / "table.csv", [alike, unlike])
    columns = "path,class,probability_a,probability_b,unlike,unlike_score,extra_unlike"
    lines = [f"a.png,a,0.750000,0.250000,{cells},of the table" for cells in ("no,1.000", "yes,1.234")]
    assert (tmp_path / "table.csv").read_text().splitlines() == [columns, *lines]


@pytest.fixture
def run(tmp_path) -> Path:
    shutil.copytree(FIXTURE / "run", tmp_path / "run")
    return tmp_path / "run"


def test_a_card_of_the_first_version_is_one_of_one_class_a_sample(run):
    card = read_recipe(run / "seed-0" / "linear-ridge")
    assert card.task == {"name": "single_label", "class_names": ["blue", "green", "red"]}


def test_where_what_the_page_says_is_damaged_compare_makes_it_anew_as_advised(run):
    publish([run], run)
    choice = choose_model(run, None, None)
    (run / "results.json").write_text("{")
    with pytest.raises(DataError, match=rf"results\.json is damaged .*; `compare` {run} makes it anew"):
        choose_model(run, None, None)
    publish([run], run)
    assert choose_model(run, None, None) == choice


def test_the_method_that_the_page_says_to_take_is_taken(run, tmp_path):
    best, reason = choose_model(run, None, None)
    assert reason.startswith("the one to take by validation accuracy; `compare` says")  # nothing was compared yet
    comparison = compare_runs([run])
    other = next(row for row in comparison.rows if row.results[0].directory != best)
    said = replace(comparison, verdict=replace(comparison.verdict, chosen=other))
    write_comparison(said, [run], run)
    chosen = other.results[0].directory
    assert choose_model(run, None, None) == (chosen, f"which {run / 'report.html'} says to take")
    (run / "report.html").unlink()
    assert choose_model(run, None, None) == (chosen, f"which {run / 'results.json'} says to take")
    assert choose_model(run, best.name, None).directory == best
    shutil.move(run, tmp_path / "moved")
    assert choose_model(tmp_path / "moved", None, None).directory == tmp_path / "moved" / "seed-0" / chosen.name
    shutil.copytree(FIXTURE / "run", run)
    write_comparison(said, [run, tmp_path / "moved"], tmp_path / "moved")
    with pytest.raises(
        UsageError, match=rf"says to take {chosen.name} of {run}: give that run, or say by `method`"
    ) as refused:
        choose_model(tmp_path / "moved", None, None)
    assert f"`compare` {tmp_path / 'moved'} makes its own page anew" in str(refused.value)


def test_predictions_do_not_take_the_place_of_what_they_are_of(tmp_path):
    table = tmp_path / "new.csv"
    table.write_text("path,price\n")
    (tmp_path / "link.csv").symlink_to(table)
    for out in (table, tmp_path / "link.csv"):
        with pytest.raises(UsageError, match="is one of the files that are asked about, which it would replace"):
            require_other_file(out, [tmp_path / "gone.jpg", table])
    with pytest.raises(UsageError, match=r"is a folder: name the CSV file, as .*predictions\.csv"):
        require_other_file(tmp_path, [table])
    require_other_file(tmp_path / "predictions.csv", [table, Path("-")])
    require_other_file(None, [table])


def test_a_table_without_a_column_path_is_refused(photos):
    (photos / "table.csv").write_text("file\na.png\n")
    with pytest.raises(DataError, match="has no column path"):
        find_images([photos / "table.csv"])


def prediction_of(task, activated, location="a.png"):
    row = torch.tensor(activated)
    cells = dict(zip(task.predicted_columns, task.predicted_cells(row), strict=True))
    return Prediction(location, task.predicted_words(row), cells, row.numpy())


PRICES = Regression(("price",), (math.log(100),), (0.5,), log=True)


@pytest.mark.parametrize(
    ("task", "activated", "table", "words"),
    [
        (SingleLabel(["a", "b"]), [0.25, 0.75], "class,probability_a,probability_b\r\na.png,b,0.250000,0.750000", "b  0.750"),
        (
            MultiLabel(["car", "dog", "tree"], [0.5, 0.1, 0.9]),
            [0.75, 0.25, 0.5],
            "labels,probability_car,probability_dog,probability_tree\r\na.png,car|dog,0.750000,0.250000,0.500000",
            "car 0.750, dog 0.250",
        ),
        (MultiLabel(["car", "dog"]), [0.25, 0.25], "labels,probability_car,probability_dog\r\na.png,,0.250000,0.250000", "no label"),
        (PRICES, [0.0], "predicted\r\na.png,100", "100"),
        (replace(PRICES, interval=(2 * math.log(2),)), [0.0], "predicted,low,high\r\na.png,100,50,200", "100  (50 to 200)"),
        (
            Regression(("x", "y"), (0.0, 10.0), (2.0, 1.0), interval=(1.0, 0.5)),
            [1.0, -1.0],
            "predicted_x,predicted_y,low_x,low_y,high_x,high_y\r\na.png,2,9,0,8.5,4,9.5",
            "x 2  (0 to 4), y 9  (8.5 to 9.5)",
        ),
        (Regression(("grade",), levels=("poor", "fair", "good"), interval=(0.75,)), [1.25], "predicted,low,high\r\na.png,fair,0.5,2", "fair  (fair to good)"),
    ],
)  # fmt: skip
def test_the_task_says_what_is_written_of_a_prediction_and_what_is_printed(tmp_path, task, activated, table, words):
    prediction = prediction_of(task, activated)
    assert prediction.words == words
    write_csv(tmp_path / "table.csv", [prediction])
    assert (tmp_path / "table.csv").read_bytes() == f"path,{table}\r\n".encode()


def test_without_a_table_the_file_has_path_class_and_probabilities(tmp_path):
    write_csv(tmp_path / "classes.csv", [prediction_of(SingleLabel(["a", "b"]), [0.75, 0.25], "x,1.png")])
    assert (tmp_path / "classes.csv").read_bytes() == (
        b'path,class,probability_a,probability_b\r\n"x,1.png",a,0.750000,0.250000\r\n'
    )
