"""The next probable classes, and no class where none is probable enough."""

from dataclasses import replace

import numpy as np
import pytest

from cache.errors import UsageError
from pipeline.experiment.prediction.prediction import Prediction
from pipeline.experiment.prediction.top_classes import require_top_classes, with_top_classes
from stages.tasks.multi_label import MultiLabel
from stages.tasks.single_label import SingleLabel

TASK = SingleLabel(["cat", "dog", "eel"])


def prediction(*probabilities):
    name = TASK.class_names[int(np.argmax(probabilities))]
    return Prediction(
        "a.png", f"{name}  {max(probabilities):.3f}", {"class": name}, np.array(probabilities, np.float32)
    )


def test_the_most_probable_come_first_and_the_class_stays():
    (one,) = with_top_classes([prediction(0.2, 0.7, 0.1)], TASK, top_k=2)
    assert one.words == "dog 0.700  cat 0.200"
    assert one.cells == {
        "class": "dog",
        "top_1": "dog",
        "top_1_probability": "0.700000",
        "top_2": "cat",
        "top_2_probability": "0.200000",
    }


def test_below_the_threshold_no_class_is_predicted():
    sure, unsure = with_top_classes([prediction(0.2, 0.7, 0.1), prediction(0.5, 0.3, 0.2)], TASK, abstain_below=0.6)
    assert (sure.cells["class"], unsure.cells["class"]) == ("dog", "")
    assert unsure.words == "none (cat 0.500 is below 0.6)"
    unchanged = [prediction(0.5, 0.3, 0.2)]
    assert with_top_classes(unchanged, TASK) == unchanged


def test_what_is_predicted_by_a_threshold_and_what_is_possible_are_printed_beside_the_most_probable():
    by_threshold = replace(prediction(0.2, 0.7, 0.1), words="eel  0.100", cells={"class": "eel"})
    possible = replace(prediction(0.5, 0.3, 0.2), words="cat  0.500  possible: cat, dog", cells={"class": "cat"})
    for given, top_k, below, words in (
        (by_threshold, 2, None, "eel  0.100; most probable: dog 0.700  cat 0.200"),
        (by_threshold, None, 0.6, "none (eel 0.100 is below 0.6)"),
        (possible, 2, None, "cat 0.500  dog 0.300  possible: cat, dog"),
        (possible, None, 0.6, "none (cat 0.500 is below 0.6)  possible: cat, dog"),
        (possible, 1, 0.6, "none (cat 0.500 is below 0.6); most probable: cat 0.500  possible: cat, dog"),
        (prediction(0.5, 0.3, 0.2), 2, 0.6, "none (cat 0.500 is below 0.6); most probable: cat 0.500  dog 0.300"),
    ):
        (one,) = with_top_classes([given], TASK, top_k, below)
        assert one.words == words


def test_what_cannot_be_is_refused():
    for task, top_k, below, said in (
        (TASK, 0, None, "`top_k` 0 has to be from 1 to 3"),
        (TASK, None, 1.5, r"`abstain_below` 1\.5 has to be above 0"),
        (MultiLabel(["a", "b"]), 1, None, "`top_k` is for one class a sample, and the task is multi_label"),
    ):
        with pytest.raises(UsageError, match=said):
            require_top_classes(task, top_k, below)
