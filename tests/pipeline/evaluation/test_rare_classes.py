import numpy as np

from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.rare_classes import rare_class_words
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from tests.pipeline.finished_runs import add, of_task, predictions


def test_classes_of_hardly_any_test_image_are_named_with_their_number(tmp_path):
    labels = np.repeat([0, 1, 2], [30, 5, 4])
    add(tmp_path / "run", predictions(labels, labels < 0, classes=4))
    comparison = compare_runs([tmp_path / "run"])
    (words,) = rare_class_words(comparison.rows[0])
    assert "fewer than 5 test images are of class 2 (4), class 3 (0)." in words
    assert words in comparison.verdict.details


def test_a_label_is_as_rare_as_the_images_that_have_it(tmp_path):
    true = np.zeros((20, 2), dtype=np.float32)
    true[:10, 0], true[:2, 1] = 1, 1
    add(tmp_path / "run", of_task(MultiLabel(["sky", "dog"]), 0.2 + 0.6 * true, true))
    (words,) = rare_class_words(compare_runs([tmp_path / "run"]).rows[0])
    assert "of dog (2)." in words


def test_numbers_have_no_classes(tmp_path):
    true = np.arange(12.0)[:, None]
    add(tmp_path / "run", of_task(Regression(("x",), (0.0,), (1.0,)), true, true))
    assert rare_class_words(compare_runs([tmp_path / "run"]).rows[0]) == []
