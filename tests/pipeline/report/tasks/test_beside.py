"""Beside wrong labels and large errors stand the nearest training images and what speaks for them, or a word why not."""

import numpy as np
import pytest
from PIL import Image

from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from tests.pipeline.finished_runs import add, of_task
from tests.pipeline.report.pages import DrawnEvidence, report

LABELS = MultiLabel(["car", "tree"], [0.5, 0.5])
AGE = Regression(("age",), (40.0,), (10.0,), interval=(0.5,))
MADE = {
    "labels": (LABELS, np.float32([[0.9, 0.9], [0.1, 0.8], [0.2, 0.1]]), np.float32([[1, 0], [0, 1], [1, 0]]), 2),
    "numbers": (AGE, np.array([[0.1], [0.9], [2.9]]), np.array([[0.0], [1.0], [2.0]]), 3),
}
SPEAKS = {"labels": {"What speaks for tree", "What speaks for car"}, "numbers": {"What speaks for a higher age"}}


class Asked(DrawnEvidence):
    """Keeps which outputs were to be explained."""

    def heat_maps(self, keys, locations, classes):
        self.classes = list(classes)
        return super().heat_maps(keys, locations, classes)


@pytest.mark.parametrize("kind", MADE)
def test_nearest_images_and_heat_stand_beside(tmp_path, kind):
    task, outputs, targets, shown = MADE[kind]
    add(tmp_path / "run", of_task(task, outputs, targets))
    training = [str(tmp_path / f"{number}-near.png") for number in range(2)]
    for path in training:
        Image.new("RGB", (40, 30), (200, 0, 0)).save(path)
    evidence = Asked(training, names=("<b>near",))
    page = report(tmp_path / "run", evidence=evidence)
    alts = [element.get("alt") for element in page.all("img")]
    assert alts.count(training[0]) == alts.count(training[1]) == shown
    assert {alt for alt in alts if alt.startswith("What speaks for")} == SPEAKS[kind]
    assert sorted(evidence.classes) == ([0, 1] if kind == "labels" else [0, 0, 0])
    assert "nearest in training: <b>near, 0.90" in page.words
    assert "The features in a plane" in page.words
    assert page.words.count("The nearest training images are those by the cosine") == 1


def test_what_speaks_least_against_a_prediction_is_not_said_to_speak_for_it(tmp_path):
    task, outputs, targets, _ = MADE["numbers"]
    add(tmp_path / "run", of_task(task, outputs, targets))
    page = report(tmp_path / "run", evidence=DrawnEvidence([], against=(1,)))
    alts = [element.get("alt") for element in page.all("img")]
    assert alts.count("What speaks least against a higher age") == 1
    assert alts.count("What speaks for a higher age") == 2
    assert page.words.count("speaks least against a higher age") == 1


@pytest.mark.parametrize("kind", MADE)
def test_what_is_missing_is_said(tmp_path, kind):
    task, outputs, targets, _ = MADE[kind]
    add(tmp_path / "run", of_task(task, outputs, targets))
    evidence = DrawnEvidence([], heat=False)
    evidence.features_note, evidence.feature_map = "There are no features: they are <gone>.", lambda keys: None
    words = report(tmp_path / "run", evidence=evidence).words
    assert "There are no features: they are <gone>. There are no heat maps: the <model> was not saved." in words
    assert "Why?" not in words
    assert "The features in a plane" not in words
    assert "Why?" not in report(tmp_path / "run").words
