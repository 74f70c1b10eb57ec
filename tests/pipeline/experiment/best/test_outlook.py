from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.trials import TrialRecord, read_search
from pipeline.experiment.best.budget import Budget
from pipeline.experiment.best.fine_tuning import Evidence
from pipeline.experiment.best.outlook import answers_over_time, outlook_words, tried_words
from pipeline.experiment.best.search import Ended
from stages.tasks.metrics import class_metrics
from tests.pipeline.experiment.best.conftest import Clock

ACCURACY = class_metrics(("a", "b"))["accuracy"]


def record(number, at, score, scored="folds"):
    return TrialRecord(number, f"head-{number}", "a head", "finished", 1.0, at, score=score, scored=scored)


RECORDS = [record(1, 10, 0.8), record(2, 20, 0.79), record(3, 40, 0.86), record(4, 50, 0.99, "validation")]


def search(records=RECORDS, evidence=None):
    return SimpleNamespace(records=records, metric=ACCURACY, evidence=evidence)


def test_the_curve_is_of_what_would_have_been_taken_which_may_fall():
    answered = [replace(RECORDS[0], answer=0.8), replace(RECORDS[2], answer=0.86), replace(RECORDS[3], answer=0.83)]
    assert answers_over_time(answered, ACCURACY) == [(10, 0.8), (40, 0.86), (50, 0.83)]
    about = SimpleNamespace(records=answered, metric=ACCURACY, evidence=None)
    words = outlook_words(about, Budget(clock=Clock()), Ended([]))
    assert words[0] == "The last half of the time brought +3.0 points to the score, out of folds, of what is taken."


def test_without_answers_the_curve_is_of_the_best_so_far_out_of_folds():
    assert answers_over_time(RECORDS, ACCURACY) == [(10, 0.8), (20, 0.8), (40, 0.86)]


def test_it_is_said_what_the_last_half_brought_and_what_comes_next_with_its_time():
    clock = Clock()
    budget = Budget(60, clock=clock)
    clock.now += 60
    upcoming = [(SimpleNamespace(what="RBF SVM"), 30.0), (SimpleNamespace(what="MLP"), 90.0)]
    words = outlook_words(search(), budget, Ended(upcoming))
    assert words[0] == "The last half of the time brought +6.0 points to the score, out of folds, of what is taken."
    assert words[1] == (
        "More minutes would try RBF SVM (about 30 s); then MLP (about 90 s): the same command goes on from here, with a "
        "`budget` of 30 s for the next or 2 min 0 s for these."
    )
    after_reading = outlook_words(search(), budget, Ended(upcoming, resuming=12.2))
    assert "`budget` of 43 s for the next or 2 min 13 s for these" in after_reading[1]


def test_it_is_said_where_nothing_is_left_where_it_was_stopped_and_why_nothing_is_fine_tuned():
    budget = Budget(clock=Clock())
    done = outlook_words(search(RECORDS[:2], Evidence(False, "images are missing")), budget, Ended([]))
    assert done[0] == "The last half of the time brought nothing to the score, out of folds, of what is taken."
    assert "All there is to try has been tried" in done[1]
    assert done[2] == "Fine-tuning is not tried: images are missing."
    assert "It was stopped" in outlook_words(search(), budget, Ended([], interrupted=True))[1]


def test_the_summary_says_what_was_tried_and_what_is_taken(searched):
    words = " ".join(read_search(searched).words)
    assert "5 trials in" in words
    assert "logistic (last), logistic (all), kNN, logistic (weights), ridge." in words
    assert "Taken: " in words
    assert " ms an image (" in words
    assert "of 5 heads is in part luck" in " ".join(compare_runs([searched]).choice.words)


@pytest.mark.parametrize(
    ("of_others", "said"), [(False, "81.5 % out of folds (80.5 % with the luck"), (True, "81.5 % out of folds, ")]
)
def test_what_luck_there_is_in_the_best_of_many_is_said_of_a_head_and_not_of_an_ensemble(of_others, said):
    cv, folder = SimpleNamespace(mean=0.815), SimpleNamespace(directory=SimpleNamespace(name="head-rbf"))
    chosen = SimpleNamespace(label="RBF SVM", cv=cv, of_others=of_others, results=[folder], prediction_seconds=0.01)
    comparison = SimpleNamespace(choice=SimpleNamespace(chosen=chosen, expected=0.805))
    about = SimpleNamespace(finished=RECORDS, records=RECORDS, metric=ACCURACY)
    assert said in " ".join(tried_words(about, comparison))
