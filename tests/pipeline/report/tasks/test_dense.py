"""A page on a class for each pixel."""

import re

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.shown_masks import ShownMasks, places_to_show
from pipeline.report.what_next import next_commands
from pipeline.run_layout import SHOWN_MASKS
from stages.tasks.dense import Dense
from stages.tasks.dense_metrics import class_ious, pixel_counts
from tests.pipeline.finished_runs import HISTORY, add, key
from tests.pipeline.report.pages import report

NAMES = ["road", "sky", "<b>tree", "never"]
IMAGES = 14


def masks_of(number, noise):
    random = np.random.default_rng(number)
    true = np.repeat(random.integers(0, 3, (6, 8)), 8, axis=0).repeat(8, axis=1).astype(np.uint8)
    wrong = random.random(true.shape) < noise * number / IMAGES
    predicted = np.where(wrong, random.integers(0, 3, true.shape), true).astype(np.uint8)
    true[:4] = 255
    return true, predicted


def statistics_of(task, true, predicted):
    known = true != 255
    cells = np.bincount(true[known].astype(int) * task.out_features + predicted[known], minlength=task.out_features**2)
    return cells.reshape(task.out_features, task.out_features)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    task, random = Dense(NAMES), np.random.default_rng(0)
    locations = [str(folder / f"{number}.png") for number in range(IMAGES)]
    for location in locations[:-1]:  # the last photograph is gone
        Image.fromarray(random.integers(0, 256, (48, 64, 3)).astype(np.uint8)).save(location)
    for name, noise in (("linear", 0.4), ("lraspp", 0.2)):
        pairs = [masks_of(number, noise) for number in range(IMAGES)]
        statistics = np.stack([statistics_of(task, *pair) for pair in pairs])
        predicted = Predictions(task, [key(number) for number in range(IMAGES)], locations, statistics)
        directory = add(folder / "run", predicted, method="head", name=name, history=HISTORY, val=0.8 - noise)
        places = places_to_show(statistics)
        true, answers = zip(*(pairs[place] for place in places), strict=True)
        ShownMasks.of(predicted.keys[places], answers, true).save(directory / SHOWN_MASKS)
    return folder / "run", statistics


def test_the_page_has_each_class_the_confusion_of_pixels_and_masks_to_look_at(run):
    folder, statistics = run
    page = report(folder)
    counts = pixel_counts(statistics.sum(axis=0))
    ious = class_ious(counts)
    assert "4 classes, one for each pixel" in page.words
    assert "In no test image is never" in page.words
    for name, iou in zip(NAMES[:3], ious[:3], strict=True):
        low, high = map(float, re.search(rf"{name}.*?{100 * iou:.1f}\s*(\d+\.\d) – (\d+\.\d)", page.words).groups())
        assert low <= 100 * iou <= high
        assert high - low < 20
    assert f"{100 * counts[0].max() / counts[0].sum():.1f} % of them" in page.words.replace("\N{NO-BREAK SPACE}", " ")
    pictures = [image for image in page.all("img") if image["src"].startswith("data:image/")]
    assert len(pictures) == 12 * 4 - 1
    assert "The image cannot be read any more" in page.words
    scores = [float(score) for score in re.findall(r"mIoU (\d+\.\d) %,", page.words.replace("\N{NO-BREAK SPACE}", " "))]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 12


def test_no_learning_curve_is_offered_which_there_is_none_of_for_masks(run):
    (run[0] / "config.toml").touch()
    commands = [command.split()[1] for _, command in next_commands(compare_runs([run[0]]), run[0], {"data": "streets"})]
    assert commands == ["predict", "evaluate", "export", "inspect"]


def test_a_run_without_masks_to_look_at_has_the_numbers(run, tmp_path):
    folder, _ = run
    for path in folder.rglob(SHOWN_MASKS):
        path.rename(tmp_path / path.parent.name)
    page = report(folder)
    assert "Class by class" in page.words
    assert "Masks to look at" not in page.words
    for path in tmp_path.iterdir():
        path.rename(next(folder.rglob(path.name)) / SHOWN_MASKS)
