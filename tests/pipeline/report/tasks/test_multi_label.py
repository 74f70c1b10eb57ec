import re

import numpy as np
import pytest
from PIL import Image

from stages.data.manifest import Manifest
from stages.data.sample import ImageRef
from stages.tasks import intervals, paired
from stages.tasks.multi_label import MultiLabel
from tests.pipeline.finished_runs import add, of_task
from tests.pipeline.report.pages import HOSTILE, report

NAMES = ["car", "tree", "moon"]
TARGETS = np.float32([[1, 0, 0], [1, 1, 0], [0, 1, 0], [np.nan, 0, 0]])
SURE = np.float32([[0.9, 0.95, 0.1], [0.8, 0.7, 0.2], [0.1, 0.6, 0.3], [0.99, 0.2, 0.1]])


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    for draw in (intervals.interval, paired.compare):
        monkeypatch.setitem(draw.__kwdefaults__, "resamples", 20)


def test_each_label_has_its_row_and_what_is_not_defined_is_said(tmp_path):
    task = MultiLabel(NAMES, [0.5, 0.65, 0.5])
    add(tmp_path, of_task(task, SURE, TARGETS))
    targets = np.float32([[1, 1, 0], [1, 0, 0], [0, 1, 1]])
    Manifest(list("abc"), targets, ["train", "train", "val"], list("abc"), task).save(tmp_path / "seed-0/manifest.csv")
    words = report(tmp_path, drawn="").words
    assert "3 labels; 100 images to train on" in words
    assert "An order by chance would have a mAP of 58.3 %." in words  # 2 of 3 known have car, 2 of 4 tree
    # train, val, test, not known; AP, AUC, F1, precision, recall, threshold
    assert "car 2 0 2 1 100.0 1.000 1.000 100.0 100.0 0.500" in words
    assert "tree 1 1 2 0 58.3 0.500 0.500 50.0 50.0 0.650" in words
    assert "moon 0 1 0 0 – – – – – 0.500" in words
    assert "No test image has moon: there is no average precision of it" in words
    assert "No training image has moon: it could not be learned." in words
    assert (tmp_path / "figures" / "average-precision.png").exists()


def test_without_the_samples_of_the_run_the_test_split_is_told_alone(tmp_path):
    add(tmp_path, of_task(MultiLabel(NAMES), SURE, TARGETS))
    words = report(tmp_path).words
    assert "car 2 1 100.0" in words
    assert "could not be learned" not in words


def test_what_occurs_together_is_counted_of_what_is_true(tmp_path):
    add(tmp_path, of_task(MultiLabel(NAMES), SURE, TARGETS))
    words = report(tmp_path).words
    assert "True beside true car tree moon car 100 %2 50 %1 0 tree 50 %1 100 %2 0 moon 0 0 0" in words
    assert "Predicted beside true car tree moon car 100 %2 100 %2 0 tree 50 %1 100 %2 0 moon 0 0 0" in words


def test_the_surest_wrong_label_of_an_image_is_shown_and_what_others_say_of_it(tmp_path):
    add(tmp_path, of_task(MultiLabel(NAMES), SURE, TARGETS), val=0.9)  # tree of the first image is wrong
    right = np.nan_to_num(TARGETS) * 0.8 + 0.1
    add(tmp_path, of_task(MultiLabel(NAMES), right, TARGETS), name="svm", val=0.5)
    page = report(tmp_path)
    assert "Of the 1 wrong labels of logistic" in page.words
    assert "tree is predicted, 95.0 % labelled car 0 of 1 others wrong too 0.png" in page.words


def test_more_labels_than_a_table_has_room_for_are_a_picture_and_their_names_stay_text(tmp_path):
    names = [name for name in HOSTILE if "|" not in name] + [f"tag {number}" for number in range(12)]
    random = np.random.default_rng(0)
    targets = (random.random((30, len(names))) < 0.3).astype(np.float32)
    add(tmp_path, of_task(MultiLabel(names), random.random(targets.shape).astype(np.float32), targets))
    page = report(tmp_path, drawn="")
    assert len(page.all("image")) == 2
    assert not page.foreign_scripts
    assert len(re.findall(r"tag 1\b", page.words)) >= 2


def test_every_image_of_a_sample_is_shown(tmp_path):
    places = [str(tmp_path / f"{number}.png") for number in range(3)]
    for place in places:
        Image.new("RGB", (20, 20)).save(place)
    task, made = MultiLabel(NAMES), of_task(MultiLabel(NAMES), SURE, TARGETS)
    images = [(ImageRef(places[0], "a"), None, *(ImageRef(place, place) for place in places[1:]))] * 4
    keys = [key.decode() for key in made.keys]
    samples = Manifest(["gone.png"] * 4, TARGETS, ["test"] * 4, keys, task, images=images)
    add(tmp_path / "run", made)
    samples.save(tmp_path / "run/seed-0/manifest.csv")
    assert [image["alt"] for image in report(tmp_path / "run").all("img")] == [
        f"photos/0.png, image {number}" for number in (1, 2, 3)
    ]
