import numpy as np

from pipeline.evaluation.comparison import compare_runs
from pipeline.report.page import write_report
from tests.pipeline.evaluation.test_decision import TASK, sure
from tests.pipeline.finished_runs import add
from tests.pipeline.report.pages import Page


def drawn(samples, seed):
    rng = np.random.default_rng(seed)
    target = (rng.random(samples) < 0.3).astype(np.int64)
    return sure(1 / (1 + np.exp(-rng.normal(2 * target - 1.5))), target)


def page(run, **options):
    add(run, drawn(400, 0), validation=drawn(300, 1), class_names=TASK.class_names)
    path = write_report(run, compare_runs([run]), options, {}, [])
    return Page(path).words.replace("\N{NO-BREAK SPACE}", " ")


def test_the_page_says_what_is_missed_at_one_half_and_at_the_threshold_that_was_chosen(tmp_path):
    test = drawn(400, 0).statistics
    positive, found = test["target"] == 1, test["probabilities"][:, 1] >= 0.5
    words = page(tmp_path, threshold_for="cost=5:1")
    missed, false_alarms = (positive & ~found).sum(), (~positive & found).sum()
    row = f"at 0.5 0.500 {missed} {100 * missed / positive.sum():.1f} % {false_alarms} "
    assert row in words
    assert f"{5 * missed + false_alarms} for costs of 5 to 1" in words
    assert "A missed one costs 5, a false alarm 1" in words
    assert (tmp_path / "figures" / "roc.png").exists()
    assert (tmp_path / "figures" / "precision-recall.png").exists()


def test_the_page_says_how_often_sets_hold_the_true_class(tmp_path):
    words = page(tmp_path, coverage=0.8)
    assert "is to hold the true one in 80 % of the cases holds it in " in words
    assert "for 95 % recall" in words  # where none is asked for
    assert "the temperature that fits held-out images best, its logits would have log loss" in words


def test_a_run_that_kept_nothing_to_choose_by_has_a_page_all_the_same(tmp_path):
    add(tmp_path, drawn(400, 0), class_names=TASK.class_names)
    words = Page(write_report(tmp_path, compare_runs([tmp_path]), {}, {}, [])).words
    assert "What is missed, and what is a false alarm" in words
    assert "for 95" not in words
    assert "possible classes" not in words
