"""A method on new data beside its own test split: the difference of two independent sets, and what is said of it."""

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.new_data import (
    Evaluation,
    Interval,
    against_own_test,
    difference_of_independent,
    verdict_on_new_data,
)
from tests.pipeline.finished_runs import add, predictions


def wilson(right, count):
    ends = binomtest(right, count).proportion_ci(method="wilson")
    return Interval(right / count, ends.low, ends.high)


@pytest.mark.parametrize(
    ("first", "second", "published"),
    [((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090)), ((10, 10), (0, 20), (0.6791, 1.0))],
)
def test_of_shares_it_is_newcombes_interval(first, second, published):
    """Newcombe 1998, table II, method 10, contrasts (a), (b) and (h)."""
    difference = difference_of_independent(wilson(*first), wilson(*second))
    assert (difference.low, difference.high) == pytest.approx(published, abs=5e-5)


def test_a_score_without_an_interval_has_a_difference_without_one():
    assert not difference_of_independent(Interval(0.5, np.nan, np.nan), Interval(0.9, 0.8, 1.0)).is_known


def rows_of(place, wrong, samples=400):
    for name, count in wrong.items():
        add(place, predictions(np.arange(samples) % 2, np.arange(samples) < count), name=name)
    return compare_runs([place])


@pytest.fixture
def evaluated(tmp_path):
    own, here = (
        rows_of(tmp_path / "own", {"logistic": 40, "ridge": 50}),
        rows_of(tmp_path / "here", {"logistic": 120, "ridge": 52}),
    )
    return own, here


def test_what_the_run_says_to_take_heads_the_verdict_and_nothing_is_chosen(evaluated):
    own, here = evaluated
    compared = against_own_test(here.rows, own.rows, independent=True)
    assert [row.folder for row in compared] == ["linear-logistic", "linear-ridge"]
    assert compared[0].difference.value == pytest.approx(-0.2)
    said = verdict_on_new_data(here, compared, "linear-logistic", "next-year", {})
    assert said.headline.startswith("Logistic, which the run says to take, reaches accuracy 70.0 % (95 % interval ")
    assert "on 400 samples of next-year, and 90.0 %" in said.headline
    assert "-20.0 points (-2" in said.headline
    assert said.headline.endswith("worse by more than two test sets of these sizes differ by chance.")
    assert said.details[0].startswith(
        "From their own test split to here, the other methods change by: ridge -0.5 points"
    )
    assert said.chosen is here.rows[0]  # although ridge is far better here
    evaluation = Evaluation("next-year", here, compared, {})
    assert "70.0 %" in evaluation.table
    assert evaluation.to_json()["against_own_test"][0]["difference"]["value"] == pytest.approx(-0.2)


def test_a_small_change_is_within_chance_and_a_lower_error_is_better(evaluated):
    own, here = evaluated
    compared = against_own_test(here.rows, own.rows, independent=True)
    said = verdict_on_new_data(here, compared, "linear-ridge", "next-year", {})
    assert "within what two test sets of these sizes differ by chance" in said.headline


def test_samples_that_both_sets_have_are_no_independent_ones(evaluated):
    own, here = evaluated
    compared = against_own_test(here.rows, own.rows, independent=False)
    assert all(row.difference is None for row in compared)
    said = verdict_on_new_data(here, compared, "linear-ridge", "next-year", {"train": 7, "test": 3})
    assert said.details[0].startswith(
        "These are not independent of the run: 7 of them are training samples, 3 of them are test samples of it"
    )
    assert Evaluation("next-year", here, compared, {"train": 7}).table.splitlines()[2].endswith(" -")
