from dataclasses import replace

import pytest

from cache.errors import DataError
from pipeline.evaluation.trials import SearchSummary, TrialRecord, read_search, read_trials, write_trials
from pipeline.run_layout import BEST, TRIALS

RIDGE = TrialRecord(1, "ridge", "ridge", "finished", 2.0, 3.0, "linear-ridge", 0.9, "folds", "", {"head": "ridge"})
FAILED = TrialRecord(2, "knn", "kNN", "failed", 0.1, 3.1, reason="no memory", details={"setting": ["all", "sqrt"]})
SUMMARY = SearchSummary(
    600.0, 1, 3.0, {"folder": "linear-ridge"}, ("A word.",), ({"what": "kNN", "seconds": 1.0},), 20.0
)


def test_trials_come_back_as_they_were_left(tmp_path):
    assert read_trials(tmp_path) == []
    write_trials(tmp_path, [RIDGE, FAILED])
    assert read_trials(tmp_path) == [RIDGE, FAILED]
    assert len((tmp_path / TRIALS).read_text().splitlines()) == 2


def test_a_summary_comes_back_as_it_was_left(tmp_path):
    assert read_search(tmp_path) is None
    SUMMARY.save(tmp_path)
    assert read_search(tmp_path) == SUMMARY


def test_names_of_later_versions_are_passed_over(tmp_path):
    write_trials(tmp_path, [RIDGE])
    path = tmp_path / TRIALS
    path.write_text(path.read_text().replace('"number"', '"later": 1, "number"'))
    assert read_trials(tmp_path) == [RIDGE]


@pytest.mark.parametrize("content", ["{", "[1]\n", '{"number": 1}\n'])
def test_damage_is_told_with_what_helps(tmp_path, content):
    (tmp_path / TRIALS).write_text(content)
    with pytest.raises(DataError, match=r"trials.jsonl is damaged.*delete it"):
        read_trials(tmp_path)


def test_a_summary_that_lacks_something_is_told(tmp_path):
    replace(SUMMARY, options={"seed": 0}).save(tmp_path)
    (tmp_path / BEST).write_text('{"budget": null}')
    with pytest.raises(DataError, match=r"best.json is damaged"):
        read_search(tmp_path)
