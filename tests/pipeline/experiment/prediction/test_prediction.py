"""What is said of an image: words and cells of the task, by a threshold, with all possible classes, how unlike it is."""

from types import SimpleNamespace

import numpy as np
import pytest

from cache.errors import DataError
from pipeline.evaluation.decision import Decision
from pipeline.experiment.prediction.prediction import SavedMethod, answers_of_batch
from stages.finetuning.predicted_batch import PredictedBatch
from stages.tasks.single_label import SingleLabel
from tests.saved_methods import make_images, saved_method

TASK = SingleLabel(("cat", "dog", "eel"))
PROBABILITIES = np.array([[0.6, 0.3, 0.1], [0.2, 0.35, 0.45]], np.float32)


def test_words_and_cells_are_those_of_the_task_and_vectors_say_how_unlike():
    detector = SimpleNamespace(scores=lambda vectors: vectors[:, 0])
    vectors = np.array([[0.5], [2.0]], np.float32)
    answers = list(answers_of_batch(PredictedBatch([0, 1], PROBABILITIES, [], vectors), TASK, detector, None))
    assert [answer.cells["class"] for answer in answers] == ["cat", "eel"]
    assert [answer.unlike for answer in answers] == [0.5, 2.0]
    without = list(answers_of_batch(PredictedBatch([0, 1], PROBABILITIES, []), TASK, detector, None))
    assert [answer.unlike for answer in without] == [None, None]


def test_a_decision_names_all_classes_that_are_possible():
    decision = Decision(least=0.25)
    answers = list(answers_of_batch(PredictedBatch([0, 1], PROBABILITIES, []), TASK, None, decision))
    assert [answer.cells["possible"] for answer in answers] == ["cat|dog", "dog|eel"]
    assert answers[0].words == "cat  0.600  possible: cat, dog"


def test_a_method_is_read_without_its_network(tmp_path, caplog):
    directory = saved_method(tmp_path, "resnet18", "table", make_images(tmp_path / "images", 2), 32)
    method = SavedMethod.read(directory)
    assert (method.takes_images, method.columns.names, method.task.class_names) == (
        False,
        ["area", "kind"],
        ("cat", "dog", "eel"),
    )
    with caplog.at_level("INFO", "cutonce"):
        assert method.detector() is None
    assert "none is marked as unlike" not in caplog.text  # it opens no image
    with pytest.raises(DataError, match="holds no trained model"):
        SavedMethod.read(tmp_path)
