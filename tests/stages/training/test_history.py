"""What a training says of itself, and which epoch is the best."""

import math

import pytest

from stages.tasks.base import Metric
from stages.tasks.single_label import SingleLabel
from stages.training.history import Epoch, RunningMetrics, TrainResult, validation_rank

ACCURACY = SingleLabel("ab").metrics["accuracy"]


def result_of(*validated):
    """A history of epochs of these scores and losses, selected by score."""
    result = TrainResult()
    for number, (score, loss) in enumerate(validated):
        result.add(Epoch(number, None, None, loss, score, 0.0, 0.0), score)
    return result


@pytest.mark.parametrize(
    ("validated", "best"),
    [
        ([(0.5, 1.0), (0.7, 2.0), (0.6, 0.1)], 1),  # the score decides
        ([(0.7, 1.0), (0.7, 0.5), (0.7, 0.6)], 1),  # of equals the loss
        ([(0.7, 0.5), (0.7, 0.5)], 0),  # of the same the first
        ([(math.nan, math.nan), (0.1, 5.0)], 1),  # anything is better than nothing
    ],
)
def test_the_best_epoch_has_the_best_score_of_equals_the_lowest_loss_of_the_same_came_first(validated, best):
    result = result_of(*validated)
    assert result.best is result.history[best]
    assert result.best_selection == validated[best][0]
    ranks = [validation_rank(*pair) for pair in validated]
    assert ranks.index(max(ranks)) == best


def test_an_epoch_is_chosen_by_what_selects_and_not_by_the_score_where_these_differ():
    result = TrainResult()
    for number, (score, selection) in enumerate([(0.9, 0.2), (0.8, 0.6), (0.7, 0.4)]):
        result.add(Epoch(number, None, None, 1.0, score, 0.0, 0.0), selection)
    assert result.best.epoch == 1


def test_epochs_without_improvement_are_counted_from_the_first_lowest_loss():
    assert TrainResult().epochs_without_improvement() == 0
    assert result_of((0.1, 3.0), (0.9, 1.0), (0.2, 1.0), (0.3, 2.0)).epochs_without_improvement() == 2
    assert result_of((0.1, 3.0), (0.0, 1.0)).epochs_without_improvement() == 0


def test_sums_of_parts_are_those_of_the_whole():
    tally = RunningMetrics()
    tally.add(RunningMetrics({"main": 3.0, "l1": 0.5}, [2.0], 3))
    tally.add(RunningMetrics({"main": 1.0, "l1": 0.25}, [1.0], 4))
    assert tally == RunningMetrics({"main": 4.0, "l1": 0.75}, [3.0], 7)
    assert tally.loss == 4.75 / 7
    assert tally.means() == {"main": 4 / 7, "l1": 0.75 / 7}
    assert tally.score(ACCURACY) == 3 / 7
    assert RunningMetrics.from_json(tally.to_json()) == tally


def test_a_metric_that_is_no_function_of_sums_is_not_told_of_training():
    median = Metric("median", "median", lambda statistics: 0.0)
    assert RunningMetrics({"main": 1.0}, [], 2).score(median) is None


def test_a_row_has_the_names_on_disk_that_it_always_had_and_comes_back():
    epoch = Epoch(3, 0.5, 0.8, 0.6, 0.7, lr=0.1, seconds=2.0, terms={"main": 0.5}, lrs={"head": 0.1})
    row = epoch.to_json("accuracy")
    assert list(row) == [
        *("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "rate", "seconds", "terms", "rates")
    ]
    assert Epoch.from_json(row, "accuracy") == epoch


def test_the_scores_of_a_row_are_called_as_their_metric_is_and_rows_of_before_are_read():
    epoch = Epoch(3, 0.5, 0.8, 0.6, 0.7, lr=0.1, seconds=2.0)
    row = epoch.to_json("f1_macro")
    assert (row["train_f1_macro"], row["val_f1_macro"]) == (0.8, 0.7)
    assert not {"train_accuracy", "val_accuracy"} & set(row)
    assert Epoch.from_json(row, "f1_macro") == Epoch.from_json(epoch.to_json("accuracy"), "f1_macro") == epoch
