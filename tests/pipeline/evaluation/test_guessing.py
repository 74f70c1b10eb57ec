import numpy as np

from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.guessing import guessing_words
from stages.tasks.regression import Regression
from tests.pipeline.finished_runs import add, of_task


def test_numbers_are_held_against_the_best_constant(tmp_path):
    task, random = Regression(("x",), (0.0,), (1.0,)), np.random.default_rng(0)
    true = random.normal(size=(60, 1))
    noise, near = random.normal(size=(60, 1)), true + 0.2 * random.normal(size=(60, 1))
    add(tmp_path / "noise", of_task(task, noise, true))
    add(tmp_path / "near", of_task(task, near, true))
    (words,) = guessing_words(compare_runs([tmp_path / "noise"]).rows[0])
    assert "not shown to beat guessing" in words
    assert guessing_words(compare_runs([tmp_path / "near"]).rows[0]) == []
