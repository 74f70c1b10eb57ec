"""Of the settings of depths the better ones go on to all rows, by what a head says on a part of them."""

from dataclasses import replace

import pytest

from stages.config.head_registry import find_head
from stages.fitting import halving
from stages.fitting.depths import best_scores
from stages.fitting.fit_head import get_fit, train_head
from stages.fitting.halving import DepthSetting, halve, ranked_settings
from tests.stages.fitting.depth_rows import problem_of, rows_of

ALL = [DepthSetting(depths, weight) for depths in ("last", "blocks", "all") for weight in ("sqrt", "equal")]


@pytest.fixture
def problem():
    train, val = (rows_of(count, seed, told_by=slice(0, 150)) for count, seed in ((120, 1), (40, 2)))
    return problem_of(train, val, block_weight=("sqrt", "equal"), scalers=("none",))


def test_settings_are_ranked_by_the_best_score_of_each(problem):
    selection = train_head("ridge", problem).selection
    ranked = ranked_settings(selection)
    assert set(ranked) == set(ALL)
    best = max(selection, key=lambda each: each["score"])
    assert ranked[0] == (best["depths"], best["block weight"])
    assert ranked[0].depths == "all"
    # what was fitted to a part of the rows does not count
    assert ranked_settings([{"depths": "last", "block weight": "sqrt", "score": 1.0, "rows": 10}]) == []


def test_the_half_that_goes_on_is_ranked_anew_by_the_head_on_a_part_of_the_rows(problem, monkeypatch):
    monkeypatch.setattr(halving, "FEWEST_ROWS", 10)
    asked = []

    def counted(kind, fit, taps, part):
        asked.append((kind.name, len(part.train) + len(part.val), part.config.depths, part.config.block_weight))
        return best_scores(kind, fit, taps, part)

    monkeypatch.setattr(halving, "best_scores", counted)
    by_ridge = [DepthSetting("last", "sqrt"), DepthSetting("all", "sqrt"), DepthSetting("all", "equal"), *ALL[2:5]]
    ranked = halve("logistic", problem, by_ridge)
    assert set(ranked) == {*by_ridge[:3]}
    assert ranked[0].depths == "all"  # which ridge had ranked second, and tells the classes apart
    assert asked == [("logistic", 40, ("last",), ("sqrt",)), ("logistic", 40, ("all",), ("sqrt", "equal"))]


def test_a_part_has_its_share_of_each_class_and_is_the_same_each_time(problem, monkeypatch):
    monkeypatch.setattr(halving, "FEWEST_ROWS", 10)
    part = halving._part(problem)
    counts = [(part.train.labels == label).sum() for label in range(3)]
    assert [abs(count - (problem.train.labels == label).sum() / 4) < 1.5 for label, count in enumerate(counts)] == [
        True
    ] * 3
    assert (part.train.features == halving._part(problem).train.features).all()
    assert not (part.train.features == halving._part(replace(problem, seed=1)).train.features).all()


def test_of_few_rows_the_rung_before_decides(problem, monkeypatch):
    monkeypatch.setattr(halving, "best_scores", None)
    assert halve("logistic", problem, ALL) == ALL[:3]


def test_scores_are_those_of_a_search(problem):
    scores = dict(best_scores(find_head("ridge"), get_fit("ridge"), problem.taps, problem))
    found = {(choice.depths, choice.weighting): score for choice, score in scores.items()}
    selection = train_head("ridge", replace(problem, shared={})).selection
    for setting in ALL:
        mine = [each["score"] for each in selection if (each["depths"], each["block weight"]) == setting]
        assert found[setting] == pytest.approx(max(mine))
