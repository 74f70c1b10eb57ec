import math

import pytest

from cache.errors import UsageError
from pipeline.experiment.best.budget import Budget, parse_budget
from tests.pipeline.experiment.best.conftest import Clock


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("3m", 180), ("1h30m", 5400), ("1h", 3600), ("2m30s", 150), ("1.5h", 5400), ("10min", 600)],
)
def test_a_budget_is_a_time_with_units(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "m", "0s", "3 hours", "-3m", "30s2m"])
def test_what_is_no_budget_is_refused_with_examples(text):
    with pytest.raises(UsageError, match="90s, 3m, 1h30m"):
        parse_budget(text)


def test_a_trial_begins_if_it_fits_and_the_first_in_any_case():
    clock = Clock()
    budget = Budget(60, clock=clock)
    assert budget.allows(1, 1000)
    clock.now += 50
    assert budget.allows(2, 10)
    assert not budget.allows(2, 10.1)
    clock.now += 20
    assert budget.left == -10
    assert not budget.allows(3, 0)


def test_trials_are_counted_whatever_they_take():
    budget = Budget(trials=2, clock=Clock())
    assert [budget.allows(number, math.inf) for number in (1, 2, 3)] == [True, True, False]
