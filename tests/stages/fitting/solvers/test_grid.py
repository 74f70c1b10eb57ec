"""The way that a search takes over its settings."""

import numpy as np
import pytest

from stages.fitting.solvers.grid import Grid, GridSearchResult, climbed_next, searched_part, surviving_scalers
from tests.stages.fitting.rows_of_digits import numbered_classes

VALUES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def grid_of(values=VALUES, scalings=("none", "standard")):
    return Grid(None, values, scalings, numbered_classes(3))


def test_a_score_of_a_part_of_the_rows_is_never_the_choice():
    search_result = GridSearchResult(
        [{"C": 1.0, "scaler": "none", "score": 0.9, "rows": 10}, {"C": 2.0, "scaler": "none", "score": 0.8}]
    )
    assert search_result.chosen["C"] == 2.0


def test_of_equal_scores_the_smallest_c_is_the_choice():
    found = [{"C": c, "scaler": "none", "score": 0.8} for c in (1.0, 1e-2, 1e-1)]
    assert GridSearchResult(found).chosen["C"] == 1e-2


def test_many_rows_are_searched_in_a_part_drawn_by_the_seed_and_few_rows_or_settings_are_not():
    part = searched_part(grid_of(), 20_000, seed=3)
    assert len(np.unique(part)) == 20_000 // 8
    assert np.array_equal(part, searched_part(grid_of(), 20_000, seed=3))
    assert not np.array_equal(part, searched_part(grid_of(), 20_000, seed=4))
    assert searched_part(grid_of(), 15_999, seed=3) is None
    assert searched_part(grid_of(scalings=("none",)), 20_000, seed=3) is None


@pytest.mark.parametrize("start", range(len(VALUES)))
@pytest.mark.parametrize("top", range(len(VALUES)))
def test_a_climb_ends_at_the_top_once_what_lies_beside_it_is_known_and_tries_smaller_values_first(start, top):
    scores, order = {}, []
    while (number := climbed_next(grid_of(), start, scores)) is not None:
        order.append(number)
        scores[number] = -abs(number - top) / 10
    assert order[0] == start
    assert {number for number in (top - 1, top, top + 1) if 0 <= number < len(VALUES)} <= set(order)
    assert set(order) <= set(range(min(start, top) - 1, max(start, top) + 2))
    if start:
        assert order[1] == start - 1


def test_scalings_that_are_clearly_behind_do_not_survive_a_part_of_the_rows():
    scores = {("none", 1e-2): 0.80, ("none", 1.0): 0.90, ("standard", 1e-2): 0.899, ("l2", 1.0): 0.5}
    candidates = [{"C": c, "scaler": name, "score": score} for (name, c), score in scores.items()]
    assert surviving_scalers(grid_of(), candidates) == {"none": 1.0, "standard": 1e-2}


def test_a_path_ends_once_two_values_in_a_row_are_clearly_below_its_best():
    assert not grid_of().should_stop([0.5, 0.9])
    assert not grid_of().should_stop([0.9, 0.5, 0.9])
    assert not grid_of().should_stop([0.9, 0.899, 0.899])
    assert grid_of().should_stop([0.5, 0.9, 0.8, 0.7])
