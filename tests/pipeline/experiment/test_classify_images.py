import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cache.errors import DataError, UsageError
from pipeline.evaluation.comparison import compare_runs
from pipeline.experiment.classify_images import Prediction, choose_model, find_images, predict_images, write_csv
from pipeline.experiment.compare_runs import write_comparison

FIXTURE = Path(__file__).parent / "fixtures" / "version_1"


@pytest.fixture
def photos(tmp_path) -> Path:
    shutil.copytree(FIXTURE / "photos", tmp_path / "photos")
    return tmp_path / "photos"


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_images_of_folders_come_by_name_and_files_as_they_are_given(photos):
    (photos / "notes.txt").touch()
    images = sorted(path for path in photos.rglob("*") if path.is_file() and path.suffix != ".txt")
    (photos / "._hidden.png").touch()
    assert find_images([photos]) == [(str(image), {}) for image in images]
    assert find_images([photos / "notes.txt", images[3]]) == [(str(photos / "notes.txt"), {}), (str(images[3]), {})]
    for nothing in ([], [photos / "gone.png"]):
        with pytest.raises(UsageError, match=r"no image to classify|there is no such image or folder"):
            find_images(nothing)


def test_a_table_lists_images_and_its_columns_come_back_after_the_predictions(photos, tmp_path):
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


@pytest.fixture
def run(tmp_path) -> Path:
    shutil.copytree(FIXTURE / "run", tmp_path / "run")
    return tmp_path / "run"


def test_the_method_that_the_page_says_to_take_is_taken(run, tmp_path):
    best, reason = choose_model(run, None, None)
    assert reason.startswith("the best by validation accuracy; `compare` says")  # nothing was compared yet
    comparison = compare_runs([run])
    other = next(row for row in comparison.rows if row.results[0].directory != best)
    said = replace(comparison, verdict=replace(comparison.verdict, chosen=other))
    write_comparison(said, [run], run)
    chosen = other.results[0].directory
    assert choose_model(run, None, None) == (chosen, f"which {run / 'report.html'} says to take")
    assert choose_model(run, best.name, None).directory == best
    shutil.move(run, tmp_path / "moved")
    assert choose_model(tmp_path / "moved", None, None).directory == tmp_path / "moved" / "seed-0" / chosen.name
    shutil.copytree(FIXTURE / "run", run)
    write_comparison(said, [run, tmp_path / "moved"], tmp_path / "moved")
    with pytest.raises(UsageError, match=rf"says to take {chosen.name} of {run}: give that run, or say by `method`"):
        choose_model(tmp_path / "moved", None, None)


def test_a_table_without_a_column_path_is_refused(photos):
    (photos / "table.csv").write_text("file\na.png\n")
    with pytest.raises(DataError, match="has no column path"):
        find_images([photos / "table.csv"])


def test_without_a_table_the_file_has_path_class_and_probabilities(tmp_path):
    write_csv(tmp_path / "classes.csv", [Prediction("x,1.png", "a", {"a": 0.75, "b": 0.25})])
    assert (tmp_path / "classes.csv").read_bytes() == (
        b'path,class,probability_a,probability_b\r\n"x,1.png",a,0.750000,0.250000\r\n'
    )
