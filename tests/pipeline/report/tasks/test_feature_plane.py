"""Test images as points: each where its features are, in the color and shape of its class, with words of its own."""

import re

import numpy as np
import pytest

from pipeline.evaluation.comparison import compare_runs
from pipeline.report.page_parts import Figures
from pipeline.report.tasks.feature_plane import (
    MOST_POINTS,
    SHAPES,
    plane_of_classes,
    plane_of_labels,
    plane_of_numbers,
    shape_of,
)
from pipeline.report.tasks.registry import PageContext
from stages.inspection.feature_map import FeatureMap
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from tests.pipeline.finished_runs import add, of_task, predictions
from tests.pipeline.report.pages import HOSTILE, DrawnEvidence


class Placed(DrawnEvidence):
    """Points that are given, by key."""

    def __init__(self, points=None):
        super().__init__([])
        self.points = points

    def feature_map(self, keys):
        self.asked = keys
        if self.points is None:
            return super().feature_map(keys)
        return FeatureMap("pca", np.array([self.points[key] for key in keys], np.float32), (0.6, 0.25))


def plane_of(tmp_path, made, evidence, names=None):
    add(tmp_path / "run", made, class_names=names)
    context = PageContext(compare_runs([tmp_path / "run"]), Figures(tmp_path / "figures"), {}, evidence)
    return plane_of_classes(context, names or context.comparison.class_names)


USE = re.compile(
    r'<use href="#shape-(\d)" x="(\d+)" y="(\d+)" data-k="(\d+)" class="s(\d)( wrong)?"><title>(.*?)</title>', re.DOTALL
)


def test_a_point_stands_where_its_features_are_and_says_what_it_is(tmp_path):
    made = predictions([0, 1, 1], [0, 1, 0])
    places = dict(zip([key.decode() for key in made.keys], [(0, 0), (4, 1), (2, 2)], strict=True))
    plane = plane_of(tmp_path, made, Placed(places))
    points = {words.rsplit(" ", 1)[-1]: found for *found, words in USE.findall(plane.svg)}
    assert points["0.png"] == ["0", "10", "450", "0", "0", ""]
    assert points["1.png"] == ["1", "710", "230", "1", "1", " wrong"]
    assert points["2.png"] == ["1", "360", "10", "1", "1", ""]
    assert "class 1 taken for class 0, 90 %: 1.png" in plane.svg
    assert (
        plane.words
        == "Features of resnet18 at layer4 as points, by their two principal components, with 60 % and 25 % of the variance."
    )
    assert (plane.drawn, plane.images, plane.mistakes) == (3, 3, 1)
    assert USE.findall(plane.svg)[-1][5] == " wrong"  # mistakes lie over the others


def test_up_to_64_classes_are_told_apart_by_color_and_shape():
    looks = [(number % 8, shape_of(number)) for number in range(64)]
    assert len(set(looks)) == 64
    assert len(SHAPES) == len(set(SHAPES)) == 8
    assert len({shape_of(number) for number in range(8)}) == 8


def test_of_very_many_images_some_are_drawn_spread_over_all(tmp_path):
    images = 2 * MOST_POINTS + 300
    evidence = Placed()
    plane = plane_of(tmp_path, predictions(np.arange(images) % 3, np.zeros(images), 3), evidence)
    assert (plane.drawn, plane.images) == (-(-images // 3), images)
    assert plane.svg.count("<use ") == plane.drawn <= MOST_POINTS
    assert evidence.asked == sorted(evidence.asked)


def test_names_from_the_data_become_no_markup(tmp_path):
    tests = 2 * len(HOSTILE)
    locations = [f"photos/{HOSTILE[n % len(HOSTILE)]}{n}.png" for n in range(tests)]
    made = predictions(np.arange(tests) % len(HOSTILE), np.arange(tests) % 3 == 0, len(HOSTILE), locations=locations)
    plane = plane_of(tmp_path, made, Placed(), list(HOSTILE))
    assert "<script" not in plane.svg
    assert "<img" not in plane.svg
    assert len(USE.findall(plane.svg)) == tests


@pytest.mark.parametrize("evidence", [None, Placed()])
def test_without_features_there_is_no_plane(tmp_path, evidence):
    if evidence is not None:
        evidence.feature_map = lambda keys: None
    assert plane_of(tmp_path, predictions([0, 1], [0, 0]), evidence) is None


LABELLED = [[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_of_several_labels_a_point_has_the_look_of_the_rarest_and_says_what_is_wrong(tmp_path):
    sure = np.float32([[0.9, 0.1, 0.1], [0.9, 0.9, 0.1], [0.1, 0.9, 0.8], [0.2, 0.1, 0.1], [0.1, 0.1, 0.1]])
    task = MultiLabel(["car", "tree", "moon"], [0.5] * 3)
    add(tmp_path / "run", of_task(task, sure, np.float32(LABELLED)))
    context = PageContext(compare_runs([tmp_path / "run"]), Figures(tmp_path / "figures"), {}, Placed())
    plane = plane_of_labels(context, ["car", "tree", "<moon>"])
    points = {words.rsplit(" ", 1)[-1]: (found, words) for *found, words in USE.findall(plane.svg)}
    looks = [(int(points[f"{n}.png"][0][3]), bool(points[f"{n}.png"][0][5])) for n in range(5)]
    assert looks == [(0, False), (1, False), (1, True), (0, True), (3, False)]
    assert points["1.png"][1].startswith("car, tree: ")
    assert points["2.png"][1].startswith("tree; wrong: &lt;moon&gt;: ")
    assert [one.name for one in plane.key] == ["car", "tree", "no label"]
    assert (plane.drawn, plane.mistakes) == (5, 2)
    assert plane.colors == "Color and shape are the rarest label that a test image has"


def test_of_numbers_the_color_grows_with_the_number_and_the_largest_errors_have_an_outline(tmp_path):
    scaled = np.linspace(-1.0, 1.0, 9)[:, None]
    scaled[4] = np.nan
    task = Regression(("age",), (40.0,), (10.0,), interval=(0.5,))
    add(tmp_path / "run", of_task(task, np.linspace(-1.0, 1.0, 9)[:, None], scaled))
    context = PageContext(compare_runs([tmp_path / "run"]), Figures(tmp_path / "figures"), {}, Placed())
    true = context.predictions.statistics["target"][:, 0].astype(np.float64)
    plane = plane_of_numbers(context, "age", true, np.array([8]), log=False)
    steps = {
        int(words.rsplit(" ", 1)[-1].removesuffix(".png")): (int(step), bool(outlined), words)
        for step, outlined, words in re.findall(r'class="q(\d)( wrong)?"><title>(.*?)</title>', plane.svg)
    }
    assert 4 not in steps  # of which the number is not known
    assert [steps[number][0] for number in sorted(steps)] == sorted(step for step, _, _ in steps.values())
    assert (steps[0][0], steps[8][0], steps[8][1]) == (0, 6, True)
    assert steps[0][2].startswith("age 30: ")
    assert plane.key[0].name == "30 to 32.86"
    assert plane.key[-1].name.endswith(" to 50")
    assert (plane.drawn, plane.images, plane.mistakes) == (8, 9, 1)
