import math
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cache.errors import DataError, UsageError
from pipeline.evaluation.folder_lock import fcntl, locked
from pipeline.evaluation.trials import read_search, read_trials
from pipeline.experiment.best.budget import Budget
from pipeline.experiment.best.run_best import BestOptions, _replay_words, _replaying, with_all_depths
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from tests.photographs import make_folder
from tests.pipeline.experiment.best.conftest import HEADS, Clock, search_in
from tests.ready_processes import ReadyProcess
from tests.stages.data.sources.test_folder_masks import saved


def test_all_depths_are_extracted_where_nothing_else_is_asked_for():
    assert with_all_depths(FeatureConfig()).taps == "all"
    assert with_all_depths(FeatureConfig()).pool == "avg,max,std"
    for asked in (FeatureConfig(taps="blocks"), FeatureConfig(cut="layer3"), FeatureConfig(pool="max")):
        assert with_all_depths(asked) == asked


def test_a_budget_without_room_for_one_pass_is_refused_with_what_it_would_take(search_photographs, tmp_path):
    features = {"cache": tmp_path / "cache"}
    with pytest.raises(
        UsageError,
        match=r"one pass over 72 images takes about .*: give it .* s or more; or fewer pixels \(`image_size`",
    ):
        search_photographs(tmp_path / "run", budget=Budget(1e-6, clock=Clock()), features=features)
    search_photographs(tmp_path / "before", 1)
    # what is in the cache takes no time: with the same budget the first trial gives an answer
    search_photographs(tmp_path / "other", budget=Budget(1e-6, clock=Clock()))
    assert (tmp_path / "other" / "results.json").exists()


def test_several_seeds_and_outer_folds_are_refused(search_photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(search_photographs, "data", replace(search_photographs.data, seeds=(0, 1)))
    with pytest.raises(UsageError, match="a search is of one split"):
        search_photographs(tmp_path / "run", 1)
    monkeypatch.setattr(search_photographs, "data", replace(search_photographs.data, seeds=(0,), test="cv"))
    with pytest.raises(UsageError, match="`test` cv"):
        search_photographs(tmp_path / "run", 1)


def test_masks_are_refused_before_anything_is_written(search_photographs, tmp_path, monkeypatch):
    names = [f"images/{number}.jpg masks/{number}.png" for number in range(12)]
    streets = replace(search_photographs.data, data=str(saved(tmp_path / "streets", *names)))
    monkeypatch.setattr(search_photographs, "data", streets)
    with pytest.raises(UsageError, match="`best` searches heads that answer for an image, and here each pixel has a"):
        search_photographs(tmp_path / "run", 1)
    assert not (tmp_path / "run").exists()


def test_heads_that_no_trial_would_be_of_are_refused_before_anything_is_written(search_photographs, tmp_path):
    with pytest.raises(
        UsageError, match=r"`head` attention mil: a search is of heads on vectors \(.*knn, .*; `train` has"
    ):
        search_photographs(tmp_path / "run", 1, head=replace(HEADS, head=("knn", "attention", "mil")))
    assert not (tmp_path / "run").exists()


def hold(directory: Path) -> None:
    with locked(directory):
        (directory / "held").touch()
        time.sleep(120)


@pytest.mark.skipif(fcntl is None, reason="folders have locks where there is fcntl")
def test_two_searches_in_one_run_are_refused_until_one_has_ended_or_was_killed(search_photographs, tmp_path):
    search_photographs(tmp_path / "run", 1)
    before = read_trials(tmp_path / "run")
    other = ReadyProcess(hold, tmp_path / "run" / "seed-0")
    while not (tmp_path / "run" / "seed-0" / "held").exists():
        assert other.poll() is None, other.said("stderr")
        time.sleep(0.01)
    with pytest.raises(UsageError, match="another `best` is searching there: give another `out`, or wait for it"):
        search_photographs(tmp_path / "run", 2)
    assert read_trials(tmp_path / "run") == before
    os.kill(other.pid, signal.SIGKILL)
    other.finish()
    search_photographs(tmp_path / "run", 2)
    assert len(read_trials(tmp_path / "run")) == len(before) + 1


def test_a_replay_is_of_a_search_with_the_same_options(searched, search_photographs, tmp_path):
    with pytest.raises(DataError, match=r"was not made by `best`"):
        search_photographs(tmp_path / "run", replay=tmp_path)
    with pytest.raises(UsageError, match=r"`cv` 3 there and 4 here"):
        search_photographs(tmp_path / "run", replay=searched, head=replace(HEADS, cv=4))


def test_a_replay_is_of_the_same_samples_in_another_run_and_of_some_trials(
    searched, search_photographs, tmp_path, monkeypatch
):
    with pytest.raises(UsageError, match=r"is `out` itself, whose trials would be found: give another `out`"):
        search_photographs(searched, replay=searched)
    shutil.copytree(searched, tmp_path / "there")
    (tmp_path / "there" / "trials.jsonl").unlink()
    with pytest.raises(DataError, match=r"has no trials \(trials.jsonl\): its own command, given again, finds them"):
        search_photographs(tmp_path / "run", replay=tmp_path / "there")
    fewer = make_folder(tmp_path / "fewer", per_class=23)
    monkeypatch.setattr(search_photographs, "data", DataConfig(str(fewer)))
    with pytest.raises(UsageError, match=r"searched on other samples \(images: 3 fewer, \d+ in another split\)"):
        search_photographs(tmp_path / "run", replay=searched)


def test_what_a_prediction_might_cost_is_as_in_the_run_that_is_replayed(searched, search_photographs, tmp_path):
    shutil.copytree(searched, tmp_path / "there")
    replace(read_search(searched), max_predict_ms=7.0).save(tmp_path / "there")
    here = search_in(searched, search_photographs)
    asked = _replaying(here, BestOptions(Budget()), tmp_path / "there")
    assert (asked.max_predict_ms, asked.budget.trials) == (7.0, 5)
    asked = _replaying(here, BestOptions(Budget(), max_predict_ms=3.0), tmp_path / "there")
    assert asked.max_predict_ms == 3.0


def test_a_replay_that_comes_out_otherwise_says_so(searched):
    records = read_trials(searched)
    search = SimpleNamespace(finished=[replace(record, score=0.5) for record in records if record.name == "knn"])
    assert "score otherwise" in _replay_words(search, searched)
    search.finished = [record for record in records if record.number and record.name != "knn"]
    stopped = "4 of 5 trials are made again, and score as in"
    assert _replay_words(search, searched).startswith(stopped)
    assert _replay_words(search, searched).endswith("to the last digit; not made: knn.")
    search.finished = [record for record in records if record.number]
    assert "All 5 trials score as in" in _replay_words(search, searched)


def test_a_replay_has_no_clock():
    assert math.isinf(Budget(trials=3).seconds)
