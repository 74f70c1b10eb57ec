"""A choice is worth what it comes to on samples that it did not see."""

import numpy as np
import pytest

from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.console import format_tables
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.results import evaluate_test, fold_scores
from tests.pipeline.finished_runs import predictions, result

HALVES = (np.arange(0, 40), np.arange(40, 80))
LABELS = np.arange(80) % 2


def leave(run, name, wrong, validation, protocol="each of 2 groups"):
    """Leave a method that is tested in two folds, with what it validates with in each and at last."""
    for number, (rows, val) in enumerate(zip(HALVES, validation, strict=False), 1):
        of_fold = predictions(LABELS[rows], wrong[rows], images=rows.tolist())
        result(of_fold, name=name, val=val).save(run / "seed-0" / f"fold-{number}" / f"linear-{name}", of_fold)
    whole = predictions(LABELS, wrong)
    whole = Predictions(whole.task, whole.keys, whole.locations, whole.statistics, ["a"] * 40 + ["b"] * 40)
    test = {**evaluate_test(whole.task, whole.statistics, 0), **({"tested": protocol} if protocol else {})}
    made = result(whole, name=name, val=validation[-1], test={**test, **fold_scores(whole)})
    made.save(run / "seed-0" / f"linear-{name}", whole)


def test_the_choice_is_made_by_what_each_fold_validates_with_and_scored_on_what_it_left_out(tmp_path):
    wrong = np.isin(np.arange(80), [0, 1, 2, 3, 40])  # four of the first half, one of the second
    leave(tmp_path, "logistic", wrong, (0.9, 0.7, 0.9))
    leave(tmp_path, "svm", ~wrong, (0.8, 0.8, 0.8))  # which the second fold chooses
    comparison = compare_runs([tmp_path])
    nested = comparison.choice_in_folds
    assert nested.taken == {"logistic": 1, "SVM": 1}
    assert nested.score == pytest.approx((36 + 1) / 80)
    assert nested.ci95[0] < nested.score < nested.ci95[1]
    assert comparison.choice.chosen.score == pytest.approx(75 / 80)  # of the one that all samples choose
    assert "Chosen anew within each fold" in format_tables(comparison, 400)
    assert "never by the predictions that test them" in comparison.verdict_text
    assert "(logistic once, SVM once), the method to take reaches 46.2 %" in nested.words


def test_there_is_none_of_one_method_nor_where_a_test_split_is(tmp_path):
    right = np.zeros(80, dtype=bool)
    leave(tmp_path / "one", "logistic", right, (0.9, 0.9, 0.9))
    assert compare_runs([tmp_path / "one"]).choice_in_folds is None
    for name in ("logistic", "svm"):
        leave(tmp_path / "split", name, right, (0.9, 0.9, 0.9), protocol="")
    assert compare_runs([tmp_path / "split"]).choice_in_folds is None
