import numpy as np
import pytest

from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.one_line import chosen_method, one_line
from tests.pipeline.finished_runs import add, predictions

LABELS = np.arange(60) % 2


def line(run, mistakes):
    """The line of a run whose heads make so many mistakes on the test images, and validate as they are named."""
    for name, (wrong, val) in mistakes.items():
        add(run, predictions(LABELS, np.arange(60) < wrong), name=name, val=val)
    return one_line(compare_runs([run]))


@pytest.mark.parametrize(
    ("mistakes", "words"),
    [
        ({"svm": (3, 0.9)}, "The SVM head reaches 95.0 %; it is the only method"),
        ({"svm": (3, 0.9), "ridge": (4, 0.8)}, "Take the SVM head: 95.0 %; the other is not told apart from it"),
        (
            {"svm": (3, 0.9), "ridge": (4, 0.8), "knn": (5, 0.7)},
            "Take the SVM head: 95.0 %; both others are not told apart from it",
        ),
        (
            {"svm": (3, 0.9), "ridge": (4, 0.8), "knn": (30, 0.7)},
            "Take the SVM head: 95.0 %; one other is not told apart from it",
        ),
        ({"svm": (3, 0.9), "knn": (30, 0.7)}, "Take the SVM head: 95.0 %; the other is behind it"),
        (
            {"svm": (30, 0.9), "knn": (3, 0.7)},
            "Take the SVM head: 50.0 %; kNN scored more on the test images",
        ),
    ],
)
def test_the_verdict_in_one_line(tmp_path, mistakes, words):
    assert line(tmp_path, mistakes) == words


def test_what_trains_on_images_and_was_chosen_is_held_against_the_best_head(tmp_path):
    add(tmp_path, predictions(LABELS, np.arange(60) < 20), name="svm", val=0.5)
    add(tmp_path, predictions(LABELS, np.arange(60) < 3), method="finetune", name="all", val=0.9)
    comparison = compare_runs([tmp_path])
    assert chosen_method(comparison).label == "fine-tune all"
    assert one_line(comparison) == "Take fine-tune all: 95.0 %; it is ahead of the SVM head on the test images"
